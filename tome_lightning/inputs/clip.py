"""Video in a timm ViT: tubelets instead of patches, and the positions of the video MAEs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tome_lightning.inputs.base import Input, InputError, check_free, check_multiple, timm_arguments
from tome_lightning.tome.projection import remove_key_bias


class TubeletEmbed(nn.Module):
    """Cuts clips ``[B, C, T, H, W]`` into tubelets: tokens ``[B, t*h*w, D]``, time slowest, then rows.

    Takes the place of timm's PatchEmbed (``embed_layer``), whose attributes it has: ``proj``,
    ``num_patches``, ``patch_size``, ``grid_size``; the last two count (frames, rows, columns).

    Args:
        img_size: Side of a frame in pixels.
        patch_size: Side of a tubelet in pixels.
        in_chans: Channels of a frame.
        embed_dim: Width of a token, D.
        frames: Frames of a clip.
        tubelet: Frames of a tubelet.
        bias: Of the projection; timm sets it.
        dynamic_img_pad: timm sets it; clips are never padded.
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        frames: int,
        tubelet: int,
        bias: bool = True,
        dynamic_img_pad: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.img_size = (frames, img_size, img_size)
        self.patch_size = (tubelet, patch_size, patch_size)
        self.grid_size = self.dynamic_feat_size(self.img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1] * self.grid_size[2]
        self.proj = nn.Conv3d(
            in_chans, embed_dim, self.patch_size, self.patch_size, bias=bias,
            device=device, dtype=dtype,
        )  # fmt: skip

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int, int]:
        """Pixels a side of a token stands for, or all three sides."""
        return self.patch_size[1] if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, ...]) -> tuple[int, int, int]:
        """Tokens of a clip of (frames, height, width)."""
        t, h, w = (size // patch for size, patch in zip(img_size, self.patch_size, strict=True))
        return t, h, w

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, t*h*w, D]``."""
        if x.ndim != 5 or tuple(x.shape[2:]) != self.img_size:
            raise ValueError(
                f"the model reads clips [B, C, {', '.join(map(str, self.img_size))}] (frames, height, "
                f"width), got {list(x.shape)}"
            )
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class SeparableViT(VisionTransformer):
    """A timm ViT whose position table is a sum: one row a place, one a time (MAE-ST).

    ``pos_embed_spatial`` ``[1, h*w, D]``, ``pos_embed_temporal`` ``[1, t, D]`` and, with a class
    token, ``pos_embed_class`` ``[1, 1, D]`` are parameters; the token at (t, s) has the position
    ``spatial[s] + temporal[t]``. Nothing else differs from timm's VisionTransformer.
    """

    def __init__(self, **timm_kwargs: Any) -> None:
        super().__init__(**timm_kwargs, pos_embed="none")
        t, h, w = self.patch_embed.grid_size
        device = timm_kwargs.get("device")

        def table(rows: int) -> nn.Parameter:
            empty = torch.empty(1, rows, self.embed_dim, device=device)
            return nn.Parameter(nn.init.trunc_normal_(empty, std=0.02))

        self.pos_embed_spatial = table(h * w)
        self.pos_embed_temporal = table(t)
        self.pos_embed_class = table(1) if self.has_class_token else None

    def positions(self) -> Tensor:
        """The whole table, ``[1, (1 +) t*h*w, D]``."""
        patches = (self.pos_embed_temporal[:, :, None] + self.pos_embed_spatial[:, None]).flatten(
            1, 2
        )
        if self.pos_embed_class is None:
            return patches
        return torch.cat([self.pos_embed_class, patches], dim=1)

    def _pos_embed(self, x: Tensor) -> Tensor:
        # timm's prepends the class token, and adds nothing since pos_embed is None
        dropped: Tensor = self.pos_drop(super()._pos_embed(x) + self.positions())
        return dropped

    def no_weight_decay(self) -> set[str]:
        """timm's names, and those of the tables."""
        tables = {"pos_embed_spatial", "pos_embed_temporal", "pos_embed_class"}
        return {*super().no_weight_decay(), *tables}


