"""A run that goes on is the uninterrupted one to the last bit: its place, its schedules and its draws."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR

from tome_lightning.errors import UserError
from tome_lightning.trainer.batches import continued, this_run
from tome_lightning.trainer.lightning_internals import set_loops
from tome_lightning.trainer.optimizer import fuses
from tome_lightning.trainer.pace import Pace, accumulation
from tome_lightning.trainer.progress import Progress, keep_own_paths, progress_of

STEP_DRAWS = 0x57E9  # keeps the draws of steps apart from those of samples
OF_THIS_RUN = ("initial_lr", "weight_decay", "betas")  # of an optimizer's groups


class ExactResume(Callback):
    """Puts a fit where its checkpoint's run stood; keeps the place in the schedules; seeds each step.

    Lightning asks the module for what a checkpoint says of this (`progress`), under a key of the
    module's own, and hands it back in `on_load_checkpoint`, before it restores loops and optimizer.

    Attributes:
        saved: Where the run of the checkpoint that was loaded stood; None in a run from the start.
        begun_at: The same in batches of this run.
        pace: The place in the schedules; None before training has begun.
    """

    def __init__(self) -> None:
        self.saved: Progress | None = None
        self.begun_at: Progress | None = None
        self.pace: Pace | None = None
        self._options: list[dict[str, Any]] = []

    def progress(self, trainer: Trainer) -> dict[str, float | bool] | None:
        """Where a running fit stands, for its checkpoint; None before its first optimizer step."""
        progress = progress_of(trainer, this_run(trainer, 0))
        if progress is not None and self.pace is not None:
            progress = progress.at(self.pace)
        return None if progress is None else progress.as_dict()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have Lightning go on at the right place, whatever hook the checkpoint was written from.

        Raises:
            UserError: The checkpoint is of a version that counts otherwise.
            BatchError: An optimizer step has another number of samples now.
        """
        if trainer.state.fn != "fit":
            return
        ours = checkpoint.get("tome_lightning", {})
        self.saved, self.begun_at, self.pace = Progress.read(checkpoint), None, None
        if self.saved is None and ours.get("progress"):
            raise UserError(
                "The checkpoint says where its run stood in the way of another version "
                f"({ours.get('versions', {}).get('tome_lightning', 'unknown')}). Go on with that one, or "
                "start anew from its weights with --init_from."
            )
        if self.saved is not None:
            self.begun_at = continued(trainer, self.saved)
            self.pace = self.begun_at.pace
            at, loop = self.begun_at, checkpoint["loops"]["fit_loop"]
            set_loops(loop, at.epoch, at.batches, at.epoch_batches, at.steps, at.validation_due)
        keep_own_paths(checkpoint["callbacks"], trainer)
        for state in checkpoint.get("optimizer_states", ()):
            for group in state["param_groups"]:  # else torch goes on as the checkpoint's run did
                group["fused"] = fuses(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The optimizer is made, and what a checkpoint says of it not yet put over this run's options.
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        self._options = [{name: group.get(name) for name in OF_THIS_RUN} for group in groups]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.pace is None or not trainer.global_step:
            self.pace = Pace.of(trainer)
        # Lightning's scheduler of it is not asked in an epoch that a run is resumed in.
        trainer.accumulate_grad_batches = accumulation(trainer, trainer.current_epoch)
        if self.saved is not None:
            for config in trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, LambdaLR):
                    self._take_rates_of_this_run(config.scheduler)

    def _take_rates_of_this_run(self, scheduler: LambdaLR) -> None:
        """A resumed run has the learning rates and decay of its own options, not the checkpoint's.

        Torch restores both with the optimizer; where nothing was changed this changes no bit.
        """
        scheduler.base_lrs = [options["initial_lr"] for options in self._options]
        for group, options, factor in zip(
            scheduler.optimizer.param_groups, self._options, scheduler.lr_lambdas, strict=True
        ):
            group.update(options, lr=options["initial_lr"] * factor(scheduler.last_epoch))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Mixup, drop path, dropout and masking draw from these. A function of the batch's place alone, so
        # that a resumed run draws the same, and of the process, or all would mix alike.
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        place = (STEP_DRAWS, seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        words = np.random.SeedSequence(place).generate_state(4)
        random.seed(words.tobytes())
        np.random.seed(words)
        number = int(words[0]) << 32 | int(words[1])
        # torch.manual_seed writes a stack trace for each kind of device that is not in use
        torch.default_generator.manual_seed(number)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(number)

    def stepped(self, trainer: Trainer) -> None:
        """An optimizer step was taken: the schedules move on."""
        if self.pace is not None:
            self.pace = self.pace.stepped(trainer)
