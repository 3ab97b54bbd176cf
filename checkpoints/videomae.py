"""VideoMAE (video): neither class token nor saved positions, and keys without bias.

A pre-trained file holds the encoder under `encoder.` (taken off before) and ends in a `norm` that
fine-tuning leaves out, as image MAE does; a fine-tuned one ends in `fc_norm` and `head`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .layout import positions_of, tubelet_of

NAME = "videomae"


def matches(weights: Mapping[str, Tensor]) -> bool:
    """3-D patches with q and v biases apart, or without positions."""
    if tubelet_of(weights) is None:  # BEiT has q_bias too, on 2-D patches
        return False
    apart = any(name.endswith("attn.q_bias") for name in weights)
    return apart or positions_of(weights) == "sinusoid"


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One bias for q, k and v, where k's part is zero."""
    converted: dict[str, Tensor] = {}
    for name, value in weights.items():
        attention, _, part = name.rpartition(".")
        q, v = weights.get(f"{attention}.q_bias"), weights.get(f"{attention}.v_bias")
        if part not in ("q_bias", "v_bias") or q is None or v is None:
            converted[name] = value
        elif part == "q_bias":
            converted[f"{attention}.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])  # [3*D]
    return converted
