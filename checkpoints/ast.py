"""AST (spectrograms), as transformers keeps it: two prefix tokens, patches that overlap.

Its patches run over mels first, with kernels of [mels, time]; ours over time first, so both are turned.
The distillation token becomes timm's register (`reg_tokens=1`), which has a row in the table. The
classifier reads the mean of the two tokens, which no timm ViT does, so it is left out.
"""

from collections.abc import Mapping

from torch import Tensor

from .errors import CheckpointError
from .layout import KERNEL

NAME = "ast"
PREFIX = 2  # class and distillation token
MELS = 12  # patches over 128 mels, 16 wide at stride 10, as in all published files


def matches(weights: Mapping[str, Tensor]) -> bool:
    """One input channel and a distillation token."""
    kernel = weights.get(KERNEL)
    return (
        kernel is not None
        and kernel.ndim == 4
        and kernel.shape[1] == 1
        and "dist_token" in weights
        and "pos_embed" in weights
    )


def grid_of(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """Patches over time and over the mels.

    Raises:
        CheckpointError: the table does not hold whole columns of so many mels.
    """
    count = weights["pos_embed"].shape[1] - PREFIX
    if count < MELS or count % MELS:
        raise CheckpointError(
            f"its {count} positions are no whole number of columns of {MELS} patches over the mels: "
            "give the folder with its config.json"
        )
    return count // MELS, MELS


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Time before mels, in the kernel and in the table; the head left out."""
    return turned(weights, grid_of(weights))


def turned(weights: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """`convert` for a known grid of (time, mels) patches."""
    steps, mels = grid
    converted = {name: value for name, value in weights.items() if "classifier." not in name}
    converted["reg_token"] = converted.pop("dist_token")
    converted[KERNEL] = weights[KERNEL].transpose(2, 3).contiguous()
    table = weights["pos_embed"]
    rows = table[:, PREFIX:].unflatten(1, (mels, steps)).transpose(1, 2).flatten(1, 2)
    converted["pos_embed"] = table[:, :PREFIX].new_empty(table.shape)
    converted["pos_embed"][:, :PREFIX], converted["pos_embed"][:, PREFIX:] = table[:, :PREFIX], rows
    return converted
