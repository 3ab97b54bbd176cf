"""Small data sets in shards for the tests."""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.shards.member import Member

Part = tuple[str, bytes]


def write_tar(path: Path, members: Iterable[Part], kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def png(seed: int, side: int = 12) -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 256, (side, side + seed % 3, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def pictures(labels: Sequence[object], first: int = 0) -> list[Part]:
    """A picture for each label, and beside it a member `cls` with the label."""
    parts: list[Part] = []
    for number, label in enumerate(labels, start=first):
        parts += [(f"{number:04d}.png", png(number)), (f"{number:04d}.cls", str(label).encode())]
    return parts


def tagged(content: bytes, kind: str, labels: Sequence[Sequence[str]]) -> list[Part]:
    """The same sound for each row of labels, and beside it a member `json` with them."""
    parts: list[Part] = []
    for number, row in enumerate(labels):
        parts.append((f"{number:04d}.{kind}", content))
        parts.append((f"{number:04d}.json", json.dumps({"labels": list(row)}).encode()))
    return parts


def in_tar(path: Path, name: str | None = None) -> str:
    """The path of a copy of a file in a tar file beside it, between others and in a folder."""
    shard = path.with_name(f"{len(list(path.parent.glob('*.tar')))}.tar")
    wanted = f"folder/{path.name if name is None else name}"
    write_tar(shard, [("a.txt", b"before"), (wanted, path.read_bytes()), ("b.txt", b"x" * 3000)])
    with tarfile.open(shard) as tar:
        info = tar.getmember(wanted)
    return Member(str(shard), wanted, info.offset_data, info.size).path
