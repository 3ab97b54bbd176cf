"""Plain timm ViTs, and files of other makers who use timm's names (DeiT)."""

from collections.abc import Mapping

from torch import Tensor

NAME = "timm"


def matches(weights: Mapping[str, Tensor]) -> bool:
    """Everything that no other family claims; loading compares each name with the model's."""
    return True


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same names and values."""
    return dict(weights)
