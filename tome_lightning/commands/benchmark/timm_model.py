"""A timm ViT to measure, with random weights, also as a model of clips."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer

from tome_lightning.commands.loaded import LoadedModel, own_size
from tome_lightning.errors import UsageError
from tome_lightning.inputs import Clip, Image, Input
from tome_lightning.tasks import SingleLabel
from tome_lightning.tome import patch

NUM_CLASSES = 1000  # of a timm model's head, whatever its weights were made for


def from_timm(
    name: str,
    img_size: int | None = None,
    frames: int | None = None,
    depth: int | None = None,
) -> LoadedModel:
    """A timm ViT by its name, or a video ViT of its size.

    Args:
        name: A timm name; a weights tag behind a dot is left out.
        img_size: Side of the image in pixels; by default the model's own.
        frames: Makes it a model of clips, cut into tubelets of two frames.
        depth: Keep only the first blocks.

    Raises:
        InputError: For an unknown name, or sizes that its patches do not tile.
        UnsupportedModelError: If its tokens cannot be merged.
        UsageError: If it has fewer blocks.
    """
    plain = name.partition(".")[0]
    known = get_pretrained_cfg(plain) if plain in timm.list_models() else None
    size = img_size or own_size(known)
    read: Input = Image(size=size, timm_model=plain)
    if frames is None:
        vit = read.build(num_classes=NUM_CLASSES)
    else:
        with torch.device("meta"):
            skeleton = patch(read.build(num_classes=NUM_CLASSES)).vit
        read, vit = _as_video(skeleton, size, frames)
    patch(vit)  # refuses what cannot merge
    if depth is not None:
        if not 1 <= depth <= len(vit.blocks):
            raise UsageError(f"--depth is 1 to {len(vit.blocks)} for {plain}, got {depth}.")
        vit.blocks = vit.blocks[:depth]
    return LoadedModel(plain, patch(vit), read, task=SingleLabel(NUM_CLASSES))


def _as_video(vit: VisionTransformer, size: int, frames: int) -> tuple[Clip, VisionTransformer]:
    block: Any = vit.blocks[0]
    side = vit.patch_embed.patch_size[0]
    clip = Clip(frames=frames, size=size, patch=side)
    return clip, clip.build(
        embed_dim=vit.embed_dim,
        depth=len(vit.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / vit.embed_dim,
        num_classes=NUM_CLASSES,
    )
