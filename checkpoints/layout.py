"""What the names and shapes of a state dict say about the encoder in it, for every family."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from .errors import CheckpointError

KERNEL = "patch_embed.proj.weight"  # the patch embedding's convolution, [D, C, (T,) P, P]
Positions = Literal["separable", "joint", "sinusoid"]

_BLOCK = re.compile(r"^blocks\.(\d+)\.")
SIZES = {(192, 12): "ViT-T", (384, 12): "ViT-S", (768, 12): "ViT-B", (1024, 24): "ViT-L"}
SIZES |= {(1280, 32): "ViT-H"}


class EncoderSize(NamedTuple):
    """Blocks and channels of an encoder; prints as `24 blocks of width 1024 (ViT-L)`."""

    depth: int
    width: int

    def __str__(self) -> str:
        name = SIZES.get((self.width, self.depth))
        return f"{self.depth} blocks of width {self.width}" + (f" ({name})" if name else "")


def encoder_size(weights: Mapping[str, Tensor]) -> EncoderSize:
    """Depth and width of the encoder in a file (any family) or in a model's state dict.

    Raises CheckpointError when there are no ViT blocks or no patch kernel: not a ViT.
    """
    blocks = {match[1] for name in weights if (match := _BLOCK.match(name))}
    kernel = weights.get(KERNEL)
    if not blocks or kernel is None:
        raise CheckpointError(
            f"it holds no ViT (no {KERNEL} and blocks.0.*), it starts with {some(weights)}: "
            "give a ViT checkpoint with the names of timm or of the MAE releases"
        )
    return EncoderSize(len(blocks), kernel.shape[0])


def tubelet_of(weights: Mapping[str, Tensor]) -> int | None:
    """Frames under one patch of a video model or file; None for images and spectrograms."""
    kernel = weights.get(KERNEL)
    return kernel.shape[2] if kernel is not None and kernel.ndim == 5 else None


def positions_of(weights: Mapping[str, Tensor]) -> Positions | None:
    """How a video file or model marks place and time; None where the patches are not video's.

    "separable" is a table over space and one over time, "joint" one over both, "sinusoid" a fixed
    table, which nobody saves.
    """
    if tubelet_of(weights) is None:
        return None
    if "pos_embed_spatial" in weights:
        return "separable"
    return "joint" if "pos_embed" in weights else "sinusoid"


def is_decoder(name: str) -> bool:
    """Whether a file's name belongs to MAE's decoder, in any family.

    A mask token is the decoder's too; left in, timm's own filter takes the file for DINOv2.
    """
    return name.startswith(("decoder", "encoder_to_decoder")) or name == "mask_token"


def in_head(name: str) -> bool:
    """Whether a name belongs to the classifier (DeiT's distilled models have a second one)."""
    return name.startswith(("head.", "head_dist."))


def side(count: int) -> int | None:
    """The side of a square grid of `count` patches; None when they fill no square."""
    root = round(max(count, 0) ** 0.5)
    # A rounded root is not enough: 1568 video positions would pass for 40 x 40.
    return root if root > 0 and root * root == count else None


def some(names: Iterable[str], few: int = 3) -> str:
    """The first names and how many more there are, for a message."""
    listed = list(names)
    more = f" and {len(listed) - few} more" if len(listed) > few else ""
    return (", ".join(listed[:few]) or "nothing") + more
