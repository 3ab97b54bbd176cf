"""Attention in proportion to the tokens' sizes: a merged token counts as often as its patches.

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
# Tried in this order. Without it torch may take cuDNN first, which plans for tens of milliseconds at each
# new number of tokens, of which merging makes one a block; and with a mask its gradients of queries were
# NaN where that number is 64 modulo 128 (PyTorch issue 196678), a mask of another dtype was misread
# (PyTorch PR 191612).
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def chosen_kernels(device: torch.device) -> AbstractContextManager[Any]:
    """Within it, attention on CUDA runs on the first of ``KERNELS`` that takes it.

    Unless somebody has chosen already: where cuDNN is off, or all but cuDNN
    (``sdpa_kernel(SDPBackend.CUDNN_ATTENTION)`` around the model), that is left as it is. Entering
    takes some 50 microseconds of the host's time, so it is done once a forward pass, not once a block.
    """
    # what torch.backends.cuda asks, which torch.compile does not trace through
    free = torch._C._get_cudnn_sdp_enabled() and torch._C._get_flash_sdp_enabled()
    if device.type == "cuda" and free:
        return sdpa_kernel(KERNELS, set_priority=True)
    return contextlib.nullcontext()


def attend(
    attn: Any,
    x: Tensor,
    size: Tensor | None,
    way: SizeWay | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """timm's attention written out, since matching needs its keys and sizes may enter it.

    Args:
        attn: timm Attention with H heads.
        x: The block's normalised input, ``[B, N, C]``.
        size: Patches per token, ``[B, N, 1]``; ``None`` where all tokens count alike, which is
            bit for bit what timm computes, without a mask.
        way: How sizes enter; by default ``fastest_way``.
        fused: Whether a kernel does it in one, of a mask; by default as timm's module says.

    Returns:
        ``[B, N, C]``, and the keys that queries were multiplied with, ``[B, H, N, head_dim]``.
    """
    batch, tokens, _ = x.shape
    qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, attn.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    # An autocast norm gives float32: attention wants one dtype.
    q, k = attn.q_norm(q).to(v.dtype), attn.k_norm(k).to(v.dtype)
    if size is not None and (way or fastest_way(attn, x)) == "channels":
        out = _attend_by_channels(attn, q, k, v, size)
    else:
        fused = attn.fused_attn if fused is None else fused
        out = _attend_by_mask(attn, q, k, v, size_bias(size, x), fused)
    out = attn.norm(out.transpose(1, 2).reshape(batch, tokens, attn.attn_dim))
    if attn.gate is not None:
        out = out * attn.gate(x).sigmoid()
    return attn.proj_drop(attn.proj(out)), k


def fastest_way(attn: Any, x: Tensor) -> SizeWay:
    """``channels`` in half precision on CUDA, where a mask would rule out flash attention.

    Elsewhere ``mask``: on a CPU it costs next to nothing, spare channels a quarter of the attention's
    time (``python -m tome_lightning.commands.benchmark.attention`` measures both).
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


def _attend_by_channels(attn: Any, q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    with torch.autocast(q.device.type, enabled=False):  # log(size) keeps its digits
        q, k, v = size_channels(q, k, v, size)
    scale = 1 / math.sqrt(attn.head_dim)
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=_dropout(attn), scale=scale)
    return out[..., : attn.head_dim]


def _attend_by_mask(
    attn: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, fused: bool
) -> Tensor:
    if fused:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=_dropout(attn))
    scores = (q * attn.scale) @ k.transpose(-2, -1)
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    out: Tensor = attn.attn_drop(weights) @ v
    return out


def _dropout(attn: Any) -> float:
    return float(attn.attn_drop.p) if attn.training else 0.0


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that attention of this input runs in."""
    device = x.device.type
    if x.dtype == torch.float64:  # which autocast leaves alone
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
