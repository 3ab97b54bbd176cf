"""What a checkpoint is, and where it comes from: ``python -m tome_lightning inspect``."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.inspect.command import main as main
    from tome_lightning.commands.inspect.facts import inspect_checkpoint as inspect_checkpoint

__getattr__, __all__ = lazily(__name__, {".facts": "inspect_checkpoint", ".command": "main"})
