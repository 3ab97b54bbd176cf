"""One sample of a shard: how a list of files names it, and its bytes.

A path such as `train-000003.tar::n01440764/10026.jpg@1536+104857` is a shard, a name in it, and where
the bytes are: in a tar file their offset and number, in a table (Parquet, Arrow) the group of rows and
the row in it. So lists, exclude files, scans and predictions hold members as they hold files, and a
reader needs nothing but the path.
"""

import io
import os
import re
import tarfile
from typing import BinaryIO, Self
from urllib.parse import quote

from datamodules.shards.place import Member as Member
from datamodules.shards.place import MemberError as MemberError

TABLES = (".parquet", ".arrow")
SHARDS = (".tar", *TABLES)
BLOCK = 512  # bytes: what tar files are made of

_PATH = re.compile(r"(?s)(.+?\.(?:tar|parquet|arrow))::(.*)@(\d+)\+(\d+)")


def cell(shard: str, column: str, name: str, group: int, row: int) -> Member:
    """The member of a table that is called `name`, or by its place where that is empty."""
    return Member(shard, f"{quote(column, safe='')}/{name or f'{group}-{row}'}", group, row)


def member(path: str) -> Member | None:
    """The place that a path names; None for the path of a file."""
    if "::" not in path:
        return None
    found = _PATH.fullmatch(path)
    return None if found is None else Member(found[1], found[2], int(found[3]), int(found[4]))


def own_name(path: str) -> str:
    """What a file or a member is called itself, with its ending, such as `10026.jpg`."""
    place = member(path)
    return os.path.basename(path if place is None else place.name)


def file_of(path: str) -> str:
    """The file that a path is in: itself, or the shard of a member."""
    place = member(path)
    return path if place is None else place.shard


class Content(io.BytesIO):
    """The bytes of a member as an open file, with the name that decoders take its kind from."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name

    def __repr__(self) -> str:  # what soundfile's errors call it
        return repr(self.name)

    def again(self) -> Self:
        """The same bytes, from their start and with a place of their own; nothing is copied."""
        return type(self)(self.getvalue(), self.name)


Source = str | Content  # what decoders take: the path of a file, or the bytes of a member


def source_of(path: str) -> Source:
    """A file as it is named, which nobody has opened yet, or a member's bytes.

    Raises:
        OSError: There is no such shard.
        MemberError: The shard holds something else at that place.
    """
    place = member(path)
    return path if place is None else Content(read_member(place), own_name(path))


def opened(path: str) -> BinaryIO:
    """Open a file, or a member of a shard, for reading.

    Raises:
        OSError: There is no such file or shard.
        MemberError: The shard holds something else at that place.
    """
    source = source_of(path)
    return open(source, "rb") if isinstance(source, str) else source


def read_member(place: Member) -> bytes:
    """The bytes of a member.

    Raises:
        OSError: There is no such shard.
        MemberError: The shard holds something else at that place.
    """
    if place.shard.endswith(TABLES):
        from datamodules.shards.cells import read_cell

        return read_cell(place)
    with open(place.shard, "rb") as shard:  # buffered: a bare read may return less
        shard.seek(max(0, place.first - BLOCK))
        # no more than there is: memory for all that is asked for would be taken first
        found = shard.read(min(BLOCK + place.second, os.fstat(shard.fileno()).st_size))
    # the header just before the bytes says how many they are: an index may be older than its shard
    header, content = found[:BLOCK], found[BLOCK:]
    if len(content) < place.second:
        raise MemberError("its shard ends before it does: it was cut short since it was listed")
    if not _is_header_of(header, place):
        raise MemberError("is not where its shard had it when it was listed: start again")
    return content


def _is_header_of(header: bytes, place: Member) -> bool:
    """Whether a tar header may be that of a member, by its size and name (long names stand before it)."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    told = len(place.name) <= 100 and place.name.isascii()
    counted = place.second < 1 << 33  # which has twelve octal digits; more may stand before it, too
    return (not counted or info.size == place.second) and (not told or info.name == place.name)
