"""All that ``fit`` makes of a command line, up to the run itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from tome_lightning.callbacks import CONSTANT, ToMeCallback
from tome_lightning.cli import ToMeCLI

MANY = 1_000_000  # batches or epochs: of a run that is ended from outside


class PreparedRun(ToMeCLI):
    """A run that is ready to start, on one process, in a directory of ours.

    It has no end of its own, does not validate and saves nothing; r is that of the schedule's end.

    Args:
        argv: What would follow ``fit``.
        folder: The run directory.
        batch: What all batches are, already on the device, each an optimizer step; None for those of
            the data.

    Attributes:
        processes: Processes that the recipe asks for.
    """

    def __init__(self, argv: list[str], folder: Path, batch: Any = None) -> None:
        self.folder = folder
        self.batch = batch
        self.processes = 1
        super().__init__(["fit", *argv])

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        trainer = config.trainer
        self.processes = _processes(trainer)
        config.run_dir = str(self.folder)
        first = trainer.devices[:1] if isinstance(trainer.devices, list) else 1
        trainer.devices, trainer.num_nodes, trainer.strategy = first, 1, "auto"
        trainer.logger = trainer.logger is not False  # none that writes elsewhere
        trainer.enable_checkpointing, trainer.profiler = False, None
        trainer.limit_val_batches = trainer.num_sanity_val_steps = 0
        trainer.fast_dev_run = False
        trainer.max_epochs, trainer.max_steps, trainer.max_time = MANY, -1, None
        if self.batch is not None:
            config.keep_effective_batch = False
            trainer.accumulate_grad_batches, trainer.overfit_batches = 1, 0.0
            trainer.limit_train_batches = None
        super().before_instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        given = config["callbacks"] or []
        given = given if isinstance(given, list) else [given]
        unwanted = (Checkpoint, EarlyStopping)  # they wait for a validation
        config["callbacks"] = [callback for callback in given if not isinstance(callback, unwanted)]
        trainer = super().instantiate_trainer(**kwargs)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ToMeCallback):
                callback.schedule = CONSTANT
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


def _processes(trainer: Any) -> int:
    devices = trainer.devices
    if devices in ("auto", -1, "-1"):
        devices = 1 if trainer.accelerator == "cpu" else max(1, torch.cuda.device_count())
    if isinstance(devices, str):
        devices = devices.split(",") if "," in devices else int(devices)
    return (len(devices) if isinstance(devices, list) else int(devices)) * int(trainer.num_nodes)
