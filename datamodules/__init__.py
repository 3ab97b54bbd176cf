"""Data for `tome_lightning`: every class here is a `LightningDataModule` that yields `(x, y, id)`.

`x` is `[B, C, ...]` in training and `[B, V, C, ...]` with V views in evaluation, images `[C, H, W]`
and clips `[C, T, H, W]`; `y` and `id` are int64 `[B]`. `id` is the sample's index in its split; `y` is
-1 for an evaluated sample whose file cannot be read.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.clips import (
        mae_st_test_starts,
        mae_st_train_indices,
        videomae_test_starts,
        videomae_train_indices,
    )
    from datamodules.digits import Digits
    from datamodules.errors import DataError
    from datamodules.imagenet import ImageNet
    from datamodules.kinetics import Kinetics400
    from datamodules.moving_digits import MovingDigits

__all__ = [
    "DataError",
    "Digits",
    "ImageNet",
    "Kinetics400",
    "MovingDigits",
    "mae_st_test_starts",
    "mae_st_train_indices",
    "videomae_test_starts",
    "videomae_train_indices",
]

_HOMES = {
    "DataError": "errors",
    "Digits": "digits",
    "ImageNet": "imagenet",
    "Kinetics400": "kinetics",
    "MovingDigits": "moving_digits",
    "mae_st_test_starts": "clips",
    "mae_st_train_indices": "clips",
    "videomae_test_starts": "clips",
    "videomae_train_indices": "clips",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
