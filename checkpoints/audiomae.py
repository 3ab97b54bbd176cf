"""AudioMAE (spectrograms): recognised, not loaded yet."""

from collections.abc import Mapping

from torch import Tensor

from .errors import CheckpointError
from .layout import patch_kernel, side

NAME = "audiomae"


def matches(weights: Mapping[str, Tensor]) -> bool:
    """One input channel, and patches that fill no square: 512 or 1212 and the class token's."""
    kernel, positions = patch_kernel(weights), weights.get("pos_embed")
    if kernel is None or positions is None or kernel.ndim != 4 or positions.ndim != 3:
        return False
    return kernel.shape[1] == 1 and side(positions.shape[1] - 1) is None


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Raises CheckpointError: audio models are still to come."""
    raise CheckpointError(
        "the file is an AudioMAE spectrogram checkpoint, with one input channel and a "
        "time x frequency grid, which an image ViT cannot take: "
        "use an image checkpoint (mae, tome, timm)"
    )
