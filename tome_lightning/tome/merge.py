"""Merging tokens by a matching, and undoing it."""

from __future__ import annotations

from typing import Any

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
    x, size, source = state
    new_size = _new_size(size, matching)
    wants_grad = torch.is_grad_enabled() and x.requires_grad
    if wants_grad or source is not None:
        index = output_index(matching)
    if source is not None:
        source = index.gather(1, source)
    if wants_grad:
        x = _GroupMean.apply(x, size, new_size, index, *matching)
    else:
        x = _group_mean(x, size, new_size, matching)
    return TokenState(x, new_size, source)


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
    return _rows(x, source, _batch(source))


class _GroupMean(torch.autograd.Function):
    """``_group_mean`` whose gradient is one gather: a token's is its share of its group's.

    Left to autograd, the gradient of the gathers would be scattered sums over all tokens, which on a
    GPU are atomic.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, size: Tensor | None, new_size: Tensor, index: Tensor, *matching: Tensor
    ) -> Tensor:
        return _group_mean(x, size, new_size, Matching(*matching))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:4])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        size, new_size, index = ctx.saved_tensors
        grad = grads[0]
        of_group = new_size.to(_wide(grad)).gather(1, index.unsqueeze(-1))
        share = of_group.reciprocal() if size is None else size / of_group
        # in place, as below: the product is float32 before it is rounded to the gradient's dtype
        return (_rows(grad, index, _batch(index)).mul_(share), *(None,) * 6)


def _group_mean(x: Tensor, size: Tensor | None, new_size: Tensor, matching: Matching) -> Tensor:
    """``[B, N, C] -> [B, N - r, C]``: the size-weighted mean of kept tokens and what lands on them.

    In few passes over the tokens: the sum is made in place, since autograd looks at none of this, and
    the product with float32 sizes is one in float32 without a copy beforehand.
    """
    keep, src, dst = matching
    # without sizes every token is one patch: nothing to multiply
    wide = x.to(_wide(x)) if size is None else x * size
    # Whole rows: gathering along dim 1 with an expanded index copies number by number on a CPU.
    batch = _batch(keep)
    total = _rows(wide, keep, batch).flatten(0, 1)
    landing = _flat(dst, keep.shape[1], batch)
    total.index_add_(0, landing, _rows(wide, src, batch).flatten(0, 1))
    mean = total.unflatten(0, keep.shape) / new_size
    # Neither div_ nor a rounding to the same dtype, as the last operation: where that gives back its own
    # input, torch.compile of 2.11 loses the gradient (PyTorch issue 180642).
    return mean if mean.dtype == x.dtype else mean.to(x.dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _new_size(size: Tensor | None, matching: Matching) -> Tensor:
    """Patches of each output token, ``[B, N - r, 1]``, float32."""
    keep, src, dst = (index.unsqueeze(-1) for index in matching)
    if size is None:
        ones = torch.ones(1, 1, 1, device=keep.device)
        return ones.expand(keep.shape).scatter_add(1, dst, ones.expand(dst.shape))
    return size.gather(1, keep).scatter_add(1, dst, size.gather(1, src))


def _rows(x: Tensor, index: Tensor, batch: Tensor) -> Tensor:
    """Rows of ``[B, N, C]`` by an index ``[B, M]``: ``[B, M, C]``."""
    rows = x.flatten(0, 1).index_select(0, _flat(index, x.shape[1], batch))
    return rows.unflatten(0, index.shape)


def _flat(index: Tensor, length: int, batch: Tensor) -> Tensor:
    """An index into each of B rows of that length as one into all of them: ``[B, M] -> [B * M]``."""
    return torch.add(index, batch, alpha=length).flatten()


def _batch(index: Tensor) -> Tensor:
    """``[[0], [1], ...]``, the place in the batch: ``[B, 1]``."""
    return torch.arange(index.shape[0], device=index.device).unsqueeze(1)
