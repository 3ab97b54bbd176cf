"""What samples are called in a shard: the path of a file, made a key of WebDataset's convention.

A key ends at the first dot of its base name, and what follows is the kind of the member. So dots before
a file's ending become `%2E`, as in a URL; `urllib.parse.unquote` gives back the path.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datamodules.shards.member import TABLES, member
from datamodules.shards.tar import split_name

if TYPE_CHECKING:
    from datamodules.filelist import LabelledFiles

# `%` itself, control characters, and bytes that are no UTF-8, which Python has as lone surrogates
_UNSAFE = re.compile("[%\x00-\x1f\x7f\ud800-\udfff]")
AGAIN = "%23"  # `#`, which is not encoded elsewhere: so no other file has the key of a repeated one


class Endings(NamedTuple):
    """How readers of shards know a file.

    Attributes:
        known: Endings that they know, in lower case; none where they know all.
        usual: The ending of a file that has none of them.
    """

    known: tuple[str, ...] = ()
    usual: str = ".bin"


def sample_keys(
    files: LabelledFiles, split: str, root: str, endings: Endings
) -> Iterator[tuple[str, str]]:
    """Key and ending of all files of a split in their order, no two keys the same.

    The second file with the key of another, which has another ending or is the same file listed twice,
    has `%232` behind it, the third `%233`.

    Args:
        files: The files of a split.
        split: Name of the split, whose folder is left out.
        root: Folder that relative paths start from.
        endings: Which endings are kept.
    """

    def key_of(row: int) -> tuple[str, str]:
        return split_key(files.path(row), split, root, endings)

    hashes = np.fromiter((hash(key_of(row)[0]) for row in range(len(files))), np.int64, len(files))
    found, counts = np.unique(hashes, return_counts=True)
    repeated = set(found[counts > 1].tolist())
    seen = Counter[str]()
    for row in range(len(files)):
        key, ending = key_of(row)
        if hash(key) in repeated:
            seen[key] += 1
            key += f"{AGAIN}{seen[key]}" if seen[key] > 1 else ""
        yield key, ending


def split_key(path: str, split: str, root: str, endings: Endings) -> tuple[str, str]:
    """Key and ending of one file, before another of the same key is known.

    Args:
        path: Path as the list has it, of a file or of a member of a shard.
        split: Name of the split, whose folder is left out.
        root: Folder that relative paths start from.
        endings: Which endings are kept.
    """
    place = member(path)
    if place is not None and not place.shard.endswith(TABLES):  # a key of the convention already
        key, kind = split_name(place.name)
        return "/".join(map(_within, _names(key))), f".{kind.rpartition('.')[2]}"
    name = path if place is None else place.name.partition("/")[2]
    folders, base = _parts(name, split, root)
    stem, ending = os.path.splitext(base)
    ending = ending.lower()
    if not ending or (endings.known and ending not in endings.known):
        stem, ending = base, endings.usual
    safe = [_encoded(name) for name in folders]
    return "/".join([*safe, _encoded(stem).replace(".", "%2E")]), ending


def _parts(path: str, split: str, root: str) -> tuple[list[str], str]:
    """Folders below the split, and the base name."""
    if os.path.isabs(path):
        path = path.removeprefix(os.path.join(os.path.abspath(root), ""))
    *folders, base = _names(path) or ["sample"]
    of_split = (split, "val") if split == "test" else (split,)
    return folders[1:] if folders and folders[0] in of_split else folders, base


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _within(name: str) -> str:
    """The name of a folder that does not lead out of the one it is in."""
    return "%2E%2E" if name == ".." else name


def _encoded(name: str) -> str:
    safe = _UNSAFE.sub(lambda found: "".join(f"%{b:02X}" for b in os.fsencode(found[0])), name)
    return _within(safe)
