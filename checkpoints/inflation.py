"""An image model's weights for a video model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .layout import KERNEL, Positions
from .positions import interpolate_positions, materialise, resized


def inflate(
    weights: Mapping[str, Tensor],
    grid: tuple[int, int, int],
    tubelet: int,
    positions: Positions,
) -> dict[str, Tensor]:
    """Spread an image ViT's weights over time, so that a clip of one still frame looks like it.

    The patch kernel is repeated over the tubelet and divided by its length (I3D's way, Carreira
    and Zisserman 2017); the position table is the same at every time; all the rest is as it is.

    Args:
        weights: an image ViT's under timm's names, with `patch_embed.proj.weight` [D, C, P, P]
            and `pos_embed` [1, (1 +) S*S, D].
        grid: steps, rows and columns (t, h, w) of the video model's patches.
        tubelet: frames under one patch.
        positions: how the video model marks place and time. "separable": the image's rows over
            space, zeros over time; "joint": the image's rows at each step; "sinusoid": none.

    Returns:
        The video model's weights; `weights` stays as it is.

    Raises:
        CheckpointError: the image's positions are of another size and fill no square.
    """
    return inflate_noted(weights, grid, tubelet, positions)[0]


def inflate_noted(
    weights: Mapping[str, Tensor],
    grid: tuple[int, int, int],
    tubelet: int,
    positions: Positions,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`inflate`, and of each weight that it made how, in words."""
    video = dict(weights)
    kernel = weights[KERNEL]
    video[KERNEL] = (kernel / tubelet).unsqueeze(2).repeat(1, 1, tubelet, 1, 1)
    notes = {
        KERNEL: f"the image's, over the frames of a tubelet, divided by their number, {tubelet}"
    }
    table = video.pop("pos_embed", None)
    if table is None or positions == "sinusoid":
        return video, notes
    steps, rows, columns = grid
    num_prefix, source = int("cls_token" in weights), "the image's"
    if (count := table.shape[1] - num_prefix) != rows * columns:
        table = interpolate_positions(table, (rows, columns), num_prefix)
        source += f", {resized(count, (rows, columns))}"
    prefix, spatial = table[:, :num_prefix], table[:, num_prefix:]
    temporal = torch.zeros_like(spatial[:, :1]).repeat(1, steps, 1)
    if positions == "joint":
        joint = materialise(spatial, temporal, prefix)
        return video | {"pos_embed": joint}, notes | {"pos_embed": f"{source}, at every time step"}
    video |= {"pos_embed_spatial": spatial, "pos_embed_temporal": temporal}
    notes |= {"pos_embed_spatial": source, "pos_embed_temporal": "zeros, an image has no time"}
    if num_prefix:
        video["pos_embed_class"], notes["pos_embed_class"] = prefix, "the image's"
    return video, notes
