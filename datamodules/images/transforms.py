"""How an image is turned into a tensor, in training and in evaluation."""

from collections.abc import Callable
from typing import Any, Literal

from PIL import Image
from timm.data import auto_augment as timm_ops
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import v2

from datamodules.errors import DataError

Interpolation = Literal["bilinear", "bicubic"]


def train_transform(
    size: int,
    mean: tuple[float, ...],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    hflip: float,
    auto_augment: str | None,
    color_jitter: float | None,
    interpolation: Interpolation,
) -> Callable[[Image.Image], Tensor]:
    """Random resized crop, flip, RandAugment: timm's order, which is MAE's; the rest is on the device.

    The random draws come from the generators of random, numpy and torch. `mean` fills what a rotation,
    shear or shift uncovers.

    Returns:
        A function from an image to `[C, size, size]` uint8.

    Raises:
        DataError: timm does not understand `auto_augment` or another setting.
    """
    try:
        transform: T.Compose = create_transform(
            (len(mean), size, size),
            is_training=True,
            scale=scale,
            ratio=ratio,
            hflip=hflip,
            color_jitter=color_jitter,  # type: ignore[arg-type]  # None turns it off
            auto_augment=auto_augment,
            interpolation=interpolation,
            mean=mean,
            normalize=False,
        )
        allow_zero_bits(transform)
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"timm cannot build the training transforms from auto_augment={auto_augment!r} "
            f"({type(error).__name__} {error}); MAE's is rand-m9-mstd0.5-inc1"
        ) from None
    return transform


def allow_zero_bits(transform: T.Compose) -> None:
    """Replace timm's posterize in `transform` by one that accepts 0 bits.

    "rand-m9-mstd0.5-inc1" asks for 0 bits in 2% of its posterizations (a magnitude of 10). Older
    Pillow made the image black; Pillow 13 raises.
    """
    for step in transform.transforms:
        if isinstance(step, timm_ops.AutoAugment):
            ops = [op for policy in step.policy for op in policy]
        elif isinstance(step, timm_ops.RandAugment | timm_ops.AugMixAugment):
            ops = list(step.ops)
        else:
            continue
        for op in ops:
            if op.name.startswith("Posterize"):
                op.aug_fn = posterize


def posterize(image: Image.Image, bits: int, **unused: Any) -> Image.Image:
    """Keep the upper `bits` of each channel; 0 bits are black."""
    if bits < 1:
        return Image.new(image.mode, image.size)
    kept: Image.Image = timm_ops.posterize(image, bits)
    return kept


class EvalTransform:
    """Resize the short side to `int(size / crop_pct)`, crop the centre.

    Returns:
        `[1, C, size, size]` uint8: one view.
    """

    def __init__(self, size: int, crop_pct: float, interpolation: Interpolation) -> None:
        self.transform = v2.Compose(
            [
                v2.Resize(
                    int(size / crop_pct), v2.InterpolationMode(interpolation), antialias=True
                ),
                v2.CenterCrop(size),
                v2.PILToTensor(),
            ]
        )

    def __call__(self, image: Image.Image) -> Tensor:
        view: Tensor = self.transform(image)  # [C, size, size]
        return view.unsqueeze(0)
