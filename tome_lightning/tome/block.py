"""One transformer block that merges tokens between its attention and its MLP."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tome_lightning.tome.matching import bipartite_soft_matching
from tome_lightning.tome.merge import merge_tokens
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
    bias = size_bias(state.size, normed) if prop_attn else None
    x = state.x + block.drop_path1(block.ls1(block.attn(normed, attn_mask=bias)))
    state = state._replace(x=x)
    if r:
        matching = bipartite_soft_matching(head_mean_keys(block.attn, normed), r, num_prefix)
        state = merge_tokens(state, matching)
    x = state.x
    return state._replace(x=x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))


def size_bias(size: Tensor | None, like: Tensor) -> Tensor | None:
    """Proportional attention: ``log(size)`` as an additive attention bias over the keys.

    ``softmax(q k / sqrt(d) + log s)`` is attention over keys repeated s times (ToMe, equation 1).

    Args:
        size: ``[B, N, 1]``, or ``None`` when every token is one patch.
        like: Where the bias is used; it gets the dtype that attention will run in, because an
            fp32 mask beside bf16 queries was misread by some cuDNN attention kernels.

    Returns:
        ``[B, 1, 1, N]``, or ``None`` where a bias would be all zeros (the fused kernel keeps its
        mask-free path).
    """
    if size is None:
        return None
    device = like.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
    log = size.to(torch.promote_types(dtype, torch.float32)).log()
    return log.to(dtype).transpose(1, 2).unsqueeze(1)


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
        if type(attn.qkv) is not nn.Linear or not isinstance(attn.k_norm, nn.Identity):
            k = attn.k_norm(attn.qkv(normed)[..., keys].unflatten(-1, heads).transpose(1, 2))
            mean: Tensor = k.to(dtype).mean(dim=1)
            return mean
        weight = attn.qkv.weight[keys].to(dtype).unflatten(0, heads).mean(dim=0)
        bias = attn.qkv.bias
        if bias is not None:
            bias = bias[keys].to(dtype).unflatten(0, heads).mean(dim=0)
        return F.linear(normed.to(dtype), weight, bias)
