"""Pictures of merging: which patches became one token."""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.visualize.callback import GroupPictures
    from tome_lightning.commands.visualize.command import main
    from tome_lightning.commands.visualize.groups import Groups, trace_groups
    from tome_lightning.commands.visualize.pictures import visualize

__all__ = ["GroupPictures", "Groups", "main", "trace_groups", "visualize"]

__getattr__ = lazily(
    __name__,
    {
        "GroupPictures": "tome_lightning.commands.visualize.callback",
        "Groups": "tome_lightning.commands.visualize.groups",
        "main": "tome_lightning.commands.visualize.command",
        "trace_groups": "tome_lightning.commands.visualize.groups",
        "visualize": "tome_lightning.commands.visualize.pictures",
    },
)
