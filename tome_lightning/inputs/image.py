"""Images in a timm ViT."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from tome_lightning.inputs.base import Input, InputError, check_multiple, timm_arguments
from tome_lightning.tome.support import UnsupportedModelError, check_supported


@dataclass(frozen=True)
class Image(Input):
    """Images ``[channels, size, size]`` cut into square patches.

    Args:
        size: Side of the image in pixels.
        patch: Side of a patch in pixels.
        channels: 3 for RGB, 1 for grey.
        timm_model: A timm model name whose architecture is used instead of ``patch`` and of timm's
            default sizes, e.g. ``deit3_small_patch16_224``; its weights are not loaded.
    """

    size: int = 224
    patch: int = 16
    channels: int = 3
    timm_model: str | None = None

    axes: ClassVar[str] = "channels x size"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)

    @property
    def chooses_pool(self) -> bool:
        return self.timm_model is None

    def build(self, **timm_kwargs: Any) -> VisionTransformer:
        if self.timm_model is not None:
            return self._build_named(timm_kwargs)
        timm_kwargs = timm_arguments(timm_kwargs)
        self._check_tiles(self.patch)
        try:
            return VisionTransformer(
                img_size=self.size, patch_size=self.patch, in_chans=self.channels, **timm_kwargs
            )
        except (AssertionError, TypeError) as error:  # timm states its conditions as asserts
            raise InputError(f"timm cannot build a ViT from {timm_kwargs}: {error}") from error

    def _build_named(self, timm_kwargs: dict[str, Any]) -> VisionTransformer:
        if self.timm_model not in timm.list_models():
            close = difflib.get_close_matches(str(self.timm_model), timm.list_models(), n=3)
            raise InputError(
                f"timm has no model {self.timm_model!r}. Nearest: {', '.join(close) or 'none'}."
            )
        timm_kwargs = timm_arguments(timm_kwargs)
        try:
            vit = timm.create_model(
                self.timm_model, img_size=self.size, in_chans=self.channels, **timm_kwargs
            )
        except (AssertionError, TypeError) as error:
            with torch.device("meta"):  # no ViT at all? Others take no img_size
                other = timm.create_model(self.timm_model)
            try:
                check_supported(other)
            except UnsupportedModelError as reason:
                raise UnsupportedModelError(f"{self.timm_model}: {reason}") from error
            raise InputError(
                f"timm cannot build {self.timm_model} with img_size={self.size} and {timm_kwargs}: "
                f"{error}"
            ) from error
        patch = getattr(getattr(vit, "patch_embed", None), "patch_size", (1, 1))
        self._check_tiles(patch[0] if isinstance(patch, tuple) else patch)
        return cast(VisionTransformer, vit)

    def _check_tiles(self, patch: int) -> None:
        check_multiple("Image size", self.size, f"patches of {patch} pixels", patch)
