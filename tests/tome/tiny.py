"""Small ViTs whose tokens differ enough that no choice of partner is a tie."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def tiny_vit(seed: int = 0, cls: type[VisionTransformer] = VisionTransformer, **kwargs: Any) -> Any:
    """A random ViT in eval mode: 4 x 4 patches, width 16, 3 blocks, 2 heads, 5 classes.

    timm's initial weights are so small that all tokens look alike; these are not.
    """
    defaults: dict[str, Any] = {
        "img_size": 16, "patch_size": 4, "in_chans": 3, "embed_dim": 16, "depth": 3,
        "num_heads": 2, "num_classes": 5, "mlp_ratio": 2.0,
    }  # fmt: skip
    torch.manual_seed(seed)
    return randomise(cls(**{**defaults, **kwargs}), seed).eval()


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> Any:
    """Weights of unit gain; norms, biases and layer scales move off their initial values too."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "token", "latent")):
            parameter.normal_()
        elif parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def images(
    batch: int = 2, size: int = 16, seed: int = 1, dtype: torch.dtype = torch.float32
) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(batch, 3, size, size, dtype=dtype)
