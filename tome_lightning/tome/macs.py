"""Multiply-accumulates of a merging ViT: by formula, and as torch's flop counter sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tome_lightning.tome import ToMeViT, token_counts


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one sample's forward pass; the papers call these FLOPs.

    Attributes:
        patch_embed: Of all patches, also those that training leaves out afterwards.
        qkv: Of the tokens that enter each block.
        attention: Its two products, tokens x tokens.
        proj: What follows them, on the same tokens.
        mlp: Of the tokens that are left after each block's merge.
        pool: Attention pooling.
        head: Both heads of a distilled model.
        merging: What merging itself costs: the similarities.
    """

    patch_embed: int
    qkv: int
    attention: int
    proj: int
    mlp: int
    pool: int
    head: int
    merging: int

    @property
    def total(self) -> int:
        """Of the model, without merging: what the limit of the speed-up is made from."""
        return sum(astuple(self)) - self.merging


def macs(model: ToMeViT, plan: Sequence[int] | None = None, num_tokens: int | None = None) -> Macs:
    """Count by formula; nothing is run.

    Args:
        model: Its architecture counts; its r only where no plan is given.
        plan: Tokens that each block merges, after the clamp; zeros are the dense model.
        num_tokens: Tokens that enter the first block, prefix tokens included; by default those of a
            sample in evaluation.
    """
    num_tokens = num_tokens or model.num_tokens
    plan = model.plan(num_tokens) if plan is None else plan
    counts = token_counts(plan, num_tokens)
    vit = model.vit
    blocks: Any = vit.blocks
    qkv = attention = proj = mlp = merging = 0
    for block, r, entering, leaving in zip(blocks, plan, counts[:-1], counts[1:], strict=True):
        attn: Any = block.attn
        qkv += entering * _weights(attn.qkv)
        attention += 2 * entering**2 * attn.attn_dim
        proj += entering * (_weights(attn) - _weights(attn.qkv))
        mlp += leaving * _weights(block.mlp)
        merging += _merging(attn, r, entering, model.num_prefix)
    left = counts[-1] - (0 if vit.pool_include_prefix else model.num_prefix)
    return Macs(
        patch_embed=_embedding(vit.patch_embed, model),
        qkv=qkv,
        attention=attention,
        proj=proj,
        mlp=mlp,
        pool=0 if vit.attn_pool is None else _pooling(vit.attn_pool, left),
        head=_weights(vit.head) + _weights(getattr(vit, "head_dist", None)),
        merging=merging,
    )


def counted_macs(model: nn.Module, shape: Sequence[int]) -> int:
    """What torch's flop counter says of one sample: those of matrix products and convolutions.

    Run on tensors without data, so that it costs neither the time nor the memory of a real pass.

    Args:
        model: Any model, in the mode (train or eval) that is meant.
        shape: Of one sample, without the batch.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    device = next(model.parameters()).device
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    weights: dict[str, Tensor] = {
        name: fake.from_tensor(tensor.detach())
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    # The counter knows no formula for the CPU's fused attention; spelt out it has two products.
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
        fake,
    ):
        functional_call(model, weights, (torch.zeros(1, *shape, device=device),))
    return int(counter.get_total_flops()) // 2


def _weights(module: nn.Module | None) -> int:
    """Multiply-accumulates per token: entries of the matrices and kernels, without biases."""
    if module is None:
        return 0
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, layers))


def _embedding(embed: Any, model: ToMeViT) -> int:
    if not hasattr(embed, "backbone"):
        return (model.num_tokens - model.num_prefix) * _weights(embed)
    # a hybrid's convolutions, each with a resolution of its own
    channels = next(part.in_channels for part in embed.modules() if isinstance(part, nn.Conv2d))
    return counted_macs(embed, (channels, *model.img_size))


def _merging(attn: Any, r: int, num_tokens: int, num_prefix: int) -> int:
    if not r:
        return 0
    first = num_prefix + num_prefix % 2  # sources are the even positions, targets the odd ones
    sources = len(range(first, num_tokens, 2))
    targets = num_tokens - num_prefix - sources
    return sources * targets * int(attn.head_dim)


def _pooling(pool: AttentionPoolLatent, num_tokens: int) -> int:
    width = pool.kv.out_features // 2
    once = _weights(pool) - _weights(pool.kv)
    products = 2 * pool.latent_len * num_tokens * width
    return num_tokens * _weights(pool.kv) + pool.latent_len * once + products
