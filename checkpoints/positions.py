"""Position tables of another image size."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .errors import CheckpointError
from .layout import side


def interpolate_positions(pos: Tensor, grid: tuple[int, int], num_prefix: int) -> Tensor:
    """Resample a learned position table to another patch grid, the way MAE does.

    Bicubic, half-pixel centres, no antialiasing, in float32. timm resamples with antialiasing,
    which changes the bicubic kernel even when the grid grows; timm's own checkpoints are
    resampled MAE's way here too.

    Args:
        pos: [1, P + S*S, D], the prefix rows (class token) first, then a square grid row by row.
        grid: rows and columns (h, w) of patches wanted.
        num_prefix: P, rows that are kept as they are.

    Returns:
        [1, P + h*w, D] in float32.

    Raises:
        CheckpointError: the rows after the prefix fill no square grid.
    """
    count = pos.shape[1] - num_prefix
    edge = side(count)
    if edge is None:
        raise CheckpointError(
            f"the file's position table has {pos.shape[1]} rows, of which {count} remain after the "
            f"model's {num_prefix} for prefix tokens and fill no square, so they do not fit "
            f"{grid[0]}x{grid[1]} patches: build the model for the file's input size and tokens"
        )
    pos = pos.detach().float()
    prefix, patches = pos[:, :num_prefix], pos[:, num_prefix:]
    if (edge, edge) != tuple(grid):
        image = patches.reshape(1, edge, edge, -1).permute(0, 3, 1, 2)  # [1, D, S, S]
        image = interpolate(image, size=grid, mode="bicubic", align_corners=False, antialias=False)
        patches = image.flatten(2).transpose(1, 2)  # [1, h*w, D]
    return torch.cat([prefix, patches], dim=1)
