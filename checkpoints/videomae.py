"""VideoMAE (video): recognised, not loaded yet."""

from collections.abc import Mapping

from torch import Tensor

from .errors import CheckpointError
from .layout import patch_kernel

NAME = "videomae"


def matches(weights: Mapping[str, Tensor]) -> bool:
    """3-D patches with an `encoder.` prefix (pre-trained) or with q and v biases apart."""
    kernel = patch_kernel(weights)
    # BEiT has q_bias too, I-JEPA the prefix: both on 2-D patches.
    tubelets = kernel is not None and kernel.ndim == 5
    return tubelets and any(
        name.startswith("encoder.") or name.endswith("attn.q_bias") for name in weights
    )


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Raises CheckpointError: video models are still to come."""
    raise CheckpointError(
        "the file is a VideoMAE video checkpoint, with 3-D patches and neither class token nor "
        "position table, which an image ViT cannot take: use an image checkpoint (mae, tome, timm)"
    )
