"""Spectrograms in a timm ViT: overlapping patches, and the masking of AudioMAE's fine-tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, cast

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from datamodules.sounds.features import MEAN, STD
from tome_lightning.inputs.base import Input, InputError, check_free, check_multiple, timm_arguments


class OverlapEmbed(PatchEmbed):
    """timm's PatchEmbed with patches that begin every ``stride`` cells, so that they overlap.

    Cells that no whole patch reaches are left out: 1024x128 at patch 16, stride 10 give 101x12.

    Args:
        stride: Distance between patches, up to ``patch_size``.
        img_size, timm_kwargs: As PatchEmbed's.
    """

    def __init__(self, img_size: tuple[int, int], stride: int, **timm_kwargs: Any) -> None:
        self.stride = stride  # before timm's own, which counts the patches
        super().__init__(img_size=img_size, **timm_kwargs)
        self.proj.stride = (stride, stride)

    def _init_img_size(self, img_size: Any) -> tuple[tuple[int, int], tuple[int, int], int]:
        grid = self.dynamic_feat_size(img_size)
        return img_size, grid, grid[0] * grid[1]

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Patches of (rows, columns)."""
        rows, columns = (
            (size - patch) // self.stride + 1
            for size, patch in zip(img_size, self.patch_size, strict=True)
        )
        return rows, columns


class GridMasking(nn.Module):
    """Drops whole columns of time and whole rows of frequency, in training only.

    Takes the place of timm's patch dropout (``vit.patch_drop``). Each sample keeps
    ``int(T * (1 - time))`` of its T steps and ``int(F * (1 - freq))`` of its F bands (AudioMAE's
    fine-tuning: 51 of 64 and 6 of 8). The tokens that are kept stay in their order: AudioMAE shuffles
    them, which would make ToMe's alternating split a random one.

    Args:
        grid: (T, F) tokens over time and frequency, time slowest.
        time: Share of the steps that are dropped, 0 to below 1.
        freq: Share of the bands that are dropped.
        num_prefix: Tokens before the grid's, which are kept.

    Raises:
        ValueError: If a share is none, or leaves nothing.
    """

    def __init__(
        self, grid: tuple[int, int], time: float, freq: float, num_prefix: int = 1
    ) -> None:
        super().__init__()
        self.grid = grid
        self.kept = kept_of(grid[0], time, "time"), kept_of(grid[1], freq, "freq")
        self.num_prefix = num_prefix

    @property
    def num_kept(self) -> int:
        """Tokens of the grid that are left in training."""
        return self.kept[0] * self.kept[1]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, num_prefix + T*F, D]`` to ``[B, num_prefix + num_kept, D]``; unchanged in eval."""
        if not self.training:
            return x
        steps, bands = (
            torch.rand(len(x), size, device=x.device).argsort(dim=1)[:, :kept].sort(dim=1).values
            for size, kept in zip(self.grid, self.kept, strict=True)
        )
        rows = (steps[:, :, None] * self.grid[1] + bands[:, None]).flatten(1) + self.num_prefix
        kept = x.gather(1, rows[:, :, None].expand(-1, -1, x.shape[2]))
        return torch.cat([x[:, : self.num_prefix], kept], dim=1)

    def extra_repr(self) -> str:
        (steps, bands), (kept_steps, kept_bands) = self.grid, self.kept
        return f"keeps {kept_steps} of {steps} steps x {kept_bands} of {bands} bands"


def kept_of(size: int, share: float, name: str) -> int:
    """How many of ``size`` steps or bands are left when that share is dropped.

    Raises:
        ValueError: If the share is none, or leaves nothing.
    """
    if not 0 <= share < 1:
        raise ValueError(f"mask_{name} is the share that is dropped, 0 to below 1, got {share}")
    kept = math.floor(size * (1 - share) + 1e-9)  # 10 * (1 - 0.9) is 1, not 0.999...
    if not kept:
        raise ValueError(f"mask_{name}={share} leaves none of {size}; at most {1 - 1 / size:g}")
    return kept


@dataclass(frozen=True)
class Spectrogram(Input):
    """Log-mel spectrograms ``[1, frames, mels]``, time first, cut into square patches.

    Tokens are ordered time slowest. Positions are one row a token; AudioMAE's come from its
    checkpoint and nowhere else (its table is no sine and cosine table of this grid).

    Args:
        frames: Feature frames of a clip; 1024 at 10 ms are 10.24 s.
        mels: Mel bands.
        patch: Side of a patch in cells.
        stride: Distance between patches; smaller than ``patch``, they overlap.
        mask_time: Share of the columns of tokens (one step in time each) that are dropped in training.
        mask_freq: Share of the rows of tokens (one band each) that are dropped in training.
    """

    frames: int = 1024
    mels: int = 128
    patch: int = 16
    stride: int = 16
    mask_time: float = 0.0
    mask_freq: float = 0.0

    axes: ClassVar[str] = "channels x frames x mels"
    usual_mean: ClassVar[tuple[float, ...]] = (MEAN,)
    usual_std: ClassVar[tuple[float, ...]] = (STD,)

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.frames, self.mels)

    def build(self, **timm_kwargs: Any) -> VisionTransformer:
        """See ``Input.build``; pools by averaging (``global_pool="avg"``) unless told otherwise."""
        timm_kwargs = timm_arguments(timm_kwargs)
        self._check()
        check_free(self, timm_kwargs)
        masks = self.mask_time != 0 or self.mask_freq != 0
        if masks and timm_kwargs.get("patch_drop_rate"):
            raise InputError(
                "model.vit.patch_drop_rate and the masking of columns and rows both drop tokens. "
                "Leave it out, or set model.input's mask_time and mask_freq to 0."
            )
        timm_kwargs = {"global_pool": "avg", **timm_kwargs}
        if self.stride != self.patch:
            timm_kwargs["embed_layer"] = partial(OverlapEmbed, stride=self.stride)
        try:
            vit = VisionTransformer(
                img_size=(self.frames, self.mels), patch_size=self.patch, in_chans=1, **timm_kwargs
            )
        except (AssertionError, TypeError) as error:  # timm states its conditions as asserts
            raise InputError(f"timm cannot build a ViT from {timm_kwargs}: {error}") from error
        if masks:
            grid, prefix = vit.patch_embed.grid_size, vit.num_prefix_tokens
            try:
                masking = GridMasking(grid, self.mask_time, self.mask_freq, prefix)
            except ValueError as error:
                raise InputError(f"model.input.{error}.") from error
            vit.patch_drop = cast(Any, masking)
        return vit

    def _check(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)):
                raise InputError(f"model.input.{field.name} must be a number, got {value}.")
        if not 1 <= self.stride <= self.patch:
            raise InputError(
                f"model.input.stride is the distance between patches, 1 to their side "
                f"{self.patch} (beyond it, cells would be skipped), got {self.stride}."
            )
        for what, size in (("Number of frames", self.frames), ("Number of mels", self.mels)):
            if self.stride == self.patch:
                check_multiple(what, size, f"patches of {self.patch}", self.patch)
            elif size < self.patch:
                raise InputError(f"{what} {size} is smaller than a patch, {self.patch}. Raise it.")
