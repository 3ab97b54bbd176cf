"""Token merging in the operations that a graph for other runtimes can hold: inference only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tome_lightning.tome import ToMeViT
from tome_lightning.tome.attention import attend

Fold = Callable[[Tensor], Tensor]


class MergedForInference(nn.Module):
    """A `ToMeViT` at one fixed r, with the same logits; shares its weights.

    Sorting is ``topk``, merging is a sum and a division, and every count is fixed as the module is
    made, so that it can be traced: r and prop_attn of the model are those of this moment. Where two
    similarities tie exactly, ``torch.topk`` promises no order; ONNX's TopK puts the lower index
    first, as the model's own stable sort does.

    Args:
        model: In evaluation mode; float32 or float64.
        scatter: Whether what merges is added up by scattering; False multiplies by a one-hot matrix
            instead, for runtimes without ScatterElements.
    """

    def __init__(self, model: ToMeViT, scatter: bool = True) -> None:
        super().__init__()
        self.model = model
        self.scatter = scatter
        self.plan = model.plan()
        self.prop_attn = model.prop_attn

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, K]`` of samples ``[B, *input.shape]`` of the model's own size."""
        vit: Any = self.model.vit
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
        size: Tensor | None = None
        for block, r in zip(vit.blocks, self.plan, strict=True):
            x, size = self._block(block, x, size, r)
        tokens = vit.norm(x)
        logits: Tensor = (
            vit.forward_head(tokens) if size is None else self.model.forward_head(tokens, size=size)
        )
        return logits

    def _block(
        self, block: Any, x: Tensor, size: Tensor | None, r: int
    ) -> tuple[Tensor, Tensor | None]:
        """``[B, N, C]`` and sizes ``[B, N, 1]`` to those of N - r tokens."""
        weights = size if self.prop_attn else None
        # kernels that fuse attention are traced in one way and run in another
        attended, keys = attend(block.attn, block.norm1(x), weights, "mask", fused=False)
        x = x + block.ls1(attended)
        if r:
            fold = matched(keys.mean(dim=1), r, self.model.num_prefix, self.scatter)
            size = torch.ones_like(x[..., :1]) if size is None else size
            total, size = fold(torch.cat([x * size, size], dim=-1)).split([x.shape[-1], 1], dim=-1)
            x = total / size
        return x + block.ls2(block.mlp(block.norm2(x))), size


def matched(metric: Tensor, r: int, num_prefix: int, scatter: bool = True) -> Fold:
    """Bipartite soft matching and what it does to tokens: their sums, in the reference's order.

    Which tokens merge and how the output is ordered is `tome.matching.bipartite_soft_matching`'s:
    prefix tokens; sources that stay, by position if there are prefix tokens, else from most to least
    similar; destinations by position.

    Args:
        metric: What similarity is measured on, ``[B, N, D]``.
        r: Tokens to merge, above 0 and already clamped.
        num_prefix: Leading tokens that never merge.
        scatter: See `MergedForInference`.

    Returns:
        A function that adds up ``[B, N, C]`` to ``[B, N - r, C]``.
    """
    first_source = num_prefix + num_prefix % 2
    first_target = num_prefix + 1 - num_prefix % 2
    metric = F.normalize(metric, dim=-1)
    scores = metric[:, first_source::2] @ metric[:, first_target::2].transpose(1, 2)
    best, partner = scores.max(dim=-1)
    sources, targets = scores.shape[1:]
    order = best.topk(sources, dim=-1).indices
    merged, kept = order[:, :r], order[:, r:]
    if num_prefix and r < sources:  # by position, which no two share
        kept = kept.topk(sources - r, dim=-1, largest=False).values
    target = partner.gather(1, merged)

    def fold(x: Tensor) -> Tensor:
        source = x[:, first_source::2]
        moving, onto = rows(source, merged), x[:, first_target::2]
        if scatter:
            onto = onto.scatter_add(1, target.unsqueeze(-1).expand_as(moving), moving)
        else:
            places = torch.arange(targets, device=x.device).view(1, -1, 1)
            onto = onto + (places == target.unsqueeze(1)).to(x.dtype) @ moving
        return torch.cat([x[:, :num_prefix], rows(source, kept), onto], dim=1)

    return fold


def rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of ``[B, N, C]`` by an index ``[B, M]``: ``[B, M, C]``."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
