"""A ViT's weights alone, as safetensors that timm loads strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import checkpoints
from tome_lightning.commands.export.architecture import Architecture
from tome_lightning.commands.export.check import Difference, ExportMismatchError
from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.options import plain
from tome_lightning.version import __version__

EXACT = 1e-6  # the same weights in the same operations


def describe(loaded: LoadedModel, architecture: Architecture) -> dict[str, Any]:
    """What goes with the weights: plain values, enough to build the model and to show it a file.

    ``family`` and ``hyper_parameters`` are what ``checkpoints`` reads of a run's checkpoint, too.
    """
    net = loaded.model
    task = None if loaded.task is None else plain(loaded.task)
    family = loaded.family
    if checkpoints.PROP_ATTN[family] != net.prop_attn:  # overruled by the run or the command line
        family = "tome" if net.prop_attn else "mae"
    return {
        "family": family,
        "hyper_parameters": {
            "input": plain(loaded.input), "task": task, "vit": architecture.timm_arguments,
        },
        "r": net.r,
        "prop_attn": net.prop_attn,
        "class_names": loaded.class_names,
        "mean": list(loaded.mean),
        "std": list(loaded.std),
        "averaged": loaded.averaged,
        "licence": loaded.licence,
        "recipe": loaded.recipe,
        "versions": {"tome_lightning": __version__},
    }  # fmt: skip


def write_weights(loaded: LoadedModel, about: dict[str, Any], file: Path) -> None:
    """Write a ViT's state dict, with what goes with it as JSON in the metadata."""
    weights = {
        name: value.contiguous().clone() for name, value in loaded.model.vit.state_dict().items()
    }
    save_file(weights, file, metadata={"format": "pt", "tome_lightning": json.dumps(about)})


@torch.no_grad()
def check_weights(loaded: LoadedModel, architecture: Architecture, file: Path) -> Difference:
    """Load the file into fresh models, by timm and by ``checkpoints.load``, and compare logits.

    Raises:
        ExportMismatchError: If a weight is missing or left over, or logits differ.
    """
    fresh = architecture.build()
    try:
        fresh.load_state_dict(load_file(file), strict=True)
    except RuntimeError as error:
        raise ExportMismatchError(
            f"timm's model does not take the file strictly: {error}"
        ) from error
    found = check_same(fresh, loaded, "timm's model with the file's weights")
    report = checkpoints.load(architecture.build(), file)
    if report.new or report.reshaped or report.dropped:
        raise ExportMismatchError(f"checkpoints.load does not take all of the file: {report}")
    return found


def check_same(fresh: nn.Module, loaded: LoadedModel, what: str) -> Difference:
    """Compare the logits of the same weights in a model of timm's.

    Args:
        fresh: It, in evaluation mode.
        loaded: What was exported.
        what: It in words.

    Raises:
        ExportMismatchError: If they differ.
    """
    x = torch.randn(2, *loaded.shape, generator=torch.Generator().manual_seed(1))
    logits = loaded.vit(x)
    found = Difference(float((fresh(x) - logits).abs().max()), float(logits.abs().max()))
    if not found.largest <= EXACT:
        raise ExportMismatchError(f"{what} differs by {found}; the limit is {EXACT:g}.")
    return found
