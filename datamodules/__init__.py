"""Data for `tome_lightning`: every class here is a `LightningDataModule` that yields `(x, y, id)`.

`x` is `[B, C, ...]` in training and `[B, V, C, ...]` with V views in evaluation: images `[C, H, W]`,
clips `[C, T, H, W]`, spectrograms `[1, T, mels]`. `y` is the class, int64 `[B]`; of data with several
labels a sample float32 `[B, K]`, a number from 0 to 1 for each of K classes. `id`, int64 `[B]`, is the
sample's index in its split. `y` is -1, for all classes, for an evaluated sample whose file cannot be
read, and -2 in prediction from a list without labels.

Pixels leave the loader as uint8 (evaluated clips as float32) and become the model's float32 on its
device: in a `Trainer` that is given the data module by themselves, elsewhere by `prepare`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.audioset import AudioSet
    from datamodules.balanced import BalancedSampler, sample_weights
    from datamodules.clips import (
        mae_st_test_starts,
        mae_st_train_indices,
        videomae_test_starts,
        videomae_train_indices,
    )
    from datamodules.digits import Digits
    from datamodules.errors import DataError
    from datamodules.features import fbank
    from datamodules.imagenet import ImageNet
    from datamodules.kinetics import Kinetics400
    from datamodules.moving_digits import MovingDigits
    from datamodules.sound_scenes import SoundScenes

__all__ = [
    "AudioSet",
    "BalancedSampler",
    "DataError",
    "Digits",
    "ImageNet",
    "Kinetics400",
    "MovingDigits",
    "SoundScenes",
    "fbank",
    "mae_st_test_starts",
    "mae_st_train_indices",
    "sample_weights",
    "videomae_test_starts",
    "videomae_train_indices",
]

_HOMES = {
    "AudioSet": "audioset",
    "BalancedSampler": "balanced",
    "DataError": "errors",
    "Digits": "digits",
    "ImageNet": "imagenet",
    "Kinetics400": "kinetics",
    "MovingDigits": "moving_digits",
    "SoundScenes": "sound_scenes",
    "fbank": "features",
    "mae_st_test_starts": "clips",
    "mae_st_train_indices": "clips",
    "sample_weights": "balanced",
    "videomae_test_starts": "clips",
    "videomae_train_indices": "clips",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
