"""Files of a data set that cannot be read: ``python -m tome_lightning scan``."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.scan.command import main as main
    from tome_lightning.commands.scan.walk import scan as scan

__getattr__, __all__ = lazily(__name__, {".command": "main", ".walk": "scan"})
