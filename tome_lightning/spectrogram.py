"""Spectrograms in a timm ViT: overlapping patches, and the masking of AudioMAE's fine-tuning."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn


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
