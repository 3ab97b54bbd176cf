"""Bipartite soft matching: which tokens merge, and into which."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Matching(NamedTuple):
    """One merge step as indices, so that it can be printed, tested, traced and undone.

    Attributes:
        keep: Tokens that stay, in output order, as positions in the input, ``[B, N - r]``.
        src: Tokens that are merged away, as positions in the input, most similar first, ``[B, r]``.
        dst: Where each of them lands, as positions in the *output*, ``[B, r]``.
    """

    keep: Tensor
    src: Tensor
    dst: Tensor


def max_r(num_tokens: int, num_prefix: int) -> int:
    """The most tokens one step can merge: half of the tokens that are not prefix tokens."""
    return max(0, (num_tokens - num_prefix) // 2)


@torch.no_grad()
def bipartite_soft_matching(metric: Tensor, r: int, num_prefix: int) -> Matching:
    """Find the r most similar pairs between the tokens at even and at odd positions.

    Every even token proposes the odd token it is most similar to (cosine); the r best proposals are
    taken (ToMe, section 3: steps 1-4 of bipartite soft matching). Prefix tokens take no part, but
    they count for the parity: patch i is a source when ``i + num_prefix`` is even.

    The output order is the reference's: prefix tokens; then the sources that were not merged, by
    position if there are prefix tokens, else from most to least similar; then all destinations by
    position. Later splits depend on that order.

    Args:
        metric: What similarity is measured on, e.g. the head-mean of the keys, ``[B, N, D]``.
        r: Tokens to merge, between 1 and ``max_r(N, num_prefix)``.
        num_prefix: Leading tokens that never merge.

    Raises:
        ValueError: If r is not between 1 and the maximum.
    """
    batch, num_tokens, _ = metric.shape
    if not 0 < r <= max_r(num_tokens, num_prefix):
        raise ValueError(
            f"r must be between 1 and {max_r(num_tokens, num_prefix)} for {num_tokens} tokens of "
            f"which {num_prefix} never merge, got {r}. Clamp it with layer_plan()."
        )
    first_source = num_prefix + num_prefix % 2
    first_target = num_prefix + 1 - num_prefix % 2
    # float32, whatever autocast says: in bfloat16 a tenth of the best partners tie at video length.
    # torch.set_float32_matmul_precision("high"), if set, rounds this product, too.
    # F.normalize divides by max(norm, eps), so a zero key is similar to nothing instead of NaN.
    with torch.autocast(metric.device.type, enabled=False):
        metric = metric.to(torch.promote_types(metric.dtype, torch.float32))
        metric = F.normalize(metric, dim=-1)
        scores = metric[:, first_source::2] @ metric[:, first_target::2].transpose(1, 2)
    best, partner = scores.max(dim=-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    sources = order * 2 + first_source  # from even patches to positions
    src, unmerged = sources[:, :r], sources[:, r:]
    if num_prefix:
        unmerged = unmerged.sort(dim=-1).values

    positions = torch.arange(num_tokens, device=metric.device).expand(batch, -1)
    keep = torch.cat([positions[:, :num_prefix], unmerged, positions[:, first_target::2]], dim=1)
    dst = partner.gather(1, order[:, :r]) + (num_prefix + unmerged.shape[1])
    return Matching(keep=keep, src=src, dst=dst)
