"""AudioMAE (spectrograms): image MAE's names, with one input channel and a time x mel grid.

Token (t, f) has row F*t + f of the position table, after the class token's. The values in the
published tables are sines and cosines of a grid with its axes swapped, 8x64: they are
what the network learned with, so they are taken from the file and never made anew.
"""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from .layout import KERNEL, side

NAME = "audiomae"

MelGrid = tuple[int, int]
"""Patches over time and over the mels: (64, 8) of 1024 frames of 128 mels in patches of 16."""

PUBLISHED: Mapping[int, MelGrid] = MappingProxyType({512: (64, 8), 1212: (101, 12)})
"""The grids of AudioMAE's models by their patch counts: 1024x128 at stride 16, and at stride 10."""


def matches(weights: Mapping[str, Tensor]) -> bool:
    """One input channel, and a table that fills no square, or AudioMAE's own decoder."""
    kernel, positions = weights.get(KERNEL), weights.get("pos_embed")
    if kernel is None or positions is None or kernel.ndim != 4 or positions.ndim != 3:
        return False
    if kernel.shape[1] != 1:
        return False
    # With no, one or two rows of prefix tokens: not all grey image models have one for each.
    square = any(side(positions.shape[1] - prefix) for prefix in range(3))
    return not square or any(".meta_mlp." in name for name in weights)


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same names and values: AudioMAE uses timm's."""
    return dict(weights)


def published_grid(weights: Mapping[str, Tensor]) -> MelGrid | None:
    """The grid of a file of one of the published sizes."""
    return PUBLISHED.get(weights["pos_embed"].shape[1] - int("cls_token" in weights))
