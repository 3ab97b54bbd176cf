"""What every data set says of itself."""

from inspect import Parameter
from typing import Any

import pytest

import datamodules
from datamodules.base import LabelledData

LOADING = {name: option.default for name, option in LabelledData.options().items()}


class Own(datamodules.ImageNet):
    """A user's, which hands on what it has no opinion of."""

    def __init__(self, root: str, size: int = 32, **options: Any) -> None:
        super().__init__(root, size=size, **options)


def test_the_data_sets_of_the_package_are_found() -> None:
    names = {cls.__name__ for cls in datamodules.data_sets()}
    assert names == {"AudioSet", "Digits", "ImageNet", "Kinetics400", "MovingDigits", "SoundScenes"}


def test_those_that_write_their_files_say_so() -> None:
    made = {cls.__name__ for cls in datamodules.data_sets() if cls.makes_files}
    assert made == {"Digits", "MovingDigits", "SoundScenes"}


@pytest.mark.parametrize("name", ["AudioSet", "ImageNet", "Kinetics400"])
def test_options_of_loading_are_those_of_the_base(name: str) -> None:
    cls = getattr(datamodules, name)
    found = {name: option.default for name, option in cls.options().items()}
    assert LOADING.items() - {("batch_size", Parameter.empty)} <= found.items()
    assert {"root", "exclude", "batch_size"} <= found.keys()
    assert "loading" not in found
    data = cls("nowhere", 2, num_workers=3, max_retries=0)
    assert (data.batch_size, data.num_workers, data.max_retries) == (2, 3, 0)


def test_a_class_with_options_of_its_own_hands_on_the_others() -> None:
    options = Own.options()
    assert options["size"].default == 32
    assert options["hflip"].default == 0.5
    assert options["num_workers"].default == 8
    assert options.keys() == datamodules.ImageNet.options().keys()


def test_an_option_that_none_has_is_refused() -> None:
    with pytest.raises(TypeError, match="num_wokers"):
        datamodules.ImageNet("nowhere", num_wokers=3)
