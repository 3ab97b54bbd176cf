"""How the samples were prepared that weights were trained and measured on, as far as it is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_pretrained_cfg
from torch import Tensor

from .layout import KERNEL, side


@dataclass(frozen=True)
class Preprocessing:
    """What weights want of their data; None is not known, or does not matter to an encoder.

    The names are those of the data modules' options: `mean` and `std` of each channel on the scale 0
    to 1 (of sound in natural logarithms), `size` in pixels, `interpolation` and `crop_pct` of evaluation.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    interpolation: str | None = None
    crop_pct: float | None = None

    def known(self) -> dict[str, Any]:
        """What is known, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


_HALF = ((0.45,) * 3, (0.225,) * 3)
_IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
# Published by the authors; a timm file without a tag may have been trained on anything.
_FAMILIES: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mae": _IMAGENET,
    "tome": _IMAGENET,
    "mae_st": _HALF,
    "videomae": _IMAGENET,
    "audiomae": ((-4.2677393,), (4.5689974,)),
}


def of_family(family: str, tuned: bool, size: int | None = None) -> Preprocessing:
    """What the published files of a family want; of fine-tuned image models also their crop."""
    mean, std = _FAMILIES.get(family, (None, None))
    if not tuned or family not in ("mae", "tome"):
        return Preprocessing(mean, std, size)
    crop = None if size is None else 224 / 256 if size <= 224 else 1.0  # as MAE evaluates
    return Preprocessing(mean, std, size, "bicubic", crop)


def of_timm(name: str, tuned: bool) -> Preprocessing:
    """What timm's configuration of a tag says."""
    config = get_pretrained_cfg(name)
    if config is None:
        return Preprocessing()
    size = config.input_size[-1] if config.input_size else None
    crop = (config.interpolation, config.crop_pct) if tuned else (None, None)
    return Preprocessing(tuple(config.mean), tuple(config.std), size, *crop)


def of_ours(noted: Mapping[str, object]) -> Preprocessing:
    """What a checkpoint of ours, a run's or an export, has noted of its data."""
    found: dict[str, Any] = {}
    for name in ("mean", "std"):
        value = noted.get(name)
        values = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(number, int | float) for number in values):
            found[name] = tuple(map(float, values))
    for name, kind in (("size", int), ("interpolation", str), ("crop_pct", float)):
        if isinstance(value := noted.get(name), kind):
            found[name] = value
    return Preprocessing(**found)


def size_of(weights: Mapping[str, Tensor]) -> int | None:
    """Pixels a side of the square images whose position table a file has."""
    kernel, table = weights.get(KERNEL), weights.get("pos_embed")
    if kernel is None or table is None or kernel.ndim != 4 or table.ndim != 3:
        return None
    edge = side(table.shape[1] - int("cls_token" in weights))
    return edge * kernel.shape[-1] if edge else None
