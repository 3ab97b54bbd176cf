"""How far a run has come, and the state that makes Lightning go on from there.

Lightning saves the counters of its loops as they are in whatever hook a checkpoint is written from, and
guesses on resuming which hook that was. Saved after the last batch of an epoch it skips the validation
that was due, saved within an accumulation group it loses the group's gradients, and its loader goes on
after the last batch handed out, not after the last one trained on. So a checkpoint of ours also says in
plain numbers where the run stands, and loading it sets the counters to one of two states that Lightning
continues correctly.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from tome_lightning.trainer.lightning_internals import (
    batches_trained,
    epochs_begun,
    validates_by_clock,
    validation_due,
)
from tome_lightning.trainer.pace import Pace, accumulation, steps_in

# Of a ModelCheckpoint's state.
PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
PACE = {"scheduled", "first_batches", "first_accumulate"}  # later than the other fields


@dataclass(frozen=True)
class Progress:
    """How far a run has come, in whole optimizer steps.

    Attributes:
        epoch: The epoch that `batches` counts in, 0 the first.
        batches: Batches each process has trained on in it, 1 to `epoch_batches`.
        epoch_batches: Batches in an epoch on each process.
        accumulate: Batches in an optimizer step.
        steps: Optimizer steps since the start.
        batch: Samples (not views of them) in a batch over all processes; 0 if that is not known.
        processes: Training processes.
        effective: Samples, views of the same one counted, in an optimizer step; 0 if not known.
        validation_due: Whether a validation is to come before the next batch; one that was interrupted
            is repeated from its start.
        scheduled: Steps of the schedules that are done, see `Pace`.
        first_batches: Batches in an epoch on each process as the run began.
        first_accumulate: Batches in an optimizer step as the run began.
    """

    epoch: int
    batches: int
    epoch_batches: int
    accumulate: int
    steps: int
    batch: int
    processes: int
    effective: int
    validation_due: bool = False
    scheduled: float = 0.0
    first_batches: int = 0
    first_accumulate: int = 0

    def as_dict(self) -> dict[str, float | bool]:
        """Plain builtins, for a checkpoint."""
        return asdict(self)

    @property
    def pace(self) -> Pace:
        """The place in the schedules."""
        return Pace(self.scheduled, self.first_batches, self.first_accumulate)

    def at(self, pace: Pace) -> Progress:
        """The same state at another place in the schedules."""
        return replace(
            self,
            scheduled=pace.done,
            first_batches=pace.first_batches,
            first_accumulate=pace.first_accumulate,
        )

    @property
    def order(self) -> tuple[int, int]:
        """A key that sorts the states of one run by how far it had come.

        A validation that was under way does not count: it is quickly repeated.
        """
        return self.steps, self.epoch

    @classmethod
    def read(cls, saved: dict[str, Any]) -> Progress | None:
        """What a checkpoint says; None if it says nothing that this version understands.

        One of before the schedules had a count of their own stands where a run of alike epochs does.
        """
        ours = saved.get("tome_lightning")
        progress = ours.get("progress") if isinstance(ours, dict) else None
        known = {field.name for field in fields(cls)}
        if not isinstance(progress, dict) or progress.keys() not in (known, known - PACE):
            return None
        read = cls(**progress)  # numbers of their range, see `trust.check_form`
        return read if progress.keys() == known else read.at(_alike(read))

    def moved_to(self, now: Progress) -> Progress:
        """The same state of a run whose batches are of another size or spread over other processes.

        Args:
            now: What batches, accumulation and processes are; the rest is not looked at.
        """
        if now.batch == self.batch and now.epoch_batches == self.epoch_batches:
            return replace(now, **_position(self))
        if self.batches == self.epoch_batches:
            batches = now.epoch_batches
        else:
            batches = self.batches * self.batch // max(1, now.batch)
            batches = max(batches - batches % now.accumulate, now.accumulate)
            batches = max(1, min(batches, now.epoch_batches - 1))
        return replace(now, **_position(self) | {"batches": batches})


def _alike(progress: Progress) -> Pace:
    batches, accumulate = progress.epoch_batches, progress.accumulate
    done = progress.epoch * steps_in(batches, accumulate) + steps_in(progress.batches, accumulate)
    return Pace(float(done), batches, accumulate)


def _position(progress: Progress) -> dict[str, Any]:
    names = ("epoch", "batches", "steps", "validation_due", *PACE)
    return {name: getattr(progress, name) for name in names}


def progress_of(trainer: Trainer, run: Progress) -> Progress | None:
    """Where a running fit stands; None before its first optimizer step.

    Batches of an accumulation group that is not complete do not count: their gradients are in no
    checkpoint, so a resumed run takes them again.

    Args:
        trainer: In any hook of fit.
        run: Its batches, from which what does not change is taken.
    """
    # Before the loop has begun, where Lightning's searches save, the number of batches is infinite.
    if not trainer.global_step or not math.isfinite(trainer.num_training_batches):
        return None
    total = int(trainer.num_training_batches)
    epoch = epochs_begun(trainer) - 1
    batches, due = batches_trained(trainer), validation_due(trainer)
    begun = batches % trainer.accumulate_grad_batches if batches < total else 0
    if begun:  # what comes after them is due once they are taken again
        batches, due = batches - begun, False
    if not batches:  # nothing of this epoch: the one before is complete
        epoch, batches, due = epoch - 1, total, False
    accumulate = accumulation(trainer, epoch)
    return replace(
        run,
        epoch=epoch,
        batches=batches,
        epoch_batches=total,
        accumulate=accumulate,
        effective=run.effective // run.accumulate * accumulate,
        steps=trainer.global_step,
        validation_due=due,
    )


def repeats_validation(trainer: Trainer, progress: Progress) -> bool:
    """Whether a validation that was due where a run stood is taken as it goes on: by Lightning's rule.

    Of a run that ``max_steps`` or a callback had ended in mid-epoch, or that validates by the clock or
    at other batches now, the next one is that of this run's options.

    Args:
        trainer: Of this run, before its loop has begun.
        progress: In this run's batches.
    """
    run: Any = trainer
    if not progress.validation_due or not run.limit_val_batches or validates_by_clock(trainer):
        return False
    epochs, interval = run.check_val_every_n_epoch, run.val_check_interval
    if epochs is not None and (progress.epoch + 1) % epochs:
        return False
    every = interval if isinstance(interval, int) else int(progress.epoch_batches * interval)
    before = 0 if epochs is not None else progress.epoch * progress.epoch_batches
    return (before + progress.batches) % max(1, every) == 0


def keep_own_paths(callbacks: dict[str, Any], trainer: Any) -> None:
    """Leave callbacks of a checkpoint no path but those of files in their own folder.

    Lightning's `ModelCheckpoint` removes what its saved state calls an older checkpoint, wherever that
    is. So of these paths remain files `<name>.ckpt` in the checkpoint's folder, or in one that a callback
    of this run has of its own; and where the checkpoint's folder was moved they follow it, for else
    Lightning forgets the best score.

    Args:
        callbacks: `checkpoint["callbacks"]`, changed in place.
        trainer: Restoring it. Lightning's searches restore what they saved themselves, of no run.
    """
    if trainer.ckpt_path is None:
        return
    here = Path(trainer.ckpt_path).absolute().parent
    own = {str(here)} | {
        os.path.abspath(callback.dirpath)
        for callback in getattr(trainer, "checkpoint_callbacks", [])
        if getattr(callback, "dirpath", None)
    }
    for state in callbacks.values():
        if isinstance(state, dict) and not state.keys().isdisjoint(("dirpath", *PATHS)):
            _keep_own(state, str(here), own)


def _keep_own(state: dict[str, Any], here: str, own: set[str]) -> None:
    old = state.get("dirpath")
    old = old if isinstance(old, str) else ""
    folder = here if Path(old).name == Path(here).name else old  # moved, or another one's
    state["dirpath"] = folder

    def follow(path: Any) -> str:
        """The file in this run's folder; empty for one that lies elsewhere."""
        name = path.removeprefix(f"{old}/") if isinstance(path, str) else ""
        whole = Path(folder, name)
        if folder not in own or not re.fullmatch(r"[^/\\\0]+\.ckpt", name):
            return ""
        return str(whole) if whole.resolve().parent == Path(folder).resolve() else ""

    for name in PATHS:
        if name in state:
            state[name] = follow(state[name])
    best = state.get("best_k_models")
    if best is not None:
        best = best if isinstance(best, dict) else {}
        followed = {follow(path): score for path, score in best.items()}
        state["best_k_models"] = {path: score for path, score in followed.items() if path}
