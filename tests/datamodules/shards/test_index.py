"""Data sets in tar files: splits, classes and labels, as on folders; kept lists; what is refused."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import AudioSet, DataError, ImageNet, Kinetics400
from datamodules.shards import index
from datamodules.shards.member import member

from .shard_files import pictures, png, tagged, write_tar

soundfile = pytest.importorskip("soundfile")


def images(root: Path | str, **options: Any) -> ImageNet:
    return ImageNet(str(root), **{"batch_size": 2, "num_workers": 0, "size": 8, **options})


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with classes, and tar files with the same pictures in the same order."""
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    seed = 0
    for split, count in (("train", 5), ("val", 2)):
        parts = []
        for number, name in enumerate(("bird", "cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for at in range(count):
                seed += 1
                (folder / split / name / f"{at}.png").write_bytes(png(seed))
                parts += [(f"{name}/{at}.png", png(seed)), (f"{name}/{at}.cls", b"%d" % number)]
        half = len(parts) // 4 * 2
        write_tar(shards / f"{split}-000000.tar", parts[:half])
        write_tar(shards / f"{split}-000001.tar", parts[half:])
    (shards / "classes.txt").write_text("bird\ncat\ndog\n")
    return folder, shards


def test_shards_give_the_samples_of_the_folder(both: tuple[Path, Path]) -> None:
    ours, theirs = (images(root) for root in both)
    for data in (ours, theirs):
        data.setup()
    assert theirs.class_names == ours.class_names == ["bird", "cat", "dog"]
    for split in ("train", "val", "test"):
        pairs = zip(ours.samples(split), theirs.samples(split), strict=True)
        for (x, y, at), (x2, y2, at2) in pairs:
            assert torch.equal(x, x2)
            assert (y, at) == (y2, at2)
    assert theirs.corrupt == 0


def test_a_checkpoints_classes_are_matched_by_name(both: tuple[Path, Path]) -> None:
    data = images(both[1])
    data.take_classes(["dog", "bird", "fish", "cat"], None)
    data.setup("validate")
    assert [data.files("val").label(row) for row in range(6)] == [1, 1, 3, 3, 0, 0]


def test_labels_may_be_numbers_or_names(tmp_path: Path) -> None:
    write_tar(tmp_path / "a/train-0.tar", pictures([0, 2, 1]))
    write_tar(tmp_path / "a/val-0.tar", pictures([2]))
    numbers = images(tmp_path / "a")
    numbers.setup("fit")
    assert numbers.class_names == ["0", "1", "2"]
    assert numbers.files("train").labels.tolist() == [0, 2, 1]
    write_tar(tmp_path / "b/train-0.tar", pictures(["owl", "ant", "owl"]))
    write_tar(tmp_path / "b/val-0.tar", pictures(["ant"]))
    names = images(tmp_path / "b")
    names.setup("fit")
    assert names.class_names == ["ant", "owl"]
    assert names.files("train").labels.tolist() == [1, 0, 1]


def test_names_that_are_digits_are_told_from_numbers(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", pictures([0, 1, 2]))
    write_tar(tmp_path / "val-0.tar", pictures([2]))
    (tmp_path / "classes.txt").write_text("2\n10\n1\n")
    data = images(tmp_path)
    data.setup("fit")
    assert data.class_names == ["2", "10", "1"]
    assert data.files("train").labels.tolist() == [0, 1, 2]


def test_unlabelled_shards_are_for_predict(tmp_path: Path) -> None:
    parts = [(f"{number}.png", png(number)) for number in range(3)]
    write_tar(tmp_path / "test-0.tar", parts)
    with pytest.raises(DataError, match="have no labels"):
        images(tmp_path).setup("test")
    data = images(tmp_path)
    data.take_classes(["a", "b"], None)
    data.setup("predict")
    assert data.files("test").unlabelled


def test_test_shards_without_labels_leave_the_test_to_val(tmp_path: Path) -> None:
    write_tar(tmp_path / "val-0.tar", pictures([0, 1]))
    write_tar(tmp_path / "test-0.tar", [("1.png", png(1))])
    data = images(tmp_path)
    with pytest.warns(UserWarning, match="testing on val"):
        data.setup("test")
    assert len(data.files("test")) == 2


def test_a_bad_sample_is_replaced_and_counted(both: tuple[Path, Path]) -> None:
    shard = both[1] / "train-000000.tar"
    data = images(both[1])
    data.setup("fit")
    place = member(data.samples("train").path(1))
    assert place is not None
    with shard.open("r+b") as file:
        file.seek(place.first)
        file.write(bytes(place.second))
    _, y, at = data.samples("train")[1]
    assert (y, at) == (0, 1)
    bad = data.bad_files()
    assert [row["path"].partition("@")[0] for row in bad] == ["train-000000.tar::bird/1.png"]
    exclude = both[1] / "bad.json"
    exclude.write_text(json.dumps({"bad": bad}))
    again = images(both[1], exclude=str(exclude))
    again.setup("fit")
    assert len(again.files("train")) == len(data.files("train")) - 1


def test_the_index_is_kept_until_a_shard_changes(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "KEPT", 1)
    made: list[str] = []
    rows = index.tar_rows
    monkeypatch.setattr(
        index, "tar_rows", lambda path, *more: made.append(path.name) or rows(path, *more)
    )
    first = images(both[1]).files("train")
    assert made == ["train-000000.tar", "train-000001.tar"]
    again = images(both[1]).files("train")
    assert len(made) == 2
    assert again.digest() == first.digest()
    shard = both[1] / "train-000001.tar"
    content = shard.read_bytes()
    shutil.copy(both[1] / "val-000000.tar", shard)
    assert len(images(both[1]).files("train")) < len(first)
    shard.write_bytes(content)
    os.utime(shard, ns=(0, 0))
    assert images(both[1]).files("train").digest() == first.digest()
    assert len(made) == 6


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("1.txt", b"x")], "hold no images"),
        ([("a/1.png", b"x"), ("1.png", b"x")], "1 of 2 samples of train have not one label"),
        (pictures([0, 7]), "1 labels of train are none of the 2 classes, for example '7'"),
    ],
)
def test_shards_that_do_not_fit_are_refused(tmp_path: Path, parts: Any, message: str) -> None:
    write_tar(tmp_path / "train-0.tar", parts)
    write_tar(tmp_path / "val-0.tar", pictures([0, 1]))
    (tmp_path / "classes.txt").write_text("zero\none\n")
    with pytest.raises(DataError, match=message):
        images(tmp_path).setup("fit")


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", pictures([0, 1]))
    with pytest.raises(DataError, match="has shards of train, but none of val"):
        images(tmp_path).setup("fit")


