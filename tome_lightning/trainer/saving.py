"""``last.ckpt``: a run can be stopped or killed at any moment and go on."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer
from lightning.pytorch.utilities import rank_zero_info

from checkpoints.hints import fits
from tome_lightning.errors import UserError
from tome_lightning.screen import say, typed
from tome_lightning.trainer.agreement import Agreement, of_all, to_device
from tome_lightning.trainer.checkpoint_file import write_text
from tome_lightning.trainer.lightning_internals import (
    accumulates,
    ask_nobody_for_sigterm,
    callbacks_of,
    leave_signals_alone,
    time_limit,
)
from tome_lightning.trainer.loss_guard import NonFiniteLossError
from tome_lightning.trainer.signals import RunStopped, StopSignals

LAST = "last.ckpt"
STOPPED = "stopped"  # in a run directory: a scheduler's signal has ended the run, which is to go on


class SavingError(UserError):
    """Contradicting options of saving, or a last checkpoint that could not be written."""


class SaveLast(Callback):
    """Keeps ``last.ckpt`` and stops a run that is asked to.

    It is written every so many steps and minutes, before each validation (which may be long), at the
    end of an epoch and of the run; and on SIGTERM, SIGUSR1 (with which SLURM can announce the end of a
    job) or the first Ctrl-C, whereupon the run stops: at the next batch, the same one on all processes.
    Within an accumulation group the file is of the optimizer step before it, as a group's gradients are
    in no file: the run that goes on takes the group's batches again, with the same draws.

    The other verbs stop at their next batch as well. A fit that SIGTERM or SIGUSR1 has stopped leaves a
    file ``stopped`` in its run directory, until it goes on.

    Args:
        every_n_steps: Optimizer steps between two files; null for none of these.
        every_n_minutes: Minutes between two files; null for none of these.
        top_k: How many checkpoints to keep beside ``best.ckpt``, the best by the task's metric, each
            named after its epoch, step and value: see `best.best_checkpoints`, which makes them.

    Attributes:
        folder: Where ``last.ckpt`` is written: ``checkpoints`` in the trainer's ``default_root_dir``,
            unless set otherwise before the run.
        saves: Whether files are written at all; a run can be asked to stop either way.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 30.0,
        top_k: int = 0,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("every_n_minutes", every_n_minutes)):
            if value is not None and not value > 0:
                raise SavingError(f"save.{name} must be above 0, or null for never, got {value}.")
        if top_k < 0:
            raise SavingError(f"save.top_k must be 0 (none beside best.ckpt) or more, got {top_k}.")
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.top_k = top_k
        self.folder: Path | None = None
        self.saves = True
        self.signals = StopSignals()
        self._agreement = Agreement()
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._started = 0  # step
        self._stop, self._late, self._due = 0, False, False  # decided in on_train_batch_end
        # Limits of a run that a callback has ended.
        self._over: list[str] | None = None

    def path(self, trainer: Trainer) -> Path:
        """Where ``last.ckpt`` is."""
        folder = self.folder or Path(trainer.default_root_dir, "checkpoints")
        return folder / LAST

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.saves &= not getattr(trainer, "fast_dev_run", False)
        leave_signals_alone(trainer)
        if stage == "fit":  # each process knows its own run directory; the first one's counts
            self.folder = Path(trainer.strategy.broadcast(str(self.path(trainer).parent)))
        callbacks = callbacks_of(trainer)
        there = any(isinstance(one, _AfterEpoch) for one in callbacks)
        if stage == "fit" and self.saves and not there:
            callbacks.append(_AfterEpoch(self))

    def state_dict(self) -> dict[str, Any]:
        """The limits of a run that early stopping or the like has ended: it stays so."""
        return {"over": self._over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""
        over: Any = state_dict.get("over")
        self._over = list(over) if fits(over, list[str]) else None

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)
        _check_start(trainer)
        self._agreement = Agreement()  # an answer may be under way since another fit
        self._stop, self._late, self._due = 0, False, False
        if trainer.is_global_zero:
            self._run_dir(trainer).joinpath(STOPPED).unlink(missing_ok=True)
        if self._over is not None and self._over == _limits(trainer):
            trainer.should_stop = True
        self._over = None
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        self._started = trainer.global_step

    # A step is over, and logged, only after on_train_batch_end. What is decided there is done in the
    # hook that comes next: of another batch, of a validation, or of the epoch's end.

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stop, late = self._agreed(pl_module.device)
        self._stop, self._late = self._stop or stop, self._late or bool(late)
        if accumulates(trainer):
            return
        steps = self.every_n_steps
        self._due = self._late or (
            steps is not None and trainer.global_step - self._saved_step >= steps
        )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._stop or self._due:
            self._save(trainer)
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._listen(trainer)
        elif not trainer.sanity_checking:
            self._save(trainer)  # within a group as well, as val_check_interval may have it
            self._stop_if_asked(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    on_predict_start = on_test_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        saved = not self.saves or trainer.global_step == self._saved_step
        if saved and not _last_epoch(trainer):
            # before others save what the validation, taken again, brings
            self._stop_if_asked(trainer)

    def after_epoch(self, trainer: Trainer) -> None:
        """Save after all other callbacks have seen the epoch's end, so that the file has their states."""
        # Not in on_train_end: there weight averaging has put its averages in place of the live weights.
        over = _last_epoch(trainer)
        self._over = _limits(trainer) if trainer.should_stop else None
        if over or self._due or trainer.global_step != self._saved_step:
            self._save(trainer)
        if not over:
            self._stop_if_asked(trainer)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # What there is to save was saved before validation. Processes need not agree: one that leaves
        # tells the others.
        if self.signals.received:
            raise self._stopped(trainer, self.signals.received)

    on_test_batch_start = on_validation_batch_start
    on_predict_batch_start = on_validation_batch_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.restore()
        if trainer.global_step and trainer.global_step == self._started:
            rank_zero_info(
                f"Nothing was left to do: under these limits ({'; '.join(_limits(trainer))}) the run "
                f"had ended at step {trainer.global_step}. Give larger ones to go on."
            )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save the steps taken, where a single process ends because its data failed between two steps."""
        self.signals.restore()
        if (
            trainer.world_size > 1
            or not trainer.training
            or isinstance(exception, (RunStopped, NonFiniteLossError))
        ):
            return
        loop: Any = trainer.fit_loop.epoch_loop
        seen = loop.batch_progress.current
        if self.saves and trainer.global_step > self._saved_step and seen.completed == seen.ready:
            self._save(trainer)
            rank_zero_info(
                f"Saved step {trainer.global_step}: go on with --resume {typed(self.path(trainer))}"
            )

    def stopped_elsewhere(self, trainer: Trainer, signum: int) -> None:
        """Another process has stopped in a validation, before which all had saved, and this one cannot
        come to its own next batch: it waits for the other one, or has failed to.
        """
        self._stopped(trainer, signum)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.signals.restore()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        failures = getattr(trainer.strategy.checkpoint_io, "failures", {})
        for path, reason in failures.items():
            raise SavingError(
                f"training is done, but {path} could not be written: {reason}. What was written before "
                "is as it was; make room and go on from it with --resume, which repeats what is lost."
            )

    def _listen(self, trainer: Trainer) -> None:
        launcher = getattr(trainer.strategy, "launcher", None)
        self.signals.install(getattr(launcher, "kill", None))
        ask_nobody_for_sigterm(trainer)  # ours takes the signals, and all agree without waiting

    def _agreed(self, device: torch.device) -> list[int]:
        """The signal to stop for (0 if none) and whether it is time to save, the same everywhere."""
        minutes = (time.monotonic() - self._saved_at) / 60
        late = self.every_n_minutes is not None and minutes >= self.every_n_minutes
        numbers = to_device([self.signals.received, late], device)
        return [int(n) for n in self._agreement.exchange(numbers)]

    def _save(self, trainer: Trainer) -> None:
        self._late = self._due = False
        # Else the next batch would read an exchange from before this file, which asks for a file again.
        unread = self._agreement.finish()
        self._stop = self._stop or int(unread[0] if unread else 0)
        if not self.saves or not trainer.global_step:
            return
        for logger in trainer.loggers:
            logger.save()  # a run that goes on from the file logs none of its steps again
        trainer.save_checkpoint(self.path(trainer), False)  # with optimizer and all
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _run_dir(self, trainer: Trainer) -> Path:
        return self.path(trainer).parent.parent

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._stop:
            raise self._stopped(trainer, self._stop)

    def _stopped(self, trainer: Trainer, signum: int) -> RunStopped:
        stopped = RunStopped(signum)
        said = f"{str(stopped)[:1].upper()}{str(stopped)[1:]}"
        if trainer.state.fn != "fit":
            if trainer.is_global_zero:
                say(said, sys.stderr)
            return stopped
        where = f"{said} at step {trainer.global_step}"
        path = self.path(trainer)
        if signum != signal.SIGINT and self.saves and trainer.is_global_zero:
            write_text(self._run_dir(trainer) / STOPPED, f"{where}\n")
        if not trainer.global_step or not self.saves:
            rank_zero_info(f"{where}: there is nothing to save")
        elif path in getattr(trainer.strategy.checkpoint_io, "failures", {}):
            rank_zero_info(f"{where}, which could not be saved")
        else:
            run = typed(self._run_dir(trainer))
            rank_zero_info(f"{where}. Saved {path}: go on with fit --resume {run}")
        return stopped


class _AfterEpoch(Checkpoint):
    """Calls `SaveLast.after_epoch`: Lightning calls `EarlyStopping` and what saves after all others."""

    def __init__(self, save: SaveLast) -> None:
        self.save = save

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save.after_epoch(trainer)


def _last_epoch(trainer: Trainer) -> bool:
    """Whether this is the last epoch."""
    over = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
    return bool(over or 0 < trainer.max_steps <= trainer.global_step)


def _limits(trainer: Trainer) -> list[str]:
    """What ends a run before its last epoch: while this is the same, a run that it has ended stays so."""
    limits = [f"max_epochs {trainer.max_epochs}", f"max_steps {trainer.max_steps}"]
    for callback in callbacks_of(trainer):
        if isinstance(callback, Timer):
            limits.append(f"max_time {time_limit(callback)} s")
        if isinstance(callback, EarlyStopping):
            names = ("monitor", "mode", "min_delta", "patience", "stopping_threshold",
                     "divergence_threshold")  # fmt: skip
            words = ", ".join(f"{name} {getattr(callback, name)}" for name in names)
            limits.append(f"EarlyStopping: {words}")
    return limits


def _check_start(trainer: Trainer) -> None:
    """Refuse processes that have resumed from different checkpoints, or some of them from none.

    Raises:
        SavingError: On all processes.
    """
    if trainer.world_size == 1:
        return
    starts = of_all(trainer.global_step)
    for process, start in enumerate(starts):
        if start != starts[0]:
            raise SavingError(
                f"process {process} starts at step {start}, the first one at step {starts[0]}: they do "
                "not see the same checkpoint. Put --run_dir on a disk that all machines see."
            )
