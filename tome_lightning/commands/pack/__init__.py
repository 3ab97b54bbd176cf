"""A data set written into tar shards: ``python -m tome_lightning pack``."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.pack.command import main as main
    from tome_lightning.commands.pack.packing import pack as pack

__getattr__, __all__ = lazily(__name__, {".command": "main", ".packing": "pack"})