def test_several_labels_and_their_classes(tmp_path: Path) -> None:
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(1600, np.float32), 16_000, format="flac")
    rows = [["/m/rain"], ["/m/dog", "/m/rain"], ["/m/dog"], ["/m/cat"]]
    write_tar(tmp_path / "train-0.tar", tagged(sound.getvalue(), "flac", rows))
    write_tar(tmp_path / "val-0.tar", tagged(sound.getvalue(), "flac", rows[1:2]))
    data = AudioSet(
        str(tmp_path), batch_size=2, num_workers=0, frames=16, mels=8, freq_mask=2, time_mask=2
    )
    data.setup("fit")
    assert data.class_names == ["/m/cat", "/m/dog", "/m/rain"]
    assert [data.files("train").label(row) for row in range(4)] == [(2,), (1, 2), (1,), (0,)]
    assert data.samples("val")[0][1].tolist() == [0, 1, 1]
    (tmp_path / "class_labels_indices.csv").write_text(
        "index,mid,display_name\n0,/m/rain,Rain\n1,/m/dog,Dog\n2,/m/cat,Cat\n"
    )
    data = AudioSet(
        str(tmp_path), batch_size=2, num_workers=0, frames=16, mels=8, freq_mask=2, time_mask=2
    )
    data.setup("fit")
    assert data.class_names == ["Rain", "Dog", "Cat"]
    assert [data.files("train").label(row) for row in range(4)] == [(0,), (0, 1), (1,), (2,)]


def test_of_the_hub_only_the_splits_of_a_stage_are_fetched(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def fetch(root: str, config: str | None, splits: Any) -> Path:
        asked.append(sorted(splits))
        return both[1]

    monkeypatch.setattr(index.hub, "fetch", fetch)
    data = images("hf://datasets/owner/name")
    data.setup("validate")
    assert asked == [["val"]]
    data.setup("fit")
    assert asked == [["val"], ["train", "val"]]
    data.setup("validate")
    assert len(asked) == 2
    assert data.samples("train").path(0).startswith(str(both[1]))


def test_labels_with_audiosets_titles_are_of_its_527_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(1600, np.float32), 16_000, format="flac")
    write_tar(
        tmp_path / "train-0.tar", tagged(sound.getvalue(), "flac", [["/m/a"], ["/m/b", "/m/a"]])
    )
    write_tar(tmp_path / "val-0.tar", tagged(sound.getvalue(), "flac", [["/m/c"]]))
    titles = {"/m/a": "Silence", "/m/b": "Speech", "/m/c": "Field recording"}
    monkeypatch.setattr(index.Shards, "titles", lambda self, split: titles)
    data = AudioSet(str(tmp_path), batch_size=2, num_workers=0)
    data.setup("fit")
    assert (data.num_classes, data.class_names[0], data.class_names[526]) == (
        527,
        "Speech",
        "Field recording",
    )
    assert [data.files("train").label(row) for row in range(2)] == [(500,), (0, 500)]
    assert data.files("val").label(0) == (526,)
    assert [data.class_ids[at] for at in (0, 1, 500)] == [
        "/m/b",
        "Male speech, man speaking",
        "/m/a",
    ]


def test_archives_beside_files_are_no_shards(both: tuple[Path, Path], tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copy(both[1] / "val-000000.tar", both[0] / f"ILSVRC2012_img_{split}.tar")
    assert not images(both[0]).in_shards
    sounds = tmp_path / "sounds"
    write_tar(sounds / "eval_segments.tar", pictures([0]))
    (sounds / "eval_segments.csv").write_text("# YTID, start_seconds, end_seconds, labels\n")
    assert not AudioSet(str(sounds)).in_shards
    clips = tmp_path / "clips"
    write_tar(clips / "train.tar", pictures([0]))
    assert Kinetics400(str(clips)).in_shards
    (clips / "train.csv").write_text("a.mp4 0\n")
    assert not Kinetics400(str(clips)).in_shards
