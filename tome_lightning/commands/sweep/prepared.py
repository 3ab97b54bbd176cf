"""All that ``validate`` makes of a command line, kept for many evaluations of one model."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import Trainer

from tome_lightning.arguments import UsageError
from tome_lightning.callbacks import ToMeCallback
from tome_lightning.cli import ToMeCLI
from tome_lightning.run.record import RUN_DIR_VARIABLE, RunRecord
from tome_lightning.tome import R

VERBS = {"val": "validate", "test": "test"}


class PreparedSweep(ToMeCLI):
    """``validate`` or ``test`` up to the evaluation itself: one process, in a directory of ours.

    Args:
        stage: ``val`` or ``test``: which samples.
        argv: What would follow the verb.
        folder: Run directory, for what callbacks write.
        limit: Batches to stop after; None for all.

    Raises:
        Exception: What ``validate`` would raise; ``cli.exit_code`` makes one line of it.
        UsageError: There are no trained weights to measure.
    """

    def __init__(self, stage: str, argv: Sequence[str], folder: Path, limit: int | None) -> None:
        self.stage, self.folder, self.limit = stage, folder, limit
        self.batch_size: int | None = None
        super().__init__([VERBS[stage], *argv])

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if self.ckpt_path is None and config.model.checkpoint is None:
            raise UsageError(
                "sweep measures trained weights, and these are random. Give a run's checkpoint "
                "(--ckpt_path runs/NAME/0/checkpoints/best.ckpt), or fine-tuned weights "
                "(--model.checkpoint FILE)."
            )
        trainer = config.trainer
        config.run_dir = str(self.folder)
        first = trainer.devices[:1] if isinstance(trainer.devices, list) else 1
        trainer.devices, trainer.num_nodes, trainer.strategy = first, 1, "auto"
        trainer.logger, trainer.enable_model_summary = False, False
        if not sys.stderr.isatty():
            trainer.enable_progress_bar = False
        if self.limit is not None:
            trainer.limit_val_batches = trainer.limit_test_batches = self.limit
        self.from_checkpoint = {}  # the sweep's table says what it measures
        super().before_instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        self.restored = False
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    def evaluate(self, r: R) -> RunRecord:
        """Measure the metrics at one r; the first time loads the weights.

        Returns:
            What the evaluation has found: ``metrics``, as fractions, and ``counted``, in words.
        """
        record: RunRecord = self._callback(RunRecord)
        self._callback(ToMeCallback).eval_r = r
        reset_seed()
        run: Any = getattr(self.trainer, VERBS[self.stage])
        path = None if self.restored or self.ckpt_path is None else str(self.ckpt_path)
        with quiet():
            run(self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True,
                verbose=False)  # fmt: skip
        self.restored = True
        return record

    def samples(self) -> int:
        """Samples that the last evaluation counted."""
        return int(self.trainer.callback_metrics.get(f"{self.stage}/samples", 0))

    def _callback(self, kind: type[Any]) -> Any:
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return next(callback for callback in callbacks if isinstance(callback, kind))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what a run tells of itself; warnings stay, and a bar goes where they go."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def own_environment() -> Iterator[None]:
    """Restore what a run notes for processes that it starts."""
    names = (RUN_DIR_VARIABLE, "PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.pop(name, None) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
