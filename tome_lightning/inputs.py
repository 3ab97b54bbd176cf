"""What a model reads: each input knows the timm arguments that make a ViT for it."""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import timm
from timm.models.vision_transformer import VisionTransformer


class InputError(ValueError):
    """An input that no ViT can be built for: one line, what, got, why and the way out."""


@dataclass(frozen=True)
class Input(ABC):
    """The kind of sample a model reads. Subclasses are small frozen dataclasses."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch."""

    @property
    def chooses_pool(self) -> bool:
        """Whether the pooling is free to follow the checkpoint; not in a named architecture."""
        return True

    @abstractmethod
    def build(self, **timm_kwargs: Any) -> VisionTransformer:
        """A plain (unpatched) timm ViT for this input, with random weights.

        Args:
            timm_kwargs: Further arguments of timm's VisionTransformer: ``embed_dim``, ``depth``,
                ``num_heads``, ``global_pool``, ``drop_path_rate``, ``num_classes``, ...

        Raises:
            InputError: If timm has no such argument, or the patches do not tile the input.
        """


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

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)

    @property
    def chooses_pool(self) -> bool:
        return self.timm_model is None

    def build(self, **timm_kwargs: Any) -> VisionTransformer:
        if self.timm_model is not None:
            return self._build_named(timm_kwargs)
        check_timm_arguments(timm_kwargs)
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
        check_timm_arguments(timm_kwargs)
        try:
            vit = timm.create_model(
                self.timm_model, img_size=self.size, in_chans=self.channels, **timm_kwargs
            )
        except (AssertionError, TypeError) as error:
            raise InputError(
                f"timm cannot build {self.timm_model} with img_size={self.size} and {timm_kwargs}: "
                f"{error}"
            ) from error
        patch = getattr(getattr(vit, "patch_embed", None), "patch_size", (1, 1))
        self._check_tiles(patch[0] if isinstance(patch, tuple) else patch)
        return cast(VisionTransformer, vit)

    def _check_tiles(self, patch: int) -> None:
        if self.size < 1 or patch < 1 or self.size % patch:
            raise InputError(
                f"Image size {self.size} cannot be cut into patches of {patch} pixels: it must be a "
                f"multiple. Nearest: {_nearest_multiple(self.size, patch)}."
            )


def check_timm_arguments(timm_kwargs: dict[str, Any]) -> None:
    """Refuse arguments that timm's VisionTransformer does not have, naming the nearest ones."""
    known = set(inspect.signature(VisionTransformer).parameters)
    for name in timm_kwargs:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=3)
            raise InputError(
                f"timm's VisionTransformer has no argument {name!r} (model.vit.{name}). "
                f"Nearest: {', '.join(close) or 'none'}."
            )


def _nearest_multiple(size: int, patch: int) -> str:
    patch = max(patch, 1)
    below = max(patch, size // patch * patch)
    return f"{below} or {below + patch}"
