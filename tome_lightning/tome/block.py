"""One transformer block that merges tokens between its attention and its MLP."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tome_lightning.tome.attention import attend
from tome_lightning.tome.matching import bipartite_soft_matching
from tome_lightning.tome.merge import merge_tokens
from tome_lightning.tome.projection import is_linear
from tome_lightning.tome.state import TokenState


def merging_block(
    block: Any, state: TokenState, r: int, num_prefix: int, prop_attn: bool
) -> TokenState:
    """Run a stock timm Block and merge r tokens on the way (ToMe, section 3).

    A function of its arguments: the block is only read, so its parameters keep their names, and
    recomputing it under activation checkpointing gives the same tokens.

    Args:
        block: Pre-norm timm Block with timm's plain Attention.
        state: N tokens.
        r: Tokens to merge, already clamped; 0 leaves exactly the block's own forward.
        num_prefix: Leading tokens that never merge.
        prop_attn: Whether attention counts a merged token as often as the patches it stands for.

    Returns:
        N - r tokens.
    """
    normed = block.norm1(state.x)
    attended = attend(block.attn, normed, state.size if prop_attn else None)
    x = state.x + block.drop_path1(block.ls1(attended))
    state = state._replace(x=x)
    if r:
        matching = bipartite_soft_matching(head_mean_keys(block.attn, normed), r, num_prefix)
        state = merge_tokens(state, matching)
    x = state.x
    return state._replace(x=x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))


@torch.no_grad()
def head_mean_keys(attn: Any, normed: Tensor) -> Tensor:
    """The mean over heads of the attention's keys: what tokens are matched on (ToMe, table 1a).

    Keys are linear in the block's normalised input, so head-averaged weights give their mean with a
    product H times smaller than the keys themselves. With a key norm, or where the projection is no
    plain Linear any more (adapters, quantisation), the keys are computed in full.

    Args:
        attn: timm Attention with H heads.
        normed: The block's normalised input, ``[B, N, C]``.

    Returns:
        ``[B, N, head_dim]``, float32 (float64 for float64 inputs), also under autocast.
    """
    keys = slice(attn.attn_dim, 2 * attn.attn_dim)
    heads = (attn.num_heads, attn.head_dim)
    dtype = torch.promote_types(normed.dtype, torch.float32)
    with torch.autocast(normed.device.type, enabled=False):
        if not is_linear(attn.qkv) or not isinstance(attn.k_norm, nn.Identity):
            k = attn.k_norm(attn.qkv(normed)[..., keys].unflatten(-1, heads).transpose(1, 2))
            mean: Tensor = k.to(dtype).mean(dim=1)
            return mean
        weight = attn.qkv.weight[keys].to(dtype).unflatten(0, heads).mean(dim=0)
        bias = attn.qkv.bias
        if bias is not None:
            bias = bias[keys].to(dtype).unflatten(0, heads).mean(dim=0)
        return F.linear(normed.to(dtype), weight, bias)
