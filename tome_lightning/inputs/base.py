"""What a model reads: each input knows the timm arguments that make a ViT for it."""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer

from tome_lightning.errors import UserError


class InputError(UserError):
    """An input that no ViT can be built for: one line, what, got, why and the way out."""


@dataclass(frozen=True)
class Input(ABC):
    """The kind of sample a model reads. Subclasses are small frozen dataclasses.

    Attributes:
        axes: What the numbers of ``shape`` are, in words.
        usual_mean: What samples of it are usually normalised by: a number a channel.
        usual_std: The same of the standard deviation.
    """

    axes: ClassVar[str]
    usual_mean: ClassVar[tuple[float, ...]] = IMAGENET_DEFAULT_MEAN
    usual_std: ClassVar[tuple[float, ...]] = IMAGENET_DEFAULT_STD

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


# Arguments of timm's that a clip or a spectrogram sets itself, or that are made for images.
_INPUT_SETS = {
    "img_size", "patch_size", "in_chans", "embed_layer", "pos_embed", "no_embed_class",
    "dynamic_img_size", "dynamic_img_pad",
}  # fmt: skip


def check_free(input: Input, timm_kwargs: dict[str, Any]) -> None:
    """Refuse timm arguments that the input sets itself."""
    own = sorted(timm_kwargs.keys() & _INPUT_SETS)
    if own:
        names = [field.name for field in fields(input)]
        raise InputError(
            f"model.vit.{own[0]} is not free for a {type(input).__name__}. Set model.input's "
            f"{', '.join(names[:-1])} and {names[-1]} instead."
        )


def check_multiple(what: str, size: int, parts: str, part: int) -> None:
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
