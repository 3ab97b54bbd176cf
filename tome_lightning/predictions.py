"""``predict``: a model's best guesses, as a table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from tome_lightning.callbacks import as_finetune

BEST = 5  # classes a row


class PredictionWriter(Callback):
    """Writes ``predictions.csv``: id, file and the five best classes of each sample with scores.

    Rows appear as batches are done, so an interrupted run keeps what it has. On several processes
    each writes its own samples, to ``predictions.<rank>.csv``. UTF-8; of a name that is not, the bytes
    that are none are escaped.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "predictions.csv"

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            self.path = self.directory / f"predictions.{trainer.global_rank}.csv"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        best = range(1, 1 + min(BEST, as_finetune(pl_module).task.num_classes))
        header = ["id", "file", *(f"{name}{k}" for k in best for name in ("class", "score"))]
        self._write([header], "w")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        scores: Tensor = outputs["scores"].float().cpu()
        best = scores.topk(min(BEST, scores.shape[1]), dim=1)
        names = getattr(pl_module, "class_names", None) or list(map(str, range(scores.shape[1])))
        data: Any = getattr(trainer, "datamodule", None)
        rows = []
        for i, sample in enumerate(outputs["id"].tolist()):
            file = data.samples("test").path(sample) if hasattr(data, "samples") else ""
            guesses = zip(best.indices[i].tolist(), best.values[i].tolist(), strict=True)
            cells = [cell for k, score in guesses for cell in (names[k], f"{score:.6f}")]
            rows.append([sample, file, *cells])
        self._write(rows, "a")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank_zero_info(f"Predictions: {self.path}")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt) and self.path.exists():
            rank_zero_info(f"Predictions so far: {self.path}")

    def _write(self, rows: list[list[Any]], mode: str) -> None:
        # a name of a file need not be text: what is none is escaped, as \udcff, and costs no row
        with self.path.open(mode, newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file).writerows(rows)
