"""One tar shard: written under a temporary name, read back, and renamed when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from datamodules.shards.member import BLOCK
from tome_lightning.errors import UsageError

PARTIAL = ".partial"
CHUNK = 1 << 22  # bytes read at once
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class Member(NamedTuple):
    """A file to be written into a shard."""

    name: str
    content: bytes

    @property
    def room(self) -> int:
        """Bytes that it takes at most, with its headers."""
        return 4 * BLOCK + len(self.content)


class Whole(NamedTuple):
    """A shard that is done.

    Attributes:
        name: File in the folder of the shards.
        rows: Rows of the list that it was made from, those of bad files among them.
        samples: Samples in it.
        bytes: Its size.
        sha256: Digest of the file, as `sha256sum` prints it.
    """

    name: str
    rows: int
    samples: int
    bytes: int
    sha256: str


class ShardWriter:
    """Writes samples into a new tar file; what it writes depends on them alone, not on the time.

    Args:
        path: The shard; until `finish` its bytes are in `path.partial`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.samples, self.size = path, 0, 0
        self._partial = path.with_name(path.name + PARTIAL)
        self._partial.unlink(missing_ok=True)
        self._file, self._digest = self._partial.open("xb"), hashlib.sha256()

    def fits(self, members: list[Member], limit: int) -> bool:
        """Whether it still has at most `limit` bytes with these members, and its end."""
        return self.size + sum(member.room for member in members) + tarfile.RECORDSIZE <= limit

    def add(self, members: list[Member]) -> None:
        """Append the members of one sample."""
        for member in members:
            info = tarfile.TarInfo(member.name)  # mode 0644, owner 0, time 0
            info.size = len(member.content)
            # plain ustar, with an extended header only for names that are long or not ASCII
            self._write(info.tobuf(tarfile.PAX_FORMAT))
            self._write(member.content)
            self._write(bytes(-info.size % BLOCK))
        self.samples += 1

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.size += len(content)

    def finish(self, rows: int) -> Whole:
        """Bring it to the disk, read it back and give it its name.

        Args:
            rows: Rows of the list that it was made from.

        Raises:
            UsageError: Other bytes came back than were written.
        """
        end = self.size + 2 * BLOCK
        self._write(bytes(2 * BLOCK + -end % tarfile.RECORDSIZE))
        self._sync()
        digest = self._digest.hexdigest()
        if digest_of(self._partial) != digest:
            raise UsageError(
                f"{self._partial} gives back other bytes than were written to it: the disk, its cable or "
                "the memory is faulty. Check them, or name a folder on another disk."
            )
        self._partial.replace(self.path)
        sync_folder(self.path.parent)
        return Whole(self.path.name, rows, self.samples, self.size, digest)

    def abandon(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError):  # where the disk is full, to close it fails as well
            self._file.close()
        with contextlib.suppress(OSError):
            self._partial.unlink()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        if hasattr(os, "posix_fadvise"):  # so that what is read back comes from the disk
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._file.close()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, read from start to end."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Bring new names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_size(text: str | int) -> int:
    """Bytes of `1GB`, `500MB`, `64MiB` or a number of bytes.

    Raises:
        UsageError: It is none of these, or less than 1.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?)?B?\s*", str(text).upper())
    size = int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
    if size < 1:
        raise UsageError(f"--shard_size is a size such as 1GB, 500MB or 64MiB, got {text!r}.")
    return size
