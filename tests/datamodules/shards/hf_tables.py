"""Tables written by `datasets`, as they lie on the Hub; imported when a test wants one."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.shards.row import Wanted

IMAGES = Wanted("images", "Image", (".jpg", ".png"))
VIDEOS = Wanted("videos", "Video", (".mp4", ".webm"))
SOUNDS = Wanted("sounds", "Audio", (".wav", ".flac"))
CLASSES = ["tench", "great white shark", "hen, common"]


def png(seed: int, size: int = 8) -> bytes:
    """A small picture, each different and nothing to compress."""
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pictures(count: int, seed: int = 0, size: int = 8) -> Any:
    """A `datasets.Dataset` as ImageNet's on the Hub: an image with its file's path, a ClassLabel."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    )
    cells = [
        {"bytes": png(1000 * seed + number, size), "path": f"n0/{seed}-{number}.png"}
        for number in range(count)
    ]
    labels = [number % len(CLASSES) for number in range(count)]
    return datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features)


def parquet(dataset: Any, path: Path, group: int = 4) -> Path:
    """Write a dataset as `to_parquet` does, `group` rows a row group."""
    dataset.to_parquet(path, batch_size=group)
    return path


def arrow(dataset: Any, folder: Path, batch: int = 4) -> Path:
    """Write a dataset as `save_to_disk` does, `batch` rows a batch; the file."""
    datasets = pytest.importorskip("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "DEFAULT_MAX_BATCH_SIZE", batch)
        dataset.save_to_disk(folder)
    return folder / "data-00000-of-00001.arrow"
