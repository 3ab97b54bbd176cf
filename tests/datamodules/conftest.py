"""Small picture folders, and the real digits written once for all tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images.digits import write_digits

MakeFolder = Callable[..., Path]


def save_picture(path: Path, seed: int, size: tuple[int, int] = (40, 32)) -> None:
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """A folder `train|val/<class>/N.png` of random pictures, each different."""

    def make(
        classes: tuple[str, ...] = ("ant", "bee", "cat"), train: int = 6, val: int = 2
    ) -> Path:
        root = tmp_path / "pictures"
        for split, count in (("train", train), ("val", val)):
            for label, name in enumerate(classes):
                for number in range(count):
                    seed = 1000 * label + 10 * number + (split == "val")
                    save_picture(root / split / name / f"{number}.png", seed)
        return root

    return make


@pytest.fixture(scope="session")
def digits_root(cache_folder: Path) -> Path:
    root = cache_folder / "digits"
    write_digits(root)
    return root
