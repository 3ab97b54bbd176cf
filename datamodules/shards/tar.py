"""What lies in a tar file, by WebDataset's convention: members that share a key are one sample.

The key of `n01440764/10026.seg.png` is `n01440764/10026`, up to the first dot of the base name, and the
rest is the member's kind. A label is the member `cls` (a class index or name), a field of the member
`json`, or the folder of the key. Links, and members whose bytes do not lie in one piece, are left out.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.shards.member import BLOCK, Member
from datamodules.shards.row import Label, Row, Wanted

LABEL_FIELDS = ("labels", "label", "cls", "class", "class_name", "classname", "category")
MAX_LABEL = 1 << 20  # bytes: what is longer is no label

Parts = dict[str, tarfile.TarInfo]  # the members of one sample by their kinds


def tar_rows(shard: Path, name: str, wanted: Wanted) -> Iterator[Row]:
    """Every sample of a tar file that holds what is wanted, in the order of the file.

    Args:
        shard: The file.
        name: Its path from the folder of the data set on, for the paths of the members.
        wanted: What is looked for.

    Raises:
        DataError: It is no tar file, was cut short, holds a key twice, or a sample with several files
            of the kind wanted.
    """
    keys: set[str] = set()
    try:
        with tarfile.open(shard, "r:") as tar:
            for key, parts in _samples(tar, shard):
                if key in keys:
                    raise DataError(
                        f"{shard} has the key {key!r} twice, with other members between: pack it anew"
                    )
                keys.add(key)
                kind = _content(shard, key, parts, wanted)
                if kind is not None:
                    info = parts[kind]
                    place = Member(name, info.name, info.offset_data, info.size)
                    yield Row(place.path, _labels(tar, shard, key, parts, wanted))
    except (tarfile.TarError, EOFError) as error:
        why = str(error) or type(error).__name__
        raise DataError(
            f"{shard} was cut short or is no plain tar file ({why}): fetch it again, or unpack a "
            "compressed one first (gunzip)"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {shard}: {error.strerror or error}") from None


def split_name(name: str) -> tuple[str, str]:
    """Key and kind of a member: of `a/b.c.jpg` they are `a/b` and `c.jpg`."""
    folder, _, base = name.rpartition("/")
    stem, _, kind = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), kind.lower()


def _samples(tar: tarfile.TarFile, shard: Path) -> Iterator[tuple[str, Parts]]:
    key, parts = "", Parts()
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        if not info.isreg() or info.issparse():
            continue
        this, kind = split_name(info.name.removeprefix("./"))
        if this != key and parts:
            yield key, parts
            parts = Parts()
        key = this
        if kind in parts:
            raise DataError(f"{shard} has the member {info.name!r} twice: pack it anew")
        parts[kind] = info
    if parts:
        yield key, parts
    # tarfile ends as well at a header that is damaged or cut short
    if len(end := _block(tar, tar.offset)) < BLOCK or any(end):
        raise tarfile.ReadError(f"no header and no end at byte {tar.offset:,}")


def _block(tar: tarfile.TarFile, offset: int) -> bytes:
    assert tar.fileobj is not None
    tar.fileobj.seek(offset)
    return tar.fileobj.read(BLOCK)


def _content(shard: Path, key: str, parts: Parts, wanted: Wanted) -> str | None:
    """The kind of the member that is wanted of a sample."""
    if wanted.content is not None:
        return wanted.content if wanted.content in parts else None
    fits = [kind for kind in parts if f".{kind}" in wanted.extensions]
    fits = fits or [kind for kind in parts if f".{kind.rpartition('.')[2]}" in wanted.extensions]
    if len(fits) > 1:
        raise DataError(
            f"{shard}: sample {key!r} has {len(fits)} {wanted.what} ({', '.join(fits)}); choose one "
            f"kind with data.content_column, for example {fits[0]}"
        )
    return fits[0] if fits else None


def _labels(
    tar: tarfile.TarFile, shard: Path, key: str, parts: Parts, wanted: Wanted
) -> tuple[Label, ...]:
    field = wanted.label
    if "cls" in parts and field in (None, "cls"):
        return (_label(_text(tar, shard, parts["cls"])),)
    if "json" in parts:
        found = _of_json(_text(tar, shard, parts["json"]), field)
        if found is not None:
            return found
    if field is not None:
        raise DataError(
            f"{shard}: sample {key!r} has no label {field!r}; its members are {', '.join(parts)}. Set "
            "data.label_column to cls, or to a field of its json"
        )
    folder = key.rpartition("/")[0].rpartition("/")[2]
    return (folder,) if folder else ()


def _text(tar: tarfile.TarFile, shard: Path, info: tarfile.TarInfo) -> str:
    if info.size > MAX_LABEL:
        raise DataError(f"{shard}: {info.name!r} has {info.size:,} bytes, too many for a label")
    assert tar.fileobj is not None
    tar.fileobj.seek(info.offset_data)
    return tar.fileobj.read(info.size).decode(errors="surrogateescape")


def _label(text: str) -> Label:
    text = text.strip()
    return int(text) if text.isdecimal() else text


def _of_json(text: str, field: str | None) -> tuple[Label, ...] | None:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    fields = LABEL_FIELDS if field is None else (field,)
    value = next((content[name] for name in fields if content.get(name) is not None), None)
    values = value if isinstance(value, list) else [value]
    if value is None or not all(isinstance(one, int | str) for one in values):
        return None
    return tuple(values)
