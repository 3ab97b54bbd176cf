"""Spatio-temporal MAE (video), as its own repository and PySlowFast write it.

Pre-trained and fine-tuned files end in the same `norm`, which comes after the average over
patches: timm's `fc_norm`. The pre-trained one's values are kept, unlike image MAE's. In a model without
class token the original leaves the first patch out of the average; timm does not.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .layout import tubelet_of

NAME = "mae_st"

_QUERY = re.compile(r"^(blocks\.\d+\.attn\.)q\.(weight|bias)$")


def matches(weights: Mapping[str, Tensor]) -> bool:
    """3-D patches: VideoMAE, asked before, takes those without learned positions."""
    return tubelet_of(weights) is not None


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """q, k and v in one, `norm` as `fc_norm`, PySlowFast's `head.projection` as `head`."""
    has_fc_norm = "fc_norm.weight" in weights
    converted: dict[str, Tensor] = {}
    for name, value in weights.items():
        name = name.replace("head.projection.", "head.", 1)
        converted[name if has_fc_norm else re.sub(r"^norm\.", "fc_norm.", name)] = value
    for name in weights:
        if query := _QUERY.match(name):
            _fuse(converted, *query.groups())
    return converted


def _fuse(weights: dict[str, Tensor], attention: str, kind: str) -> None:
    parts = [f"{attention}{part}.{kind}" for part in "qkv"]
    if all(part in weights for part in parts):  # else loading says that qkv is missing
        fused = torch.cat([weights.pop(part) for part in parts])  # [3*D, D] or [3*D], in this order
        weights[f"{attention}qkv.{kind}"] = fused
