"""All that a verb of Lightning's makes of a command line, up to the run itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from tome_lightning.cli import ToMeCLI
from tome_lightning.run.record import RUN_DIR_VARIABLE

NOTED = (RUN_DIR_VARIABLE, "PL_GLOBAL_SEED", "PL_SEED_WORKERS")  # for processes that a run starts
Kind = TypeVar("Kind")


class Prepared(ToMeCLI):
    """A run that is ready to start, on one process, in a directory of ours.

    Args:
        argv: The verb and what would follow it.
        folder: The run directory, for what callbacks write.

    Attributes:
        processes: Processes that the recipe asks for.
    """

    def __init__(self, argv: Sequence[str], folder: Path) -> None:
        self.folder = folder
        self.processes = 1
        super().__init__(list(argv))

    def adjust(self, config: Any) -> None:
        """Change the verb's config before anything is made of it; for subclasses."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        trainer = config.trainer
        self.processes = _processes(trainer)
        config.run_dir = str(self.folder)
        first = trainer.devices[:1] if isinstance(trainer.devices, list) else 1
        trainer.devices, trainer.num_nodes, trainer.strategy = first, 1, "auto"
        self.adjust(config)
        super().before_instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def callback_of(trainer: Any, kind: type[Kind]) -> Kind:
    """The trainer's callback of this class."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


@contextlib.contextmanager
def own_environment() -> Iterator[None]:
    """Restore what a run notes for processes that it starts."""
    before = {name: os.environ.pop(name, None) for name in NOTED}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _processes(trainer: Any) -> int:
    devices = trainer.devices
    if devices in ("auto", -1, "-1"):
        devices = 1 if trainer.accelerator == "cpu" else max(1, torch.cuda.device_count())
    if isinstance(devices, str):
        devices = devices.split(",") if "," in devices else int(devices)
    return (len(devices) if isinstance(devices, list) else int(devices)) * int(trainer.num_nodes)
