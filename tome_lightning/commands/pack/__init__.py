"""A data set written into tar shards: ``python -m tome_lightning pack``."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.pack.command import main
    from tome_lightning.commands.pack.packing import pack

__all__ = ["main", "pack"]

__getattr__ = lazily(
    __name__,
    {
        "main": "tome_lightning.commands.pack.command",
        "pack": "tome_lightning.commands.pack.packing",
    },
)
