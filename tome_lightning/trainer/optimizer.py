"""A run's AdamW, and its learning rate from step to step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from timm.models.vision_transformer import VisionTransformer

from tome_lightning.optim import describe_trained, layer_decay_groups, lr_at, lr_at_step
from tome_lightning.trainer.batches import effective_batch, factors
from tome_lightning.trainer.lightning_internals import divides_no_gradients
from tome_lightning.trainer.pace import Pace

REFERENCE_BATCH = 256  # base learning rates are per 256 samples (linear scaling rule)


def fuses(trainer: Trainer) -> bool:
    """Whether the optimizer's step is one kernel: not with a scaler of float16 gradients, which a fused
    step would have to divide itself, unclipped."""
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    return not scaled and trainer.strategy.root_device.type in ("cpu", "cuda")


def adamw(
    trainer: Trainer,
    vit: VisionTransformer,
    peak: float,
    weight_decay: float,
    layer_decay: float,
    betas: Sequence[float],
) -> torch.optim.AdamW:
    """The optimizer of a ViT, a group for each layer and kind of decay.

    Args:
        trainer: Of the run.
        vit: The model.
        peak: Learning rate at the end of warm-up, before layer decay.
        weight_decay: See `layer_decay_groups`.
        layer_decay: See `layer_decay_groups`.
        betas: Of AdamW.
    """
    groups = layer_decay_groups(vit, peak, weight_decay, layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(betas[0], betas[1]), fused=fuses(trainer))
    if fuses(trainer):
        divides_no_gradients(optimizer)
    return optimizer


def lr_factor(
    trainer: Trainer,
    pace: Pace | None,
    peak: float,
    min_lr: float,
    warmup_epochs: float,
    schedule: str,
) -> float:
    """The learning rate of the next step, relative to its peak.

    Args:
        trainer: Of the run.
        pace: Its place in the schedule; None before it knows its epochs.
        peak: At the end of warm-up.
        min_lr: At the end of the cosine.
        warmup_epochs: Length of the warm-up.
        schedule: ``mae`` or ``videomae``.
    """
    table, ends = schedule == "videomae", (peak, min_lr, warmup_epochs)
    if pace is None:
        # Not the trainer's estimated_stepping_batches: that would build a loader here, and drop the
        # position a resumed one had.
        if table:
            return 0.0 if warmup_epochs else 1.0
        return lr_at(0.0, *ends, max(1, trainer.max_epochs or -1)) / peak
    end = pace.end(trainer)
    if table:
        return lr_at_step(pace.done, pace.epoch_steps, *ends, end) / peak
    return lr_at(pace.epoch(), *ends, pace.epoch(end)) / peak


def describe(
    trainer: Trainer, vit: VisionTransformer, peak: float, base_lr: float | None, wanted: int | None
) -> str:
    """What is trained, at which learning rate, with how many samples in a step.

    Args:
        trainer: Of the run.
        vit: The model.
        peak: Learning rate at the end of warm-up.
        base_lr: What it was scaled from; None where it was given as it is.
        wanted: Samples in a step that the learning rate was found for, if that is known.
    """
    batch = effective_batch(trainer)
    scaled = f"= {base_lr:g} x {batch} / {REFERENCE_BATCH}" if base_lr is not None else None
    line = f"Learning rate {peak:g} {scaled or '(model.lr, whatever the batch)'}"
    if batch:
        line += f"; effective batch {batch} = {factors(trainer)}"
    if wanted == batch:
        line += ", as in the recipe"
    elif wanted is not None:
        line += f"; the recipe's is {wanted}, which --keep_effective_batch accumulates"
    return f"{describe_trained(vit)}\n{line}"
