"""What a model reads: each input knows the timm arguments that make a ViT for it."""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Literal, cast, get_args

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from tome_lightning.clip import SeparableViT, TubeletEmbed, fix_positions, sinusoid_table
from tome_lightning.spectrogram import GridMasking, OverlapEmbed
from tome_lightning.tome.projection import remove_key_bias
from tome_lightning.tome.support import UnsupportedModelError, check_supported


class InputError(ValueError):
    """An input that no ViT can be built for: one line, what, got, why and the way out."""


@dataclass(frozen=True)
class Input(ABC):
    """The kind of sample a model reads. Subclasses are small frozen dataclasses.

    Attributes:
        axes: What the numbers of ``shape`` are, in words.
    """

    axes: ClassVar[str]

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
        _check_multiple("Image size", self.size, f"patches of {patch} pixels", patch)


Positions = Literal["separable", "joint", "sinusoid"]

# Arguments of timm's that a clip or a spectrogram sets itself, or that are made for images.
_INPUT_SETS = {
    "img_size", "patch_size", "in_chans", "embed_layer", "pos_embed", "no_embed_class",
    "dynamic_img_size", "dynamic_img_pad",
}  # fmt: skip


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
        check_timm_arguments(timm_kwargs)
        self._check()
        _check_free(self, timm_kwargs)
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
        _check_multiple("Number of frames", self.frames, tubes, self.tubelet)
        _check_multiple("Frame size", self.size, f"patches of {self.patch} pixels", self.patch)


@dataclass(frozen=True)
class Spectrogram(Input):
    """Log-mel spectrograms ``[1, frames, mels]``, time first, cut into square patches.

    Tokens are ordered time slowest. Positions are one row a token; AudioMAE's come from its
    checkpoint and nowhere else (its table is no sine and cosine table of this grid).

    Args:
        frames: Feature frames of a clip; 1024 at 10 ms are 10.24 s.
        mels: Mel bands.
        patch: Side of a patch in cells.
        stride: Distance between patches; smaller than ``patch``, they overlap.
        mask_time: Share of the columns of tokens (one step in time each) that are dropped in training.
        mask_freq: Share of the rows of tokens (one band each) that are dropped in training.
    """

    frames: int = 1024
    mels: int = 128
    patch: int = 16
    stride: int = 16
    mask_time: float = 0.0
    mask_freq: float = 0.0

    axes: ClassVar[str] = "channels x frames x mels"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.frames, self.mels)

    def build(self, **timm_kwargs: Any) -> VisionTransformer:
        """See ``Input.build``; pools by averaging (``global_pool="avg"``) unless told otherwise."""
        check_timm_arguments(timm_kwargs)
        self._check()
        _check_free(self, timm_kwargs)
        masks = self.mask_time != 0 or self.mask_freq != 0
        if masks and timm_kwargs.get("patch_drop_rate"):
            raise InputError(
                "model.vit.patch_drop_rate and the masking of columns and rows both drop tokens. "
                "Leave it out, or set model.input's mask_time and mask_freq to 0."
            )
        timm_kwargs = {"global_pool": "avg", **timm_kwargs}
        if self.stride != self.patch:
            timm_kwargs["embed_layer"] = partial(OverlapEmbed, stride=self.stride)
        try:
            vit = VisionTransformer(
                img_size=(self.frames, self.mels), patch_size=self.patch, in_chans=1, **timm_kwargs
            )
        except (AssertionError, TypeError) as error:  # timm states its conditions as asserts
            raise InputError(f"timm cannot build a ViT from {timm_kwargs}: {error}") from error
        if masks:
            grid, prefix = vit.patch_embed.grid_size, vit.num_prefix_tokens
            try:
                masking = GridMasking(grid, self.mask_time, self.mask_freq, prefix)
            except ValueError as error:
                raise InputError(f"model.input.{error}.") from error
            vit.patch_drop = cast(Any, masking)
        return vit

    def _check(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)):
                raise InputError(f"model.input.{field.name} must be a number, got {value}.")
        if not 1 <= self.stride <= self.patch:
            raise InputError(
                f"model.input.stride is the distance between patches, 1 to their side "
                f"{self.patch} (beyond it, cells would be skipped), got {self.stride}."
            )
        for what, size in (("Number of frames", self.frames), ("Number of mels", self.mels)):
            if self.stride == self.patch:
                _check_multiple(what, size, f"patches of {self.patch}", self.patch)
            elif size < self.patch:
                raise InputError(f"{what} {size} is smaller than a patch, {self.patch}. Raise it.")


def _check_free(input: Input, timm_kwargs: dict[str, Any]) -> None:
    """Refuse timm arguments that the input sets itself."""
    own = sorted(timm_kwargs.keys() & _INPUT_SETS)
    if own:
        names = [field.name for field in fields(input)]
        raise InputError(
            f"model.vit.{own[0]} is not free for a {type(input).__name__}. Set model.input's "
            f"{', '.join(names[:-1])} and {names[-1]} instead."
        )


def _check_multiple(what: str, size: int, parts: str, part: int) -> None:
    if size < 1 or part < 1 or size % part:
        raise InputError(
            f"{what} {size} cannot be cut into {parts}: it must be a multiple. "
            f"Nearest: {_nearest_multiple(size, part)}."
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
