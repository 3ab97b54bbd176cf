"""The families of checkpoints: how each is recognised, and what it was trained with.

A family is a module with `NAME`, `matches` and `convert`; a new one is a file and its place in
`LAYOUTS`. `tome`, the released models trained with token merging, has the layout of the model it
started from, so the name of its file (or our own metadata) tells it, not its content.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from . import ast, audiomae, dinov2, mae, mae_st, timm_vit, videomae


class Layout(Protocol):
    """What a family's module offers. Both functions leave `weights` as it is."""

    NAME: str

    def matches(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether a file with these names and shapes is of this family."""

    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder (and head) under timm's names. `weights` comes without its decoder."""


# The first match wins, so the tests that ask for more come first; timm_vit takes the rest.
LAYOUTS: tuple[Layout, ...] = (videomae, mae_st, ast, audiomae, dinov2, mae, timm_vit)

# Of each family: whether it wants proportional attention, and timm's `global_pool`.
_WANTS = {
    "mae": (False, "avg"),
    "mae_st": (False, "avg"),
    "audiomae": (False, "avg"),
    "videomae": (False, "avg"),
    "ast": (True, "avg"),
    "dinov2": (True, "token"),
    "tome": (True, "avg"),
    "timm": (True, "token"),
}

PROP_ATTN: Mapping[str, bool] = MappingProxyType({name: prop for name, (prop, _) in _WANTS.items()})
"""Whether a family wants proportional attention when merging tokens.

Off for MAE models used as they are, on for supervised ones (ToMe paper, Table 1f); the released
models that were trained with ToMe were trained with it on, and must be run as they were trained.
"""

POOLING: Mapping[str, str] = MappingProxyType({name: pool for name, (_, pool) in _WANTS.items()})
"""timm's `global_pool` a family is fine-tuned with. ToMe's two DeiT files are the exception
(`token`): `identify` says what one file wants."""


def layout_of(weights: Mapping[str, Tensor]) -> Layout:
    """The family a file belongs to by its names and shapes."""
    return next(layout for layout in LAYOUTS if layout.matches(weights))


def named(family: str) -> Layout:
    """The layout of a family's name."""
    return next(layout for layout in LAYOUTS if family == layout.NAME)
