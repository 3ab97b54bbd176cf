"""Prediction of what lies in a plain folder: no list, no class folders."""

from pathlib import Path
from typing import Any

import pytest

from datamodules import (
    AudioSet,
    DataError,
    Digits,
    ImageNet,
    Kinetics400,
    MovingDigits,
    SoundScenes,
)
from datamodules.base import LabelledData
from datamodules.filelist import UNLABELLED
from datamodules.unlabelled import plain_folder

KINDS: dict[type[LabelledData], tuple[str, dict[str, Any]]] = {
    ImageNet: (".png", {"val_list": "val.txt"}),
    Digits: (".png", {}),
    Kinetics400: (".mp4", {"val_list": "lists/val.csv", "class_list": None}),
    MovingDigits: (".mp4", {}),
    AudioSet: (".wav", {"val_list": "val.csv", "label_csv": None}),
    SoundScenes: (".wav", {}),
}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def predicted(data: LabelledData) -> list[str]:
    data.take_classes(["ant", "bee", "cat"], 3)
    data.setup("predict")
    samples = data.samples("test")
    return [samples.path(index) for index in range(len(samples))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_all_files_of_a_plain_folder_are_predicted_in_the_model_s_classes(
    kind: type[LabelledData], tmp_path: Path
) -> None:
    """Lists of the checkpoint's own data, which are not there, are no hindrance."""
    ending, settings = KINDS[kind]
    touch(tmp_path, *(f"{name}{ending}" for name in ("b", "a", "trip/c", "trip/day 2/d")))
    touch(tmp_path, "notes.txt", ".hidden.png")
    data: Any = kind(root=str(tmp_path), num_workers=0, **settings)  # type: ignore[call-arg]
    data.prepare_data()
    names = ("a", "b", "trip/c", "trip/day 2/d")
    assert predicted(data) == [str(tmp_path / f"{name}{ending}") for name in names]
    assert data.class_names == ["ant", "bee", "cat"]
    if not data.multi_label:
        assert data.samples("test").files.label(0) == UNLABELLED
    for stage in ("test", "validate"):
        with pytest.raises(DataError):
            kind(root=str(tmp_path), num_workers=0, **settings).setup(stage)  # type: ignore[call-arg]


def test_class_folders_come_before_a_plain_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "val/ant/1.png")
    assert plain_folder(tmp_path, (".png",)) is None
    touch(tmp_path, "test/2.png")
    assert plain_folder(tmp_path, (".png",)) == tmp_path / "test"
    touch(tmp_path, "test/ant/3.png")
    assert plain_folder(tmp_path, (".png",)) is None


def test_a_folder_without_files_says_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path, "a.heic", "b.heic")
    told = r"holds no images to predict; left out: 2 files with other endings \(\.heic 2\)\. Set"
    with pytest.raises(DataError, match=told):
        predicted(ImageNet(str(tmp_path), num_workers=0))


def test_a_list_that_was_asked_for_is_not_replaced_by_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"cannot read the file list .*mine\.txt"):
        predicted(ImageNet(str(tmp_path), test_list="mine.txt", num_workers=0))


def test_without_a_model_nothing_says_what_the_classes_are(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises(DataError, match="has no labels, so nothing says what the classes are"):
        ImageNet(str(tmp_path), num_workers=0).setup("predict")
