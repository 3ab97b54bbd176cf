"""The results of runs side by side: ``python -m tome_lightning compare``."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.compare.command import main
    from tome_lightning.commands.compare.runs import compare

__all__ = ["compare", "main"]

__getattr__ = lazily(
    __name__,
    {
        "compare": "tome_lightning.commands.compare.runs",
        "main": "tome_lightning.commands.compare.command",
    },
)
