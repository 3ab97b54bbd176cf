"""Image MAE: pre-trained and fine-tuned ViTs, whose names are timm's.

A pre-trained file ends in `norm`, a fine-tuned one in `fc_norm` and `head`; training saves
also hold the decoder.
"""

from collections.abc import Mapping

from torch import Tensor

from .layout import in_head, is_decoder

NAME = "mae"

_STEM = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def matches(weights: Mapping[str, Tensor]) -> bool:
    """A decoder, or exactly MAE's encoder: average pooling, or no head at all.

    A headless plain ViT of other making (DINO's, say) has the same names and is taken for MAE.
    """
    # Not mask_token: real DINOv2 files carry one.
    if any(name.startswith("decoder_") for name in weights):
        return True
    names = {name for name in weights if not is_decoder(name)}
    depth = len({name.split(".")[1] for name in names if name.startswith("blocks.")})
    blocks = {f"blocks.{i}.{part}" for i in range(depth) for part in _BLOCK}
    encoder = _STEM | {f"{part}.{kind}" for part in blocks for kind in ("weight", "bias")}
    tail = names - encoder
    head = {name for name in tail if in_head(name)}
    norm = {name.partition(".")[0] for name in tail - head}
    return encoder <= names and (norm == {"fc_norm"} or (norm == {"norm"} and not head))


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same names and values: MAE's image models use timm's."""
    return dict(weights)
