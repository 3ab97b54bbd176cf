"""Files of a data set that cannot be read: ``python -m tome_lightning scan``."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.scan.command import main
    from tome_lightning.commands.scan.walk import scan

__all__ = ["main", "scan"]

__getattr__ = lazily(
    __name__,
    {
        "main": "tome_lightning.commands.scan.command",
        "scan": "tome_lightning.commands.scan.walk",
    },
)
