"""One transformer block that merges tokens between its attention and its MLP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tome_lightning.tome.attention import attend
from tome_lightning.tome.matching import Matching, bipartite_soft_matching
from tome_lightning.tome.merge import merge_tokens
from tome_lightning.tome.state import TokenState


def merging_block(
    block: Any,
    state: TokenState,
    r: int,
    num_prefix: int,
    prop_attn: bool,
    kept: list[Matching] | None = None,
) -> TokenState:
    """Run a stock timm Block and merge r tokens on the way (ToMe, section 3).

    A function of its arguments: the block is only read, so its parameters keep their names.

    Args:
        block: Pre-norm timm Block with timm's plain Attention.
        state: N tokens.
        r: Tokens to merge, already clamped; 0 leaves exactly the block's own forward.
        num_prefix: Leading tokens that never merge.
        prop_attn: Whether attention counts a merged token as often as the patches it stands for.
        kept: Where the matching is put if empty, and taken from if not (see ``recompute``).

    Returns:
        N - r tokens.
    """
    normed = block.norm1(state.x)
    size = state.size if prop_attn else None
    if r or size is not None:
        attended, keys = attend(block.attn, normed, size)
    else:
        attended = block.attn(normed)
    state = state._replace(x=state.x + block.drop_path1(block.ls1(attended)))
    if r:
        matching = kept[0] if kept else bipartite_soft_matching(head_mean(keys), r, num_prefix)
        if kept == []:
            kept.append(matching)
        state = merge_tokens(state, matching)
    x = state.x
    return state._replace(x=x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))


@torch.no_grad()
def head_mean(keys: Tensor) -> Tensor:
    """The mean over heads of the attention's keys: what tokens are matched on (ToMe, table 1a).

    Of the keys that attention has made, in its precision: no product is made for it. The mean itself is
    float32: in bfloat16 more of the choices would be other ones than float32's.

    Args:
        keys: ``[B, H, N, head_dim]``.

    Returns:
        ``[B, N, head_dim]``, float32 (float64 of float64 keys), also under autocast.
    """
    return keys.mean(dim=1, dtype=torch.promote_types(keys.dtype, torch.float32))
