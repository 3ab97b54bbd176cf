"""Which models can merge tokens, and why the others cannot."""

from __future__ import annotations

from timm.layers import Attention, AttentionPoolLatent
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn


class UnsupportedModelError(ValueError):
    """A model that tokens cannot be merged in without changing what it computes."""


BLOCK_REASONS = {
    "ParallelScalingBlock": "runs attention and MLP in parallel, so there is no place between them "
    "to merge",
    "DiffParallelScalingBlock": "runs attention and MLP in parallel, so there is no place between "
    "them to merge",
    "ParallelThingsBlock": "runs several attentions in parallel, each with its own keys, so there "
    "is no one similarity to merge by",
    "ResPostBlock": "normalises after its attention, so its keys are not those ToMe was defined on",
}
ATTENTION_REASONS = {
    "DiffAttention": "subtracts two attention maps, for which no proportional attention is defined",
}
# Found by a part of the class name, when the model is not timm's VisionTransformer at all.
FAMILY_REASONS = {
    "Swin": "its attention works in windows, which need the full grid of tokens",
    "MultiScale": "it pools the grid between stages, which needs the full grid of tokens",
    "Eva": "its rotary or relative positions are tied to the grid and cannot be merged",
    "Beit": "its relative position bias is tied to the grid and cannot be merged",
    "NaFlex": "its token count differs from image to image",
    "VisionTransformerRelPos": "its relative position bias is tied to the grid and cannot be merged",
    "VisionTransformerSAM": "its attention works in windows with relative positions",
    "Hiera": "it pools the grid between stages, which needs the full grid of tokens",
}
WAY_OUT = (
    "Use a timm VisionTransformer with absolute positions and plain blocks, "
    "e.g. vit_base_patch16_224, deit3_base_patch16_224 or vit_base_patch14_reg4_dinov2."
)


def check_supported(vit: nn.Module) -> None:
    """Raise unless every part of the model is known to stay correct when tokens merge.

    Raises:
        UnsupportedModelError: With the reason, for anything but timm's VisionTransformer (or its
            distilled DeiT variant) made of pre-norm Blocks with the plain Attention.
    """
    reason = _why_not(vit)
    if reason:
        raise UnsupportedModelError(
            f"patch() cannot merge tokens in this model: {reason}. {WAY_OUT}"
        )


def _why_not(vit: nn.Module) -> str | None:
    name = type(vit).__name__
    if not isinstance(vit, VisionTransformer):
        for part, reason in FAMILY_REASONS.items():
            if part in name:
                return f"{name} is no plain ViT, {reason}"
        return f"{name} is not timm's VisionTransformer"
    known = (VisionTransformer, VisionTransformerDistilled)
    for method in ("forward", "forward_features", "forward_head", "pool"):
        if getattr(type(vit), method) not in [getattr(cls, method) for cls in known]:
            return f"{name} has its own {method}(), which would not see the merged tokens' sizes"
    if len(vit.blocks) == 0:
        return "it has no blocks"
    for i, block in enumerate(vit.blocks):
        kind = type(block)
        if kind is not Block:
            why = BLOCK_REASONS.get(kind.__name__, "is not timm's pre-norm Block")
            return f"blocks.{i} is {kind.__name__}, which {why}"
        if type(block.attn) is not Attention:
            attn = type(block.attn).__name__
            why = ATTENTION_REASONS.get(attn, "is not timm's plain Attention")
            return f"blocks.{i}.attn is {attn}, which {why}"
    pool = vit.attn_pool
    if pool is not None and (type(pool) is not AttentionPoolLatent or pool.pos_embed is not None):
        return f"it pools with {type(pool).__name__}, whose weighting by token size is not defined"
    return None
