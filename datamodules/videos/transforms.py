"""How a decoded clip is turned into the model's input, in training and in evaluation.

A decoded clip is uint8 `[T, H, W, 3]`. As in the fine-tuning code of MAE-ST (Feichtenhofer et al.
2022) and VideoMAE (Tong et al. 2022), whatever is drawn is drawn once for the whole clip, and frames
are resized bilinearly without antialiasing.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment, rand_augment_transform
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from datamodules.errors import DataError, require
from datamodules.images.transforms import allow_zero_bits
from datamodules.videos.clips import crop_starts

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in PIL's grey
FILL = 128  # of what a rotation, shear or shift uncovers: timm's grey


class ClipTrainTransform:
    """RandAugment, random resized crop, flip: `repeat_aug` times; the rest is done on the device.

    The random draws come from the CPU generators of random, numpy and torch. To be shipped as uint8 the
    resized frames are rounded, by half a grey level at most, where MAE-ST leaves fractions; those of
    `ClipEvalTransform` are exact.

    Args:
        size: Side of the square frames in pixels.
        channels: 3 for RGB, 1 for grey.
        scale: Range of the random crop's share of the frame's area.
        ratio: Range of the random crop's width over height.
        hflip: Probability of a horizontal flip.
        auto_augment: timm's string for RandAugment; None for none.
        repeat_aug: Augmentations R of a decoded clip.

    Raises:
        DataError: A setting has no meaning.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        hflip: float,
        auto_augment: str | None,
        repeat_aug: int,
    ) -> None:
        require("size", size, size >= 1, "1 or more")
        require("channels", channels, channels in (1, 3), "1 or 3")
        for name, pair in (("scale", scale), ("ratio", ratio)):
            require(name, pair, 0 < pair[0] <= pair[1], "a range (low, high) above 0")
        require("hflip", hflip, 0 <= hflip <= 1, "in [0, 1]")
        require("repeat_aug", repeat_aug, repeat_aug >= 1, "1 or more")
        self.size = size
        self.channels = channels
        self.repeat_aug = repeat_aug
        self.augment = None if auto_augment is None else rand_augment(auto_augment, channels)
        self.crop = v2.RandomResizedCrop(size, scale, ratio)
        self.flip = v2.RandomHorizontalFlip(hflip)

    def __call__(self, clip: Tensor) -> Tensor:
        """uint8 `[T, H, W, 3]` to uint8 `[R, C, T, size, size]`."""
        clip = _with_channels(clip, self.channels)
        frames = _to_pil(clip) if self.augment else []
        shape = (self.repeat_aug, self.channels, len(clip), self.size, self.size)
        views = torch.empty(shape, dtype=torch.uint8)
        for view in views:
            if self.augment:
                clip = _from_pil(same_draw(self.augment, frames))
            planes = clip.permute(3, 0, 1, 2)  # [C, T, H, W]
            box = self.crop.make_params([planes])
            resized = resize(F.crop(planes, **box), [self.size, self.size])
            view.copy_(self.flip(resized.round_()))
        return views


