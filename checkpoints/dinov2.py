"""DINOv2 as transformers keeps it, with and without registers: self-supervised, with layer scale.

Its table has a row for the class token and none for the registers, where timm's model with registers
(`reg_tokens=4, no_embed_class=True`) has rows for patches alone: the class token takes its row in. The
classifier of transformers reads the class token beside the mean of all patches, which no timm ViT does,
so it is left out.
"""

from collections.abc import Mapping

from torch import Tensor

from .layout import side

NAME = "dinov2"


def matches(weights: Mapping[str, Tensor]) -> bool:
    """Layer scale, registers, and a table with the class token's row before a square of patches."""
    table = weights.get("pos_embed")
    if table is None or table.ndim != 3 or "reg_token" not in weights:
        return False
    return "blocks.0.ls1.gamma" in weights and side(table.shape[1] - 1) is not None


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The class token's position added to it, where there are registers."""
    converted = {name: value for name, value in weights.items() if name != "mask_token"}
    if matches(weights):
        table = weights["pos_embed"]
        converted["cls_token"] = weights["cls_token"] + table[:, :1]
        converted["pos_embed"] = table[:, 1:]
    return converted
