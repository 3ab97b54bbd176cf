"""Pictures of merging: which patches became one token."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.visualize.callback import GroupPictures as GroupPictures
    from tome_lightning.commands.visualize.command import main as main
    from tome_lightning.commands.visualize.groups import Groups as Groups
    from tome_lightning.commands.visualize.groups import trace_groups as trace_groups
    from tome_lightning.commands.visualize.pictures import visualize as visualize

__getattr__, __all__ = lazily(
    __name__,
    {
        ".callback": "GroupPictures",
        ".groups": "Groups trace_groups",
        ".command": "main",
        ".pictures": "visualize",
    },
)
