"""Small models of the transformers library with random weights, in folders as it saves them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3,
}  # fmt: skip
WIDE: dict[str, Any] = {**SIZES, "intermediate_size": 64, "layer_norm_eps": 1e-6}
DECODER: dict[str, Any] = {
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip
IMAGE: dict[str, Any] = {"image_size": 32, "patch_size": 8}
VIT: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2}
NAMES = {0: "cat", 1: "dog", 2: "owl"}


def randomised(model: Any) -> Any:
    """The model with random biases, norms and tokens, too: zeros would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "token" in name or "position" in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.data += 1
    return model.eval()


def vit(**more: Any) -> Any:
    config = transformers.ViTConfig(id2label=NAMES, **IMAGE, **{**WIDE, **more})
    return randomised(transformers.ViTForImageClassification(config))


def vit_mae() -> Any:
    """Masks nothing, so that its encoder sees all patches, in the order of the noise."""
    config = transformers.ViTMAEConfig(mask_ratio=0.0, **IMAGE, **WIDE, **DECODER)
    return randomised(transformers.ViTMAEForPreTraining(config))


def dinov2(registers: bool, swiglu: bool = False) -> Any:
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{kind}Config")(
        mlp_ratio=2, use_swiglu_ffn=swiglu, id2label=NAMES, **IMAGE, **SIZES
    )
    return randomised(getattr(transformers, f"{kind}ForImageClassification")(config))


def videomae(tuned: bool, mean_pooling: bool = True) -> Any:
    config = transformers.VideoMAEConfig(
        num_frames=4, id2label=NAMES, use_mean_pooling=mean_pooling, **IMAGE, **WIDE, **DECODER
    )
    kind = "VideoMAEForVideoClassification" if tuned else "VideoMAEForPreTraining"
    return randomised(getattr(transformers, kind)(config))


def ast() -> Any:
    config = transformers.ASTConfig(max_length=64, num_mel_bins=32, id2label=NAMES, **WIDE)
    return randomised(transformers.ASTForAudioClassification(config))


def saved(model: Any, folder: Path, processor: Any = None, **options: Any) -> Path:
    """The folder that transformers saves a model in, its processor beside it."""
    model.save_pretrained(folder, **options)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder
