"""An RGB image model's weights for a model of one channel: spectrograms, or grey images."""

from collections.abc import Mapping

from torch import Tensor, float32, promote_types

from .layout import KERNEL

NOTE = "3 colours summed to 1 channel"


def fit_by_sum(file: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether a file of RGB images meets a model of one channel; clips stay as they are."""
    theirs, ours = file[KERNEL].shape, own[KERNEL].shape
    return len(theirs) == len(ours) == 4 and (theirs[1], ours[1]) == (3, 1)


def sum_colours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same model for images of one channel: what the RGB one computes of r = g = b.

    Summed, not averaged: a cell of a spectrogram counts as a grey pixel does, in all three colours.
    """
    kernel = weights[KERNEL]  # [D, 3, P, P]
    dtype = promote_types(kernel.dtype, float32)
    return {**weights, KERNEL: kernel.sum(dim=1, keepdim=True, dtype=dtype)}
