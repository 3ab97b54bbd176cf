"""Data for `tome_lightning`: every class here is a `LightningDataModule` that yields `(x, y, id)`.

`x` is `[B, C, ...]` in training and `[B, V, C, ...]` with V views in evaluation: images `[C, H, W]`,
clips `[C, T, H, W]`, spectrograms `[1, T, mels]`. `y` is the class, int64 `[B]`; of data with several
labels a sample float32 `[B, K]`, a number from 0 to 1 for each of K classes. `id`, int64 `[B]`, is the
sample's index in its split. `y` is -1, for all classes, for an evaluated sample whose file cannot be
read, and -2 in prediction from a list without labels.

Pixels leave the loader as uint8 (evaluated clips as float32) and become the model's float32 on its
device: in a `Trainer` that is given the data module by themselves, elsewhere by `prepare`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.base import LabelledData
    from datamodules.errors import DataError
    from datamodules.images.digits import Digits
    from datamodules.images.imagenet import ImageNet
    from datamodules.sounds.audioset import AudioSet
    from datamodules.sounds.balanced import BalancedSampler, sample_weights
    from datamodules.sounds.features import fbank
    from datamodules.sounds.sound_scenes import SoundScenes
    from datamodules.videos.clips import (
        mae_st_test_starts,
        mae_st_train_indices,
        videomae_test_starts,
        videomae_train_indices,
    )
    from datamodules.videos.kinetics import Kinetics400
    from datamodules.videos.moving_digits import MovingDigits

__all__ = [
    "AudioSet",
    "BalancedSampler",
    "DataError",
    "Digits",
    "ImageNet",
    "Kinetics400",
    "MovingDigits",
    "SoundScenes",
    "data_sets",
    "fbank",
    "mae_st_test_starts",
    "mae_st_train_indices",
    "sample_weights",
    "videomae_test_starts",
    "videomae_train_indices",
]

_HOMES = {
    "AudioSet": "sounds.audioset",
    "BalancedSampler": "sounds.balanced",
    "DataError": "errors",
    "Digits": "images.digits",
    "ImageNet": "images.imagenet",
    "Kinetics400": "videos.kinetics",
    "MovingDigits": "videos.moving_digits",
    "SoundScenes": "sounds.sound_scenes",
    "fbank": "sounds.features",
    "mae_st_test_starts": "videos.clips",
    "mae_st_train_indices": "videos.clips",
    "sample_weights": "sounds.balanced",
    "videomae_test_starts": "videos.clips",
    "videomae_train_indices": "videos.clips",
}


def data_sets() -> tuple[type[LabelledData], ...]:
    """All data sets of this package; each says what it is by its attributes, see `LabelledData`."""
    from datamodules.base import LabelledData

    public = (globals().get(name) or __getattr__(name) for name in __all__)
    return tuple(it for it in public if isinstance(it, type) and issubclass(it, LabelledData))


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
