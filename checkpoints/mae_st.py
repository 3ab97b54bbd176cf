"""Spatio-temporal MAE (video): recognised, not loaded yet."""

from collections.abc import Mapping

from torch import Tensor

from .errors import CheckpointError
from .layout import patch_kernel

NAME = "mae_st"


def matches(weights: Mapping[str, Tensor]) -> bool:
    """Separable positions, or 3-D patches with q, k and v apart."""
    kernel = patch_kernel(weights)
    tubelets = kernel is not None and kernel.ndim == 5
    return "pos_embed_spatial" in weights or (tubelets and "blocks.0.attn.q.weight" in weights)


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Raises CheckpointError: video models are still to come."""
    raise CheckpointError(
        "the file is a spatio-temporal MAE (mae_st) video checkpoint, with 3-D patches and "
        "q, k, v apart, which an image ViT cannot take: use an image checkpoint (mae, tome, timm)"
    )
