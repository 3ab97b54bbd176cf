"""A callback that writes down what a real run does, and brings trouble over it where it is told to.

The tests that start ``python -m tome_lightning`` as a process add it with ``--trainer.callbacks+=``. The
trouble is told in environment variables, so that the options of a run stay the same:

- ``RECORDER_KILL``: ``PLACE:N`` kills this process with SIGKILL at the Nth time (from 1 on) it comes to
  ``train`` (end of a training batch, before other callbacks), ``saved`` (the same, after them), ``last``
  (the same of an epoch's last batch), ``val`` (end of a validation batch), ``write`` (half of a
  checkpoint is written) or ``rename`` (a checkpoint is about to get its name).
- ``RECORDER_POISON``: ``RANK:EPOCH:BATCH`` multiplies that training batch with infinity.
- ``RECORDER_RAISE``: ``last:train:N`` raises on the last rank before the Nth training batch of an epoch;
  ``last:hang:N`` as well, and then its logger does not finish, so that its sockets stay open. The file
  ``cause`` beside the records notes when.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

KILL, POISON, RAISE = "RECORDER_KILL", "RECORDER_POISON", "RECORDER_RAISE"


class Recorder(Callback):
    """Appends a line of JSON to ``<folder>/rank<r>.<pid>.jsonl`` for all that a kill can fall between.

    Every line has ``phase``: ``train``, ``val``, ``validated``, ``save``, ``end``, ``tested``.

    Args:
        folder: Where the files go; made if missing.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._times: Counter[str] = Counter()
        self._rates: list[str] = []
        place, _, number = os.environ.get(KILL, "").partition(":")
        self._kill = (place, int(number or 1))
        self._poison = os.environ.get(POISON, "")
        self._raise = os.environ.get(RAISE, "").split(":")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # This callback comes first and sees the batch that the others stop at; those kills that are
        # to find the others' work done come last. A new list: Lightning walks through the old one now.
        trainer.callbacks = [*trainer.callbacks, _Last(self._at)]  # type: ignore[attr-defined]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / f"rank{trainer.global_rank}.{os.getpid()}.jsonl"
        if self._kill[0] == "write":
            torch.save = self._half_of(torch.save)
        if self._kill[0] == "rename":
            os.replace = self._not_yet(os.replace)
            os.rename = self._not_yet(os.rename)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        (optimizer,) = trainer.optimizers
        self._rates = [float(group["lr"]).hex() for group in optimizer.param_groups]
        if self._poison == f"{trainer.global_rank}:{trainer.current_epoch}:{batch_idx}":
            batch[0].mul_(float("inf"))
        if trainer.global_rank == trainer.world_size - 1 and self._raise[-1] == str(batch_idx):
            (self.folder.parent / "cause").write_text(str(time.time()))
            raise RuntimeError("as it was told")

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        if "hang" in self._raise and "as it was told" in str(exception):
            time.sleep(300)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._write(
            "train", epoch=trainer.current_epoch, batch=batch_idx, step=trainer.global_step,
            loss=None if loss is None else float(loss).hex(), lr=self._rates,
            r=pl_module.model.r, ids=batch[2].tolist(),
        )  # fmt: skip

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._write("val", epoch=trainer.current_epoch, batch=batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = _logged(trainer, "val/")
        self._write("validated", epoch=trainer.current_epoch, step=trainer.global_step, **logged)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("tested", epoch=0, **_logged(trainer, "test/"))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._write("save", epoch=trainer.current_epoch, step=trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = [value.detach().cpu() for value in pl_module.state_dict().values()]
        digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in weights))
        finite = all(bool(value.isfinite().all()) for value in weights)
        self._write("end", step=trainer.global_step, weights=digest.hexdigest(), finite=finite)

    def _write(self, phase: str, **facts: Any) -> None:
        line = json.dumps({"phase": phase, **facts}) + "\n"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())  # one call: a kill leaves whole lines
        os.close(descriptor)
        self._at(phase)

    def _at(self, place: str) -> None:
        self._times[place] += 1
        if (place, self._times[place]) == self._kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def _half_of(self, save: Any) -> Any:
        def write_half(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
            self._times["write"] += 1
            if self._times["write"] < self._kill[1]:
                save(obj, f, *args, **kwargs)
                return
            whole = io.BytesIO()
            save(obj, whole, *args, **kwargs)
            half = whole.getvalue()[: len(whole.getvalue()) // 2]
            if hasattr(f, "write"):
                f.write(half)
                f.flush()
            else:
                Path(f).write_bytes(half)
            os.kill(os.getpid(), signal.SIGKILL)

        return write_half

    def _not_yet(self, rename: Any) -> Any:
        def before(source: Any, target: Any, *args: Any, **kwargs: Any) -> None:
            if str(target).endswith(".ckpt"):
                self._at("rename")
            rename(source, target, *args, **kwargs)

        return before


class _Last(Callback):
    """Comes after all other callbacks."""

    def __init__(self, at: Callable[[str], None]) -> None:
        self.at = at

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.at("saved")
        if batch_idx == trainer.num_training_batches - 1:
            self.at("last")


def _logged(trainer: Trainer, prefix: str) -> dict[str, Any]:
    metrics = trainer.callback_metrics
    return {
        name: float(value).hex()
        for name, value in sorted(metrics.items())
        if name.startswith(prefix) and isinstance(value, Tensor)
    }
