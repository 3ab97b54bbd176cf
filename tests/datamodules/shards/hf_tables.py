"""Tables written by `datasets`, as they lie on the Hub; imported when a test wants one."""

import io
import shutil
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


def rows_of_module(data: Any, out: Path, group: int) -> None:
    """Write the train and val files of a data module, in the order of its lists, as Parquet."""
    datasets = pytest.importorskip("datasets")
    pyarrow, parquet_file = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data.setup("fit")
    out.mkdir(parents=True)
    if data.multi_label:
        ids = list(data.class_ids)
        label, kind = "labels", datasets.Sequence(datasets.Value("string"))
        shutil.copy(Path(data.folder, "class_labels_indices.csv"), out)
    else:
        label, kind = "label", datasets.ClassLabel(names=data.class_names)
    features = datasets.Features({"file": getattr(datasets, data.feature)(), label: kind})
    for split in ("train", "val"):
        files = data.files(split)
        paths = [Path(data.folder, files.path(row)) for row in range(len(files))]
        cells = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
        found = [files.label(row) for row in range(len(files))]
        labels = [[ids[at] for at in row] for row in found] if data.multi_label else found
        # by the schema alone: `datasets` itself encodes sounds with a package of their own
        rows = {"file": cells, label: labels}
        table = pyarrow.Table.from_pydict(rows, schema=features.arrow_schema)
        name = out / f"{split}-00000-of-00001.parquet"
        parquet_file.write_table(table, name, row_group_size=group)
