"""MAE fine-tuning's optimizer: layer-wise learning rates, warm-up and cosine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn


def lr_at(epoch: float, lr: float, min_lr: float, warmup_epochs: float, epochs: float) -> float:
    """Linear warm-up from 0, then a half cosine down to min_lr (MAE fine-tuning).

    Args:
        epoch: Epochs done, fractional; evaluated once per optimizer step, the first at exactly 0.
        lr: Peak learning rate, at the end of warm-up.
        min_lr: Learning rate after the last epoch.
        warmup_epochs: Length of the warm-up.
        epochs: Length of training, warm-up included.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    if epochs <= warmup_epochs:
        return lr
    done = min(1.0, (epoch - warmup_epochs) / (epochs - warmup_epochs))
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * done))


def lr_at_step(
    step: float, steps_per_epoch: int, lr: float, min_lr: float, warmup_epochs: float, steps: float
) -> float:
    """VideoMAE's schedule, a table over steps: ``linspace(0, lr, warmup_steps)``, then half a cosine.

    Both ends of the warm-up belong to it: its last step and the first one after it have the peak.

    Args:
        step: Optimizer steps done; between two of them where epochs have changed, see `Pace`.
        steps_per_epoch: Optimizer steps of an epoch.
        lr: Peak learning rate.
        min_lr: Learning rate that the cosine goes to.
        warmup_epochs: Length of the warm-up.
        steps: Optimizer steps of the training, warm-up included.
    """
    warmup = int(warmup_epochs * steps_per_epoch)
    if step < warmup:
        return lr * step / max(1, warmup - 1)
    if steps <= warmup:
        return lr
    done = min(1.0, (step - warmup) / (steps - warmup))
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * done))


def epoch_of_step(step: float, batches: int, accumulate: int) -> float:
    """Fractional epoch at which an optimizer step is taken.

    MAE counts in batches: step k of an epoch is taken at ``k * accumulate / batches`` of it. Lightning
    also steps on the last, incomplete group of an epoch.

    Args:
        step: Optimizer steps done; between two of them where epochs have changed, see `Pace`.
        batches: Batches a process sees per epoch.
        accumulate: Batches per optimizer step.
    """
    steps_per_epoch = math.ceil(batches / accumulate)
    epoch, k = divmod(step, steps_per_epoch)
    return epoch + min(1.0, k * accumulate / batches)  # a part of the last group may be left


def layer_decay_groups(
    vit: VisionTransformer, lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups with the layer-wise scale baked into each group's learning rate.

    Positions, class token and patch embedding are layer 0, block i is layer i + 1, everything after
    the blocks is layer depth + 1; the scale is ``layer_decay ** (depth + 1 - layer)``. No weight decay
    on 1-D parameters, positions and prefix tokens (MAE fine-tuning; BEiT before it).

    The scale goes into ``lr`` because torch's schedulers know nothing of timm's ``lr_scale``: left
    there, layer decay is silently off.

    Returns:
        One dict a group: ``params``, ``lr``, ``weight_decay``, ``lr_scale``, ``param_names``.
    """
    adapter: Any = _MAELayers(vit)
    no_decay = {*vit.no_weight_decay(), "dist_token"}
    names = {id(parameter): name for name, parameter in vit.named_parameters()}
    return [
        {
            "params": group["params"],
            "lr": lr * group["lr_scale"],
            "weight_decay": group["weight_decay"],
            "lr_scale": group["lr_scale"],
            "param_names": [names[id(parameter)] for parameter in group["params"]],
        }
        for group in param_groups_layer_decay(
            adapter,
            weight_decay=weight_decay,
            no_weight_decay_list=no_decay,
            layer_decay=layer_decay,
        )
    ]


def describe_trained(vit: VisionTransformer) -> str:
    """How many parameters are trained, and where some are not, which: those that are fewer."""
    parameters = list(vit.named_parameters())
    total = sum(p.numel() for _, p in parameters)
    trained = sum(p.numel() for _, p in parameters if p.requires_grad)
    lines = [f"ViT: {total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained"]
    if trained < total:
        names: dict[bool, list[str]] = {True: [], False: []}
        for name, p in parameters:
            names[p.requires_grad].append(name)
        fewer = len(names[True]) <= len(names[False])
        lines.append(f"  {'trained' if fewer else 'frozen'}: {', '.join(names[fewer])}")
    return "\n".join(lines)


class _MAELayers:
    """timm's layer numbering, with the final norm in the head's layer.

    timm itself gives a model that pools the class token one layer more, for ``norm``; MAE does not.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        self.vit = vit

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.vit.named_parameters()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        stem = r"^(?:cls_token|dist_token|reg_token|mask_token|pos_embed|patch_embed|norm_pre)"
        return {"stem": stem, "blocks": [(r"^blocks\.(\d+)", None)]}
