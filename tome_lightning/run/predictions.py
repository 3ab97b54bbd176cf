"""``predict``: a model's best guesses, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from tome_lightning.callbacks import as_finetune
from tome_lightning.run.prediction_parts import append_rows, check_shared, merge_parts, part_of
from tome_lightning.trainer.agreement import of_all

BEST = 5  # classes a row


class PredictionWriter(Callback):
    """Writes ``predictions.csv``: id, file and the five best classes of each sample with scores.

    Rows appear as batches are done, so an interrupted run keeps what it has. Several processes write
    ``predictions.<rank>.csv`` each into the first one's run directory, and that one puts them together at
    the end, in the order of the data. UTF-8; of a name that is not, the bytes that are none are escaped.

    Args:
        directory: The run directory, as this process knows it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "predictions.csv"

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        place = Path(trainer.strategy.broadcast(str(self.directory.absolute())))
        if not trainer.is_global_zero:
            self.directory = place
        self.path = self.directory / "predictions.csv"
        best = range(1, 1 + min(BEST, as_finetune(pl_module).task.num_classes))
        header = ["id", "file", *(f"{name}{k}" for k in best for name in ("class", "score"))]
        if trainer.world_size > 1:
            self.path = part_of(self.path, trainer.global_rank)
            check_shared(self.path, self.directory, trainer)
        self.directory.mkdir(parents=True, exist_ok=True)
        append_rows(self.path, [header], "w")

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
        append_rows(self.path, rows)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        whole = self.directory / "predictions.csv"
        if trainer.world_size > 1:
            sizes = of_all(self.path.stat().st_size)  # and by then all have written all
            if trainer.is_global_zero:
                merge_parts(whole, sizes)
        rank_zero_info(f"Predictions: {whole}")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt) and self.path.exists():
            several = trainer.world_size > 1
            name = "predictions.*.csv, a file each process" if several else self.path.name
            rank_zero_info(f"Predictions so far: {self.directory / name}")