def sinusoid_table(rows: int, width: int) -> Tensor:
    """VideoMAE's fixed positions: ``[1, rows, width]`` float32.

    ``angle(n, j) = n / 10000 ** (2 * (j // 2) / width)``; sine where j is even, cosine where it is odd
    (Vaswani et al. 2017), with n the flat index of the tubelet.
    """
    j = torch.arange(width, dtype=torch.float64, device="cpu")
    n = torch.arange(rows, dtype=torch.float64, device="cpu")[:, None]
    angle = n / 10000 ** (2 * (j // 2) / width)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos()).float()[None]


def fix_positions(vit: VisionTransformer, table: Tensor) -> None:
    """Give a ViT a position table that is no parameter and in no state dict."""
    device = vit.patch_embed.proj.weight.device
    vit.pos_embed = None  # else the name is taken
    del vit.pos_embed
    vit.register_buffer("pos_embed", table.to(device), persistent=False)


Positions = Literal["separable", "joint", "sinusoid"]


@dataclass(frozen=True)
class Clip(Input):
    """Clips ``[channels, frames, size, size]`` cut into tubelets of ``tubelet`` frames.

    Args:
        frames: Frames of a clip.
        size: Side of a frame in pixels.
        tubelet: Frames of a tubelet.
        patch: Side of a tubelet in pixels.
        positions: ``separable``: learned, one row a place plus one a time plus the class token's
            (MAE-ST); ``joint``: learned, one row a token (MAE-ST's other variant); ``sinusoid``:
            fixed, one row a token, by default without a class token (VideoMAE).
        channels: 3 for RGB, 1 for grey.
        key_bias: Whether the keys of attention have a bias; VideoMAE's have none.
    """

    frames: int = 16
    size: int = 224
    tubelet: int = 2
    patch: int = 16
    positions: Positions = "separable"
    channels: int = 3
    key_bias: bool = True

    axes: ClassVar[str] = "channels x frames x size"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.frames, self.size, self.size)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens over time, rows and columns."""
        side = self.size // self.patch
        return (self.frames // self.tubelet, side, side)

    def build(self, **timm_kwargs: Any) -> VisionTransformer:
        """See ``Input.build``; pools by averaging (``global_pool="avg"``) unless told otherwise."""
        timm_kwargs = timm_arguments(timm_kwargs)
        self._check()
        check_free(self, timm_kwargs)
        if self.positions == "separable" and timm_kwargs.get("reg_tokens"):
            raise InputError(
                "Separable positions have no rows for register tokens (model.vit.reg_tokens). Leave "
                "them out, or set model.input.positions to joint."
            )
        timm_kwargs = {
            "global_pool": "avg",
            "class_token": self.positions != "sinusoid",
            **timm_kwargs,
        }
        embed = partial(TubeletEmbed, frames=self.frames, tubelet=self.tubelet)
        kind = SeparableViT if self.positions == "separable" else VisionTransformer
        try:
            vit = kind(
                img_size=self.size, patch_size=self.patch, in_chans=self.channels,
                embed_layer=embed, **timm_kwargs,
            )  # fmt: skip
        except (AssertionError, TypeError) as error:  # timm states its conditions as asserts
            raise InputError(f"timm cannot build a ViT from {timm_kwargs}: {error}") from error
        if self.positions == "sinusoid":
            table = sinusoid_table(vit.patch_embed.num_patches, vit.embed_dim)
            prefix = torch.zeros(1, vit.num_prefix_tokens, vit.embed_dim, device=table.device)
            fix_positions(vit, torch.cat([prefix, table], dim=1))
        if not self.key_bias:
            remove_key_bias(vit)
        return vit

    def _check(self) -> None:
        if self.positions not in get_args(Positions):
            raise InputError(
                f"model.input.positions is one of {', '.join(get_args(Positions))}, "
                f"got {self.positions!r}."
            )
        tubes = f"tubelets of {self.tubelet} frames"
        check_multiple("Number of frames", self.frames, tubes, self.tubelet)
        check_multiple("Frame size", self.size, f"patches of {self.patch} pixels", self.patch)
