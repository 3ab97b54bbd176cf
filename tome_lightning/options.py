"""The options of a fine-tuning: what may be meant by them, and how a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tome_lightning.errors import UserError
from tome_lightning.inputs import Input
from tome_lightning.lazy import public_path
from tome_lightning.tasks import Task

Part = TypeVar("Part", Input, Task)


class FineTuneError(UserError):
    """A run that cannot be meant: one line, what, got, why and the way out."""


def check_numbers(options: Mapping[str, Any]) -> None:
    """Refuse numbers that no optimizer takes.

    Args:
        options: Of `FineTune`, by name.

    Raises:
        FineTuneError: Says which and why.
    """
    rules = {
        "base_lr": (lambda lr: lr > 0, "above 0"),
        "lr": (lambda lr: lr is None or lr > 0, "above 0"),
        "min_lr": (lambda lr: lr >= 0, "0 or more"),
        "warmup_epochs": (lambda epochs: epochs >= 0, "0 or more"),
        "lr_schedule": (lambda name: name in ("mae", "videomae"), "mae or videomae"),
        "weight_decay": (lambda decay: decay >= 0, "0 or more"),
        "layer_decay": (lambda decay: 0 < decay <= 1, "above 0 and up to 1"),
        "betas": (lambda betas: all(0 <= b < 1 for b in betas), "at least 0 and below 1"),
        "head_init_std": (lambda std: std >= 0, "0 or more"),
    }
    for name, (fine, expected) in rules.items():
        if not fine(options[name]):
            raise FineTuneError(f"model.{name} must be {expected}, got {options[name]}.")


def check_shape(input: Input, vit: VisionTransformer, shape: tuple[int, ...] | None) -> None:
    """Refuse samples of a shape that the model does not read.

    Args:
        input: What it reads.
        vit: The model, which may take any size.
        shape: Of a sample of the data; None if that is not known.

    Raises:
        FineTuneError: Says both shapes.
    """
    if shape is None or shape == input.shape:
        return
    if vit.dynamic_img_size and shape[0] == input.shape[0]:
        patch = vit.patch_embed.patch_size[-1]
        if shape[-1] % patch and not vit.patch_embed.dynamic_img_pad:
            raise FineTuneError(
                f"data.size {shape[-1]} is no multiple of the model's patches of {patch} pixels. "
                "Choose one, or pad with --model.vit.dynamic_img_pad true."
            )
        return
    raise FineTuneError(
        f"The data gives samples of {'x'.join(map(str, shape))} ({input.axes}), the model reads "
        f"{'x'.join(map(str, input.shape))}. Set model.input and data to the same values "
        f"of {input.axes.replace(' x ', ', ')}."
    )


def check_labels(task: Task, multi_label: bool) -> None:
    """Refuse data with one label a sample where a task learns several, and the other way round.

    Raises:
        FineTuneError: Names the task that fits.
    """
    if multi_label == task.multi_label:
        return
    data, fitting = (
        ("any number of labels a sample", "MultiLabel")
        if multi_label
        else ("one label a sample", "SingleLabel")
    )
    raise FineTuneError(
        f"The data has {data}, which {type(task).__name__} does not learn. "
        f"Set model.task.class_path to tome_lightning.tasks.{fitting}."
    )


def check_pixels(x: Tensor) -> None:
    """Refuse a batch that the data module has not finished.

    Raises:
        FineTuneError: Says who finishes it.
    """
    if x.dtype == torch.uint8:
        raise FineTuneError(
            "The batch has raw pixels (uint8): the data module makes them the model's input once "
            "they are on the device. Give the Trainer datamodule=, not its loaders, or call "
            "data.prepare(x)."
        )


def plain(part: Input | Task) -> dict[str, Any]:
    """An input or a task in builtins, its class by name: torch's safe loading takes that."""
    return {"class_path": public_path(type(part)), "init_args": asdict(part)}


def rebuild(part: Any, base: type[Part]) -> Part:
    """The object that `plain` described; only subclasses already imported are made.

    Raises:
        FineTuneError: It names another class.
    """
    if isinstance(part, base):
        return part
    for kind in base.__subclasses__():
        if part["class_path"] == public_path(kind):
            return kind(**part["init_args"])
    raise FineTuneError(
        f"The checkpoint names {part['class_path']}, which is no known {base.__name__}. "
        "Import the module that defines it first."
    )
