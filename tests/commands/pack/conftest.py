"""Folders of small files to pack, and the shards that came of them."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tome_lightning.__main__ import main


@pytest.fixture(scope="session")
def picture_bytes() -> bytes:
    """A JPEG of 80 x 60 pixels."""
    import io

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """`train/{ant,bee}` of 5 pictures each and `val/{ant,bee}` of 2, no two of them alike."""
    root = tmp_path / "photos"
    draw = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 255, (60 + number, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


def members(shard: Path) -> list[tuple[str, bytes]]:
    """Name and bytes of each member of a tar file."""
    with tarfile.open(shard, "r:") as tar:
        found = []
        for info in tar:
            file = tar.extractfile(info)
            assert file is not None
            found.append((info.name, file.read()))
        return found


def all_members(folder: Path, split: str = "train") -> list[tuple[str, bytes]]:
    """Those of all shards of a split."""
    return [one for shard in sorted(folder.glob(f"{split}-*.tar")) for one in members(shard)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., Any]:
    """`run("shards", "--recipe", ...)` in `tmp_path`: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["pack", *map(str, words)])
        return code, *capfd.readouterr()

    return call
