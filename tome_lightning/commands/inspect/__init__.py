"""What a checkpoint is, and where it comes from: ``python -m tome_lightning inspect``."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.inspect.command import main
    from tome_lightning.commands.inspect.facts import inspect_checkpoint

__all__ = ["inspect_checkpoint", "main"]

__getattr__ = lazily(
    __name__,
    {
        "inspect_checkpoint": "tome_lightning.commands.inspect.facts",
        "main": "tome_lightning.commands.inspect.command",
    },
)
