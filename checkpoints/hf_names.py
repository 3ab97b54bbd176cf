"""Names of the transformers library under timm's, whatever the model and its prefix.

Two spellings of a block are about: that of files (`encoder.layer.0.attention.attention.query`), which
all versions write, and that of models in memory since version 5 (`layers.0.attention.q_proj`), as a
training framework that saves a whole module writes them. Query, key and value become timm's one matrix.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import CheckpointError

_KERNEL = "embeddings.patch_embeddings.projection.weight"

# Applied in this order to each name; what stands before the model's own names stays.
_RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\bembeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"\bembeddings\.cls_token$", "cls_token"),
        (r"\bembeddings\.distillation_token$", "dist_token"),
        (r"\bembeddings\.register_tokens$", "reg_token"),
        (r"\bembeddings\.mask_token$", "mask_token"),
        (r"\bembeddings\.position_embeddings$", "pos_embed"),
        (r"\bdecoder\.decoder_(?:encoder\.layer|layers)\.(?=\d)", "decoder.blocks."),
        (r"\b(?:encoder\.layer|layers)\.(?=\d)", "blocks."),
        (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
        (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
        (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
        (r"\.attention\.attention\.([qv])_bias$", r".attn.\1.bias"),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),  # SwiGLU, as timm's packed one
        (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"^((?:\w+\.)*)classifier\.(weight|bias)$", r"\1head.\2"),
        (r"\blayernorm\.(weight|bias)$", r"norm.\1"),
    )
)
_JOINED = {"qkv": ("q", "k", "v"), "fc1": ("gate_proj", "up_proj")}
_PART = re.compile(r"^(.*\.(?:attn|mlp))\.(q|k|v|gate_proj|up_proj)\.(weight|bias)$")


def is_transformers(weights: Mapping[str, object]) -> bool:
    """Whether names are those of a ViT of transformers."""
    return any(name == _KERNEL or name.endswith(f".{_KERNEL}") for name in weights)


def to_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values under timm's names, with query, key and value in one.

    A bias that is not there while another part of its matrix has one counts as zero: VideoMAE's keys have
    none.

    Raises:
        CheckpointError: a part of an attention is missing.
    """
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        plain = name
        for pattern, new in _RENAMED:
            plain = pattern.sub(new, plain)
        if match := _PART.match(plain):
            parts.setdefault(match[1], {})[f"{match[2]}.{match[3]}"] = value
        else:
            renamed[plain] = value
    for layer, found in parts.items():
        renamed |= _joined(layer, found)
    return renamed


def _joined(layer: str, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    whole = "qkv" if layer.endswith(".attn") else "fc1"
    parts = _JOINED[whole]
    matrices = [found.get(f"{part}.weight") for part in parts]
    biases = [found.get(f"{part}.bias") for part in parts]
    known = [matrix for matrix in matrices if matrix is not None]
    if len(known) < len(parts):
        lacking = [part for part, matrix in zip(parts, matrices, strict=True) if matrix is None]
        raise CheckpointError(f"{layer} lacks its {' and '.join(lacking)}: fetch the whole file")
    joined = {f"{layer}.{whole}.weight": torch.cat(known)}
    if any(bias is not None for bias in biases):
        filled = [
            matrix.new_zeros(len(matrix)) if bias is None else bias
            for matrix, bias in zip(known, biases, strict=True)
        ]
        joined[f"{layer}.{whole}.bias"] = torch.cat(filled)
    return joined
