"""Which patches are in one token, as indices over the grid of patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tome_lightning.tome import R, ToMeViT
from tome_lightning.tome.plan import check_possible


@dataclass(frozen=True)
class Groups:
    """The groups of one sample at one r, after so many blocks.

    Attributes:
        r: Tokens merged per block.
        depth: Blocks that have run.
        tokens: Tokens left, prefix tokens included.
        ids: Number of each patch's group, 0 to the number of groups - 1: int64 ``[h, w]`` of an image or
            a spectrogram (time first), ``[t, h, w]`` of a clip.
    """

    r: R
    depth: int
    tokens: int
    ids: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Patches in each group."""
        return np.bincount(self.ids.ravel())

    @property
    def when(self) -> str:
        """r and the blocks that have run, in words."""
        r = self.r
        if isinstance(r, dict):
            words = ", ".join(f"{name} {value:g}" for name, value in r.items()).removeprefix("r ")
        else:
            words = str(r) if isinstance(r, int) else ",".join(map(str, r))
        name = "" if words.startswith("keep") else "r "
        return f"{name}{words if len(words) < 25 else words[:22] + '..'}, block {self.depth}"

    @property
    def label(self) -> str:
        """For a picture: r, blocks, tokens."""
        return f"{self.when}: {self.tokens} tokens"


@torch.no_grad()
def trace_groups(
    model: ToMeViT, x: Tensor, rs: Sequence[R], depths: Sequence[int] | None = None
) -> list[list[Groups]]:
    """Follow every patch of a batch through the model.

    Args:
        model: In evaluation mode; its r is left as it was.
        x: A batch, ``[B, ...]``.
        rs: Values of r.
        depths: Numbers of blocks after which to look; all blocks by default.

    Returns:
        For each sample its groups: for each r, and for each depth in it.

    Raises:
        PlanError: An r that the model has not the tokens for.
        ValueError: A depth that is not 1 to the number of blocks.
    """
    depths = [model.depth] if depths is None else list(depths)
    for depth in depths:
        if not 1 <= depth <= model.depth:
            raise ValueError(f"depth is 1 to {model.depth}, the blocks of this model, got {depth}.")
    grid = tuple(int(side) for side in model.vit.patch_embed.dynamic_feat_size(x.shape[2:]))
    num_tokens = math.prod(grid) + model.num_prefix
    for r in rs:
        check_possible(r, model.depth, num_tokens, model.num_prefix)
    found: list[list[Groups]] = [[] for _ in range(len(x))]
    before = model.r
    try:
        for r in rs:
            model.r = r
            plan = model.plan(num_tokens)
            for depth, source in zip(depths, model.forward_sources(x, depths), strict=True):
                tokens = num_tokens - sum(plan[:depth])
                for place, row in enumerate(source[:, model.num_prefix :].cpu().numpy()):
                    ids = np.unique(row, return_inverse=True)[1].reshape(grid)
                    found[place].append(Groups(r, depth, tokens, ids.astype(np.int64)))
    finally:
        model.r = before
    return found
