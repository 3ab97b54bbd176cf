"""Whether a disk has room for what is to be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.shards.member import BLOCK, TABLES, member
from tome_lightning.errors import UsageError

if TYPE_CHECKING:
    from datamodules.filelist import LabelledFiles

LOOKED_AT = (
    20_000  # files of a split whose sizes are asked for; network disks take a second for 1,000
)


def check_room(
    out: Path, root: str, left: Mapping[str, tuple[LabelledFiles, int]], converted: bool
) -> None:
    """Refuse a disk without room for the files that are left.

    Args:
        out: Folder of the shards.
        root: Folder that relative paths start from.
        left: Of each split its files, and how many are done.
        converted: Whether they become smaller files, of sizes that nobody knows yet: then a tenth of
            what they have has to be free.

    Raises:
        UsageError: Gives both sizes.
    """
    needed = sum(_bytes(root, files, first) for files, first in left.values())
    needed = needed // 10 if converted else needed
    free = shutil.disk_usage(out).free
    if needed > free:
        raise UsageError(
            f"{out} has {free / 1e9:,.1f} GB free, and the shards take about {needed / 1e9:,.1f} GB. "
            "Make room, or name a folder on another disk."
        )


def _bytes(root: str, files: LabelledFiles, first: int) -> int:
    """About how much room the files from `first` on take, by the sizes of some of them."""
    count = len(files) - first
    if not count:
        return 0
    rows = np.unique(np.linspace(first, len(files) - 1, min(count, LOOKED_AT)).astype(np.int64))
    sizes = [_size(root, files.path(int(row))) + 4 * BLOCK for row in rows]
    return round(sum(sizes) / len(sizes) * count)


def _size(root: str, path: str) -> int:
    """Bytes of a file or a member; 0 where that is not known."""
    place = member(path)
    if place is not None:
        return 0 if place.shard.endswith(TABLES) else place.second
    try:
        return os.stat(os.path.join(root, path)).st_size
    except OSError:
        return 0
