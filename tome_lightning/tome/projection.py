"""timm's projection to queries, keys and values, and one whose keys have no bias."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class KeysWithoutBias(nn.Linear):
    """``attn.qkv`` of a model whose keys have no bias, as VideoMAE's.

    ``bias`` has timm's name and shape, ``[3 * D]``, so that the state dict is timm's; its third of the
    keys is 0 and stays it: nothing depends on it, so its gradient is exactly 0. Attention itself would
    not see a bias of the keys (softmax is invariant to it), but AdamW makes steps of the rounding
    noise that is its gradient, and tokens are matched by their keys.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[B, N, C]`` to ``[B, N, 3 * D]``."""
        q, k, v = self.bias.chunk(3)
        return F.linear(input, self.weight, torch.cat([q, torch.zeros_like(k), v]))

    @torch.no_grad()
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.bias.chunk(3)[1].zero_()  # another family's keys may have one


def remove_key_bias(vit: VisionTransformer) -> None:
    """Give the blocks of a ViT projections without a bias of the keys; weights stay as they are."""
    for block in vit.blocks:
        attn: Any = block.attn
        old = attn.qkv
        if old.bias is None:
            continue
        attn.qkv = KeysWithoutBias(old.in_features, old.out_features, device="meta")
        attn.qkv.weight, attn.qkv.bias = old.weight, old.bias
