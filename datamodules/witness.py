"""What a listing has seen of the folders it read: by it a later start knows whether they are the same.

Whatever adds, removes or renames something in a folder sets the folder's change time (ctime), which no
program can set back, as `tar` and `rsync` do with its modification time. So equal change times prove
equal listings, where

- the file system keeps them as POSIX says: those of `LOCAL` do, on Linux; of network and FUSE file
  systems, whose times other machines or programs make, it is not known;
- nothing had changed within `SETTLED` seconds before the listing: clocks of files have ticks, in which a
  second change would not show;
- there is no link to a file, or to nothing: what a link leads to may become another thing without a
  trace in the folder of the link.
"""

import os
import re
import time
from pathlib import Path

SETTLED = 2.0  # seconds; ext3 counts whole ones
LOCAL = frozenset(
    "ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs jfs tmpfs overlay squashfs erofs iso9660".split()
)
State = tuple[int, int, int]  # device, inode, change time in nanoseconds


class Witness:
    """Notes the state of folders before they are listed.

    Attributes:
        folders: State of each folder; None for one that was not there.
        links: Whether a link was met that is none to a folder.
        started: When the first of them was to be listed, as `time.time()` tells.
    """

    def __init__(self) -> None:
        self.started = time.time()
        self.folders: dict[str, State | None] = {}
        self.links = False

    def note(self, folder: str) -> None:
        """Note the state of a folder that is to be listed."""
        self.folders.setdefault(folder, state(folder))

    def take(self, other: "Witness") -> None:
        """Note all that another has noted."""
        self.started = min(self.started, other.started)
        self.folders |= other.folders
        self.links |= other.links

    def doubt(self) -> str | None:
        """Why equal states would not prove an equal listing, in words; None where they do."""
        if self.links:
            return "it has links to files, which change without a trace in their folder"
        there = {path: known for path, known in self.folders.items() if known is not None}
        devices = {known[0]: path for path, known in there.items()}
        for path in devices.values():
            kind = file_system(path)
            if kind not in LOCAL:
                return f"it is on {kind}, whose folders need not show every change"
        latest = max((known[2] for known in there.values()), default=0)
        if latest > (self.started - SETTLED) * 1e9:
            return "it was changed a moment ago"
        return None


def state(folder: str) -> State | None:
    """Device, inode and change time of a folder, links followed; None where there is none."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def file_system(path: str) -> str:
    """Type of the file system of a path, such as `ext4`; else `an unknown file system`."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return "an unknown file system"
    real, best, kind = os.path.realpath(path), "", "an unknown file system"
    for line in mounts:  # `36 35 98:0 /root /mount/point options - type source options`
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), left.split(" ")[4])
        inside = real == point or real.startswith(os.path.join(point, ""))
        if inside and len(point) >= len(best):  # of two at one point the later one is on top
            best, kind = point, right.split(" ")[0]
    return kind
