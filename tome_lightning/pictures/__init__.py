"""Pictures of merging: which patches became one token."""

from tome_lightning.pictures.callback import GroupPictures
from tome_lightning.pictures.groups import Groups, trace_groups
from tome_lightning.pictures.visualize import visualize

__all__ = ["GroupPictures", "Groups", "trace_groups", "visualize"]
