"""Data for `tome_lightning`: every class here is a `LightningDataModule` that yields `(x, y, id)`.

`x` is `[B, C, H, W]` in training and `[B, V, C, H, W]` with V views in evaluation; `y` and `id`
are int64 `[B]`. `id` is the sample's index in its split, so that a metric can drop the duplicates
that a distributed evaluation pads with.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.digits import Digits
    from datamodules.errors import DataError
    from datamodules.imagenet import ImageNet

__all__ = ["DataError", "Digits", "ImageNet"]

_HOMES = {"DataError": "errors", "Digits": "digits", "ImageNet": "imagenet"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
