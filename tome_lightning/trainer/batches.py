"""How many samples an optimizer step has, on however many processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from tome_lightning.errors import UserError
from tome_lightning.trainer.pace import accumulation, accumulation_scheduler
from tome_lightning.trainer.progress import Progress, repeats_validation


class BatchError(UserError):
    """Batches that do not go together: one line, what, got, why and the way out."""


def effective_batch(trainer: Trainer, epoch: int = 0) -> int:
    """Samples per optimizer step: batch x repeats x accumulation x processes; 0 if not known.

    Args:
        trainer: With its datamodule.
        epoch: Of the accumulation, where that is scheduled.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "batch_size"):
        return 0
    per_process = data.batch_size * getattr(data, "repeat_aug", 1)
    return int(per_process * accumulation(trainer, epoch) * trainer.world_size)


def factors(trainer: Trainer, epoch: int = 0) -> str:
    """The factors of the effective batch, as a phrase."""
    data: Any = getattr(trainer, "datamodule", None)
    words = [
        f"{data.batch_size} a process",
        *([f"{data.repeat_aug} repeats"] if hasattr(data, "repeat_aug") else []),
        f"{trainer.world_size} processes",
        f"{accumulation(trainer, epoch)} accumulated",
    ]
    return " x ".join(words)


def accumulate_to(trainer: Trainer, wanted: int | None) -> None:
    """Accumulate so many batches that an optimizer step has `wanted` samples.

    Raises:
        BatchError: It is not known how many are wanted, or no number of batches makes them.
    """
    if wanted is None:
        raise BatchError(
            "--keep_effective_batch has to know which: give model.effective_batch, the samples in an "
            "optimizer step that the learning rate was found for."
        )
    if accumulation_scheduler(trainer) is not None:
        raise BatchError(
            "--keep_effective_batch accumulates the same in every epoch, and trainer.callbacks has a "
            "GradientAccumulationScheduler, which does not. Leave one of them out."
        )
    trainer.accumulate_grad_batches = 1
    one = effective_batch(trainer)
    if not one or wanted % one:
        raise BatchError(
            f"--keep_effective_batch: the {wanted} samples of a step (model.effective_batch) are no "
            f"multiple of {one} = {factors(trainer).removesuffix(' x 1 accumulated')}. Change "
            "data.batch_size so that they are."
        )
    trainer.accumulate_grad_batches = wanted // one


def check_accumulation(trainer: Trainer) -> None:
    """Refuse an accumulation that Lightning would refuse once the data is loaded, with a traceback.

    Raises:
        BatchError: Accumulation is both fixed and scheduled.
    """
    fixed = trainer.accumulate_grad_batches
    if fixed != 1 and accumulation_scheduler(trainer) is not None:
        raise BatchError(
            f"trainer.accumulate_grad_batches is {fixed}, and trainer.callbacks has a "
            "GradientAccumulationScheduler, which sets it for each epoch. Leave one of them out."
        )


def this_run(trainer: Trainer, epoch_batches: int, epoch: int = 0) -> Progress:
    """The batches of this run, before the first of them.

    Args:
        trainer: With its datamodule set up.
        epoch_batches: Batches in an epoch where the datamodule cannot tell.
        epoch: Of the accumulation, where that is scheduled.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "train_batches"):
        epoch_batches = data.train_batches(trainer.world_size)
        limit: Any = trainer.limit_train_batches
        whole = isinstance(limit, int)
        epoch_batches = min(epoch_batches, limit) if whole else int(epoch_batches * limit)
    return Progress(
        epoch=0,
        batches=0,
        epoch_batches=epoch_batches,
        accumulate=accumulation(trainer, epoch),
        steps=0,
        batch=getattr(data, "batch_size", 0) * trainer.world_size,
        processes=trainer.world_size,
        effective=effective_batch(trainer, epoch),
    )


def continued(trainer: Trainer, saved: Progress) -> Progress:
    """Where the run that `saved` is of stands in terms of this run's batches.

    Raises:
        BatchError: An optimizer step has another number of samples now.
    """
    now = this_run(trainer, saved.epoch_batches, saved.epoch)
    if saved.effective and now.effective and saved.effective != now.effective:
        raise BatchError(
            f"The checkpoint was trained with an effective batch of {saved.effective}, this run has "
            f"{now.effective} = {factors(trainer, saved.epoch)}: its steps and "
            "learning rates would not go on from there. Use --keep_effective_batch, or batches and "
            "devices as before, or start anew from its weights with --init_from."
        )
    then = (saved.processes, saved.batch, saved.epoch_batches)
    if then != (now.processes, now.batch, now.epoch_batches):
        rank_zero_warn(
            f"the run goes on with {now.processes} processes, {now.batch} samples in a batch over all of "
            f"them and {now.epoch_batches} batches an epoch; it had {saved.processes}, {saved.batch} and "
            f"{saved.epoch_batches}. It will not repeat the uninterrupted one bit for bit."
        )
    moved = saved.moved_to(now)
    return replace(moved, validation_due=repeats_validation(trainer, moved))
