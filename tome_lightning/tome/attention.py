"""Proportional attention: a merged token counts as often as the patches it stands for.

``softmax(q k / sqrt(d) + log s)`` is attention over keys repeated s times (ToMe, equation 1). It is
computed in one of two exact ways: a mask, which every kernel but flash attention takes, or spare
channels of the keys, which every kernel takes.
"""

from __future__ import annotations

import contextlib
import math
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

SizeWay = Literal["mask", "channels"]

SPARE = 8  # channels added: attention kernels for half precision want multiples of 8
HALF = (torch.float16, torch.bfloat16)
# cuDNN's attention with a mask: gradients of queries were NaN where the token count is 64 modulo 128
# (PyTorch issue 196678), and a mask of another dtype was misread (PyTorch PR 191612).
WITHOUT_CUDNN = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attend(attn: Any, x: Tensor, size: Tensor | None, way: SizeWay | None = None) -> Tensor:
    """Run timm's attention, in proportion to the tokens' sizes if there are any.

    Args:
        attn: timm Attention.
        x: The block's normalised input, ``[B, N, C]``.
        size: Patches per token, ``[B, N, 1]``; ``None`` where all tokens count alike, which is
            exactly timm's own forward, without a mask.
        way: How sizes enter; by default ``fastest_way``.

    Returns:
        ``[B, N, C]``.
    """
    out: Tensor
    if size is None:
        out = attn(x)
    elif (way or fastest_way(attn, x)) == "channels":
        out = _attend_by_channels(attn, x, size)
    else:
        with masked_kernels(x.device):
            out = attn(x, attn_mask=size_bias(size, x))
    return out


def fastest_way(attn: Any, x: Tensor) -> SizeWay:
    """``channels`` in half precision on CUDA, where a mask would rule out flash attention.

    Elsewhere ``mask``: on a CPU it costs next to nothing, spare channels a quarter of the attention's
    time (``python -m tome_lightning.speed.attention`` measures both).
    """
    half = _compute_dtype(x) in HALF
    return "channels" if half and x.device.type == "cuda" and attn.fused_attn else "mask"


def size_bias(size: Tensor | None, like: Tensor) -> Tensor | None:
    """``log(size)`` as an additive attention bias over the keys.

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
    dtype = _compute_dtype(like)
    log = size.to(torch.promote_types(dtype, torch.float32)).log()
    return log.to(dtype).transpose(1, 2).unsqueeze(1)


def masked_kernels(device: torch.device) -> AbstractContextManager[Any]:
    """Within it, attention with a mask avoids the kernels that are wrong with one."""
    return sdpa_kernel(WITHOUT_CUDNN) if device.type == "cuda" else contextlib.nullcontext()


def size_channels(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values with ``log(size)`` in channels of the keys.

    The queries' are constant, ``c = 2^n``, exact in any precision; the keys' two hold
    ``log(size) * sqrt(d) / c`` and what its rounding left out, so that the product of both, divided
    by ``sqrt(d)``, is ``log(size)`` to twice the digits of the dtype: in bfloat16 one channel alone
    would be wrong by up to 1.6% of a weight. The other spare channels are 0.

    Args:
        q: ``[B, H, N, d]``.
        k: ``[B, H, N, d]``.
        v: ``[B, H, N, d]``.
        size: ``[B, N, 1]``.

    Returns:
        Three ``[B, H, N, d + SPARE]``, for attention whose scale is ``1 / sqrt(d)``; of its result the
        last channels are 0.
    """
    root = math.sqrt(q.shape[-1])
    constant = 2.0 ** round(math.log2(root))
    wide = torch.promote_types(k.dtype, torch.float32)
    exact = size.to(wide).log() * (root / constant)  # [B, N, 1]
    high = exact.to(k.dtype)
    low = (exact - high).to(k.dtype)
    spare = F.pad(torch.cat([high, low], dim=-1), (0, SPARE - 2))
    k = torch.cat([k, spare.unsqueeze(1).expand(*k.shape[:-1], SPARE)], dim=-1)
    q = F.pad(F.pad(q, (0, 2), value=constant), (0, SPARE - 2))
    return q, k, F.pad(v, (0, SPARE))


def _attend_by_channels(attn: Any, x: Tensor, size: Tensor) -> Tensor:
    batch, tokens, _ = x.shape
    qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, attn.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    # An autocast norm gives float32: attention wants one dtype.
    q, k = attn.q_norm(q).to(v.dtype), attn.k_norm(k).to(v.dtype)
    with torch.autocast(x.device.type, enabled=False):  # log(size) keeps its digits
        q, k, v = size_channels(q, k, v, size)
    dropout = attn.attn_drop.p if attn.training else 0.0
    out = F.scaled_dot_product_attention(
        q, k, v, dropout_p=dropout, scale=1 / math.sqrt(attn.head_dim)
    )
    out = out[..., : attn.head_dim].transpose(1, 2).reshape(batch, tokens, attn.attn_dim)
    out = attn.norm(out)
    if attn.gate is not None:
        out = out * attn.gate(x).sigmoid()
    projected: Tensor = attn.proj_drop(attn.proj(out))
    return projected


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that attention of this input runs in."""
    device = x.device.type
    if x.dtype == torch.float64:  # which autocast leaves alone
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
