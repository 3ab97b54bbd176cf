"""A list of files may name members of shards, beside files and in any order."""

from pathlib import Path

import pytest
import torch

from datamodules import DataError, ImageNet, Kinetics400

from ..clip_files import write_clip
from .shard_files import in_tar, png


def write_list(path: Path, rows: list[tuple[str, int]]) -> str:
    path.write_text("".join(f'"{name}",{label}\n' for name, label in rows))
    return path.name


def images(root: Path, val_list: str) -> ImageNet:
    data = ImageNet(
        str(root), train_list=val_list, val_list=val_list, size=8, batch_size=2, num_workers=0
    )
    data.setup("validate")
    return data


def test_pictures_are_read_from_where_the_list_says(tmp_path: Path) -> None:
    files, mixed = [], []
    for number in range(4):
        path = tmp_path / f"a, {number}.png"
        path.write_bytes(png(number, 20))
        listed = Path(in_tar(path)).relative_to(tmp_path)
        files.append((path.name, number % 2))
        mixed.append((str(listed) if number != 2 else path.name, number % 2))
    expected, found = (
        images(tmp_path, write_list(tmp_path / name, rows)).samples("val")
        for name, rows in (("files.csv", files), ("mixed.csv", mixed))
    )
    for (x, y, _), (x2, y2, _) in zip(expected, found, strict=True):
        assert torch.equal(x, x2)
        assert y == y2
    assert not found.bad.count


def test_a_list_of_a_shard_that_is_not_there_is_refused(tmp_path: Path) -> None:
    rows = [("gone.tar::a.png@512+9", 0), ("gone.tar::b.png@1536+9", 1)]
    with pytest.raises(DataError, match="which is no file"):
        images(tmp_path, write_list(tmp_path / "list.csv", rows))
    videos = Kinetics400(str(tmp_path), val_list="list.csv", class_list=None, num_workers=0)
    with pytest.raises(DataError, match="none of 2 files looked for is there"):
        videos.files("val")


def test_labels_of_videos_are_held_against_the_folders_in_the_shard(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", frames=8)
    names = [f"{folder}/a.mp4" for folder in ("abseiling", "yoga", "zumba")]
    members = [Path(in_tar(clip, name)).relative_to(tmp_path) for name in names]
    right = [(str(path), label) for path, label in zip(members, (0, 398, 399), strict=True)]
    write_list(tmp_path / "right.csv", right)
    write_list(tmp_path / "wrong.csv", [(name, 399 - label) for name, label in right])
    videos = Kinetics400(str(tmp_path), val_list="right.csv", num_workers=0)
    assert videos.files("val").labels.tolist() == [0, 398, 399]
    with pytest.raises(DataError, match="labels looked at are not those of the class folders"):
        Kinetics400(str(tmp_path), val_list="wrong.csv", num_workers=0).files("val")
