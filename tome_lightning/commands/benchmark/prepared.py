"""A fit that is measured: without end, validation or checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from tome_lightning.callbacks import CONSTANT, ToMeCallback
from tome_lightning.commands.prepared import Prepared, callback_of

MANY = 1_000_000  # batches or epochs: of a run that is ended from outside


class PreparedRun(Prepared):
    """A fit that has no end of its own, does not validate and saves nothing.

    r is that of the schedule's end.

    Args:
        argv: What would follow ``fit``.
        folder: The run directory.
        batch: What all batches are, already on the device, each an optimizer step; None for those of
            the data.
    """

    def __init__(self, argv: list[str], folder: Path, batch: Any = None) -> None:
        self.batch = batch
        super().__init__(["fit", *argv], folder)

    def adjust(self, config: Any) -> None:
        trainer = config.trainer
        trainer.logger = trainer.logger is not False  # none that writes elsewhere
        trainer.enable_checkpointing, trainer.profiler = False, None
        trainer.limit_val_batches = trainer.num_sanity_val_steps = 0
        trainer.fast_dev_run = False
        trainer.max_epochs, trainer.max_steps, trainer.max_time = MANY, -1, None
        if self.batch is not None:
            config.keep_effective_batch = False
            trainer.accumulate_grad_batches, trainer.overfit_batches = 1, 0.0
            trainer.limit_train_batches = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        given = config["callbacks"] or []
        given = given if isinstance(given, list) else [given]
        unwanted = (Checkpoint, EarlyStopping)  # they wait for a validation
        config["callbacks"] = [callback for callback in given if not isinstance(callback, unwanted)]
        trainer = super().instantiate_trainer(**kwargs)
        callback_of(trainer, ToMeCallback).schedule = CONSTANT
        if self.batch is not None:
            self._repeat_batch(self.datamodule)
        return trainer

    def _repeat_batch(self, data: Any) -> None:
        data.train_dataloader = lambda: _Repeated(self.batch)
        data.on_before_batch_transfer = lambda batch, dataloader_idx: batch
        data.on_after_batch_transfer = lambda batch, dataloader_idx: batch


class _Repeated:
    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return MANY

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self.batch, MANY)
