"""Whole data sets as `datasets` and the Hub have them, by our data modules: the samples of the files."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import AudioSet, ImageNet, Kinetics400
from datamodules.shards import index

from ...hub_server import hub_of
from ..clip_files import write_clip
from ..sound_files import sweep
from .hf_tables import CLASSES, arrow, parquet, pictures, png

soundfile = pytest.importorskip("soundfile")

AUDIOSET = """---
configs:
- config_name: balanced
  default: true
  data_files:
  - {split: train, path: "data/bal_train*.parquet"}
  - {split: test, path: "data/eval*.parquet"}
---
"""


def saved(root: Path, kind: str) -> Path:
    """Twelve pictures to train on and six to validate, as `kind` has them."""
    datasets = pytest.importorskip("datasets")
    splits = {"train": pictures(12, 0, 40), "validation": pictures(6, 1, 40)}
    if kind == "save_to_disk":
        datasets.DatasetDict(splits).save_to_disk(root, num_shards={"train": 2, "validation": 1})
    elif kind == "parquet":
        (root / "data").mkdir(parents=True)
        for name, data in splits.items():
            parquet(data, root / "data" / f"{name}-00000-of-00001.parquet")
    else:
        for name, data in splits.items():
            arrow(data, root / name)
    return root


def as_files(root: Path) -> Path:
    """The same in class folders, which sort as the classes do."""
    for seed, (split, count) in enumerate([("train", 12), ("val", 6)]):
        for number in range(count):
            folder = root / split / f"{number % 3}_{CLASSES[number % 3]}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:02d}.png").write_bytes(png(1000 * seed + number, 40))
    return root


@pytest.mark.parametrize("kind", ["parquet", "save_to_disk", "folders"])
def test_pictures_in_tables_are_those_in_folders(tmp_path: Path, kind: str):
    options: dict[str, Any] = {"batch_size": 2, "num_workers": 0, "size": 16}
    table = ImageNet(str(saved(tmp_path / "table", kind)), **options)
    files = ImageNet(str(as_files(tmp_path / "files")), **options)
    for data in (table, files):
        data.setup()
    assert table.class_names == CLASSES
    found = sorted((y, x.sum().item()) for x, y, _ in table.samples("val"))
    assert found == sorted((y, x.sum().item()) for x, y, _ in files.samples("val"))
    assert [y for _, y, _ in table.samples("val")] == [0, 1, 2, 0, 1, 2]
    assert len(table.files("train")) == 12
    assert table.corrupt == 0


def test_large_row_groups_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = str(saved(tmp_path, "parquet"))
    lines: list[str] = []
    monkeypatch.setattr(index, "rank_zero_info", lines.append)
    ImageNet(root, batch_size=2, num_workers=0).setup("fit")
    assert not any("row group" in line for line in lines)
    monkeypatch.setattr(index, "LARGE", 1000)
    monkeypatch.setattr(index, "HELD", 1000)
    ImageNet(root, batch_size=2, num_workers=0).setup("fit")
    (line,) = [line for line in lines if "row group" in line]
    assert "python -m tome_lightning pack" in line


def test_audioset_by_its_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    with hub_of(tmp_path, monkeypatch) as root:
        folder = root / "datasets" / "owner" / "AudioSet"
        (folder / "data").mkdir(parents=True)
        (folder / "README.md").write_text(AUDIOSET)
        for name in ("bal_train00", "unbal_train000", "eval00"):
            file = io.BytesIO()
            soundfile.write(file, sweep(1.0), 16_000, format="FLAC")
            data = datasets.Dataset.from_dict({
                "video_id": ["one", "two"],
                "audio": [{"bytes": file.getvalue(), "path": f"{name}.flac"}] * 2,
                "labels": [["/m/09x0r"], ["/m/068hy", "/m/09x0r"]],
                "human_labels": [["Speech"], ["Domestic animals, pets", "Speech"]],
            }).cast_column("audio", datasets.Audio(sampling_rate=16_000))  # fmt: skip
            parquet(data, folder / "data" / f"{name}.parquet")
        data = AudioSet(
            "hf://datasets/owner/AudioSet",
            batch_size=2,
            num_workers=0,
            frames=64,
            mels=32,
            freq_mask=2,
            time_mask=2,
        )
        data.prepare_data()
        data.setup("validate")
    assert len(data.class_names) == 527  # AudioSet's, though the shards have two of them
    assert not any((tmp_path / "hub").rglob("unbal_train*"))
    samples = list(data.samples("val"))
    named = [[data.class_names[at] for at in y.nonzero().flatten()] for _, y, *_ in samples]
    assert named == [["Speech"], ["Speech", "Domestic animals, pets"]]
    assert data.corrupt == 0


def test_videos_in_parquet_are_those_in_folders(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    cells = []
    for split in ("train", "val"):
        for number, name in enumerate(("archery", "bowling")):
            file = tmp_path / "files" / split / name / f"{number}.mp4"
            write_clip(file, frames=24, first=50 * number)
            cells.append({"bytes": file.read_bytes(), "path": f"{number}.mp4"})
    features = {
        "video": datasets.Video(),
        "label": datasets.ClassLabel(names=["archery", "bowling"]),
    }
    data = datasets.Dataset.from_dict({"video": cells, "label": [0, 1, 0, 1]})
    for column, feature in features.items():
        data = data.cast_column(column, feature)
    for split, rows in (("train", [0, 1]), ("val", [2, 3])):
        (tmp_path / "table").mkdir(exist_ok=True)
        parquet(data.select(rows), tmp_path / "table" / f"{split}-00000-of-00001.parquet")
    options: dict[str, Any] = {"num_workers": 0, "frames": 4, "rate": 2, "size": 32}
    one, other = (
        Kinetics400(str(tmp_path / kind), class_list=None, **options) for kind in ("table", "files")
    )
    for module in (one, other):
        module.setup("validate")
    for (x, y, *_), (x2, y2, *_) in zip(one.samples("val"), other.samples("val"), strict=True):
        assert torch.equal(torch.as_tensor(x), torch.as_tensor(x2))
        assert y == y2
    assert one.corrupt == 0
