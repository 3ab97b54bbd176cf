"""The results of runs side by side: ``python -m tome_lightning compare``."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.compare.command import main as main
    from tome_lightning.commands.compare.runs import compare as compare

__getattr__, __all__ = lazily(__name__, {".runs": "compare", ".command": "main"})