class ClipEvalTransform:
    """Resize the short side, crop along the long side, normalise.

    Args:
        size: Side of the square crops in pixels.
        crops: Crops of each clip, spread evenly from left to right or top to bottom; 1 is central.
        mean: Mean of each channel on the scale 0 to 1; one number makes the clip grey.
        std: Standard deviation of each channel on the same scale.
        short_side: Pixels of the resized frames' short side, of which crops take the middle; None
            for `size`.
        rounds_up: Whether a crop that would start at a fraction of a pixel starts at the next one.

    Raises:
        DataError: A setting has no meaning.
    """

    def __init__(
        self,
        size: int,
        crops: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        short_side: int | None = None,
        rounds_up: bool = False,
    ) -> None:
        _check_input(size, mean, std)
        require("crops", crops, crops >= 1, "1 or more")
        self.size = size
        self.short_side = size if short_side is None else short_side
        require("short_side", short_side, self.short_side >= size, f"size ({size}) or more")
        self.rounds_up = rounds_up
        self.crops = crops
        self.mean, self.std = _per_channel(mean), _per_channel(std)

    def __call__(self, clips: Tensor) -> Tensor:
        """uint8 `[K, T, H, W, 3]` to float32 `[K * crops, C, T, size, size]`.

        View v is crop `v % crops` of clip `v // crops`.
        """
        size, frames = self.size, clips.shape[1]
        views = torch.empty(len(clips), self.crops, len(self.mean), frames, size, size)
        for clip, crops in zip(clips, views, strict=True):  # one by one, to save memory
            planes = _with_channels(clip, len(self.mean)).permute(3, 0, 1, 2)
            resized = resize(planes, [self.short_side])
            height, width = resized.shape[-2:]
            long, short = (-2, -1) if height > width else (-1, -2)
            (middle,) = crop_starts(self.short_side, size, 1, up=self.rounds_up)
            band = resized.narrow(short, middle, size)
            starts = crop_starts(max(height, width), size, self.crops, up=self.rounds_up)
            for start, crop in zip(starts, crops, strict=True):
                torch.sub(band.narrow(long, start, size), self.mean, out=crop).div_(self.std)
        return views.flatten(0, 1)


def rand_augment(config: str, channels: int) -> RandAugment:
    """timm's RandAugment, bicubic, for RGB (3 channels) or grey (1) images.

    Raises:
        DataError: timm does not understand `config`.
    """
    # a share of each side is the only shift in it (0.45 at most): timm's translate_const is not read
    settings = {"img_mean": (FILL,) * channels, "interpolation": Image.Resampling.BICUBIC}
    try:
        augment = rand_augment_transform(config, settings)
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"timm cannot build RandAugment from auto_augment={config!r} "
            f"({type(error).__name__} {error}); MAE-ST's is rand-m7-mstd0.5-inc1"
        ) from None
    allow_zero_bits(T.Compose([augment]))
    return augment


def same_draw(
    augment: Callable[[Image.Image], Image.Image], frames: Sequence[Image.Image]
) -> list[Image.Image]:
    """Apply one draw of `augment` to all frames; the generators advance as by one frame."""
    python, numpy = random.getstate(), np.random.get_state()
    augmented = []
    for frame in frames:
        random.setstate(python)
        np.random.set_state(numpy)
        augmented.append(augment(frame))
    return augmented


def resize(planes: Tensor, size: list[int]) -> Tensor:
    """uint8 `[C, T, H, W]` to float32 `[C, T, h, w]`, bilinear; one number is the short side."""
    # float first: resized as uint8 the pixels would be rounded
    pixels = planes.to(torch.float32, memory_format=torch.contiguous_format)
    resized: Tensor = F.resize(pixels, size, antialias=False)
    return resized


def _check_input(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    require("size", size, size >= 1, "1 or more")
    require("mean", mean, len(mean) in (1, 3), "1 or 3 numbers, one a channel")
    require("std", std, len(std) == len(mean), f"{len(mean)} numbers, as many as mean")
    require("std", std, all(value > 0 for value in std), "above 0")


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return 255 * torch.tensor(values).view(-1, 1, 1, 1)  # [C, 1, 1, 1], for pixels from 0 to 255


def _with_channels(clip: Tensor, channels: int) -> Tensor:
    if channels == 3:
        return clip
    grey = clip.float() @ torch.tensor(LUMA)
    return grey.round_().to(torch.uint8).unsqueeze(-1)  # [T, H, W, 1]


def _to_pil(clip: Tensor) -> list[Image.Image]:
    pixels = clip.squeeze(-1) if clip.shape[-1] == 1 else clip
    return [Image.fromarray(frame) for frame in pixels.numpy()]


def _from_pil(frames: list[Image.Image]) -> Tensor:
    clip = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]))
    return clip.unsqueeze(-1) if clip.ndim == 3 else clip
