"""All that ``validate`` makes of a command line, kept for many evaluations of one model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import Trainer

from tome_lightning.callbacks import ToMeCallback
from tome_lightning.commands.prepared import Prepared, callback_of
from tome_lightning.errors import UsageError
from tome_lightning.run.record import RunRecord
from tome_lightning.screen import quiet
from tome_lightning.tome import R

VERBS = {"val": "validate", "test": "test"}


class PreparedSweep(Prepared):
    """``validate`` or ``test`` up to the evaluation itself: one process, in a directory of ours.

    Args:
        stage: ``val`` or ``test``: which samples.
        argv: What would follow the verb.
        folder: Run directory, for what callbacks write.
        limit: Batches to stop after; None for all.

    Raises:
        Exception: What ``validate`` would raise; ``__main__`` makes one line of it.
        UsageError: There are no trained weights to measure.
    """

    def __init__(self, stage: str, argv: Sequence[str], folder: Path, limit: int | None) -> None:
        self.stage, self.limit = stage, limit
        self.batch_size: int | None = None
        super().__init__([VERBS[stage], *argv], folder)

    def adjust(self, config: Any) -> None:
        if self.ckpt_path is None and config.model.checkpoint is None:
            raise UsageError(
                "sweep measures trained weights, and these are random. Give a run's checkpoint "
                "(--ckpt_path runs/NAME/0/checkpoints/best.ckpt), or fine-tuned weights "
                "(--model.checkpoint FILE)."
            )
        trainer = config.trainer
        trainer.logger, trainer.enable_model_summary = False, False
        if not sys.stderr.isatty():
            trainer.enable_progress_bar = False
        if self.limit is not None:
            trainer.limit_val_batches = trainer.limit_test_batches = self.limit
        self.from_checkpoint = {}  # the sweep's table says what it measures

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        self.restored = False
        return trainer

    def evaluate(self, r: R) -> RunRecord:
        """Measure the metrics at one r; the first time loads the weights.

        Returns:
            What the evaluation has found: ``metrics``, as fractions, and ``counted``, in words.
        """
        record = callback_of(self.trainer, RunRecord)
        tome: Any = callback_of(self.trainer, ToMeCallback)
        tome.eval_r = r
        reset_seed()
        run: Any = getattr(self.trainer, VERBS[self.stage])
        path = None if self.restored or self.ckpt_path is None else str(self.ckpt_path)
        with quiet_but_bar():
            run(self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True,
                verbose=False)  # fmt: skip
        self.restored = True
        return record

    def samples(self) -> int:
        """Samples that the last evaluation counted."""
        return int(self.trainer.callback_metrics.get(f"{self.stage}/samples", 0))


@contextlib.contextmanager
def quiet_but_bar() -> Iterator[None]:
    """As `quiet`; a bar goes where warnings go."""
    with quiet(), contextlib.redirect_stdout(sys.stderr):
        yield
