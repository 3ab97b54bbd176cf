"""Merging tokens by a matching, and undoing it."""

from __future__ import annotations

import torch
from torch import Tensor

from tome_lightning.tome.matching import Matching
from tome_lightning.tome.state import TokenState


def merge_tokens(state: TokenState, matching: Matching) -> TokenState:
    """Replace each matched pair (or group) by its size-weighted mean.

    Conserves the sum of sizes and the size-weighted mean of x. Sums are taken in float32 (float64
    for float64 tokens) and x keeps its dtype; gradients flow through the sums, not the matching.

    Args:
        state: N tokens.
        matching: Which r of them merge, from ``bipartite_soft_matching``.

    Returns:
        N - r tokens, in the matching's order.
    """
    x = state.x.to(torch.promote_types(state.x.dtype, torch.float32))
    size = state.size
    if size is None:  # every token is one patch: nothing to multiply
        total = _sum_groups(x, matching)
        new_size = _sum_groups(x.new_ones(*x.shape[:2], 1, dtype=torch.float32), matching)
    else:
        total = _sum_groups(x * size, matching)
        new_size = _sum_groups(size, matching)
    source = state.source
    if source is not None:
        source = output_index(matching).gather(1, source)
    return TokenState((total / new_size).to(state.x.dtype), new_size, source)


def output_index(matching: Matching) -> Tensor:
    """For each input token of a merge, the output token it is in: ``[B, N]``."""
    keep, src, dst = matching
    index = keep.new_empty(keep.shape[0], keep.shape[1] + src.shape[1])
    kept = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
    return index.scatter(1, keep, kept).scatter(1, src, dst)


def unmerge(x: Tensor, matching: Matching) -> Tensor:
    """Undo one merge: give every input token the value of the token it merged into.

    Args:
        x: Merged tokens, ``[B, N - r, C]``.
        matching: The matching they were merged by.

    Returns:
        ``[B, N, C]``, in the order the tokens had before the merge.
    """
    return restore_order(x, output_index(matching))


def restore_order(x: Tensor, source: Tensor) -> Tensor:
    """Undo all merges at once: spread merged tokens back over the positions they came from.

    Merging scrambles the order of tokens; only the source trace says which token holds which patch.

    Args:
        x: Merged tokens, ``[B, N, C]``.
        source: For each original token the index of the merged one, ``[B, N0]``.

    Returns:
        ``[B, N0, C]``: position i holds the value of the token that input token i ended in.
    """
    return x.gather(1, source.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _sum_groups(x: Tensor, matching: Matching) -> Tensor:
    """``[B, N, C] -> [B, N - r, C]``: kept tokens plus the sources that land on them."""
    keep, src, dst = (index.unsqueeze(-1).expand(-1, -1, x.shape[-1]) for index in matching)
    return x.gather(1, keep).scatter_add(1, dst, x.gather(1, src))
