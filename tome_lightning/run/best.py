"""``best.ckpt``, the k best beside it, and room for a user's own `ModelCheckpoint`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tome_lightning.errors import UsageError
from tome_lightning.trainer.saving import LAST

BEST = "best.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``.

    A class of its own gives it a state of its own in checkpoints, whatever a user's `ModelCheckpoint`
    monitors, and lets `RunRecord` tell it from those.

    Args:
        folder: Where the file is written.
        metric: Of the task, logged as ``val/<metric>``; more is better.
    """

    def __init__(self, folder: Path, metric: str, **more: Any) -> None:
        settings: dict[str, Any] = {
            "filename": Path(BEST).stem,
            "monitor": f"val/{metric}",
            "mode": "max",
            "enable_version_counter": False,  # a validation taken again writes the same file
            "save_on_train_epoch_end": False,  # but after validation, before last.ckpt
        }
        super().__init__(folder, **settings | more)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take what checkpoints written before this class say: another's would remove ``best.ckpt``."""
        states, usual = checkpoint["callbacks"], ModelCheckpoint.__qualname__
        if not any(name.startswith(BestCheckpoint.__qualname__) for name in states):
            old = self.state_key.replace(type(self).__qualname__, usual, 1)
            if old in states and type(self) is BestCheckpoint:
                states[self.state_key] = states.pop(old)


class TopCheckpoints(BestCheckpoint):
    """Keeps the k best, as ``epoch=07-step=1000-top1=0.8512.ckpt``, epochs counted from 0.

    Args:
        folder: Where the files are written.
        metric: Of the task, logged as ``val/<metric>``; more is better.
        k: How many.
    """

    def __init__(self, folder: Path, metric: str, k: int) -> None:
        name = metric.replace("/", "_")
        super().__init__(
            folder,
            metric,
            filename=f"epoch={{epoch:02d}}-step={{step}}-{name}={{val/{metric}:.4f}}",
            auto_insert_metric_name=False,
            save_top_k=k,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the k best of them: with more than k Lightning would never remove one again."""
        super().load_state_dict(state_dict)
        scores = self.best_k_models
        kept = sorted(scores, key=lambda path: float(scores[path]), reverse=True)[: self.save_top_k]
        self.best_k_models = {path: scores[path] for path in kept}
        if len(kept) == self.save_top_k:
            self.kth_best_model_path, self.kth_value = kept[-1], scores[kept[-1]]


def best_checkpoints(folder: Path, metric: str, top_k: int) -> list[ModelCheckpoint]:
    """The callbacks of a run that save by its metric.

    Args:
        folder: The run's checkpoints.
        metric: Of the task.
        top_k: How many to keep beside ``best.ckpt``.
    """
    top = [TopCheckpoints(folder, metric, top_k)] if top_k else []
    return [BestCheckpoint(folder, metric), *top]


def keep_apart(callbacks: Sequence[Callback], folder: Path) -> None:
    """Let a user's `ModelCheckpoint` write beside our files, never over them.

    One without a folder writes to the run's, which stays the same when the run goes on.

    Args:
        callbacks: The user's.
        folder: The run's checkpoints.

    Raises:
        UsageError: A file of theirs has the name of one of ours.
    """
    own = os.path.realpath(folder)  # as Lightning spells a folder: states are held against it
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        callback.dirpath = callback.dirpath or own
        if os.path.realpath(callback.dirpath) != own:
            continue
        if callback.filename in (Path(BEST).stem, Path(LAST).stem):
            raise UsageError(
                f"trainer.callbacks has a ModelCheckpoint (monitor {callback.monitor}) that writes "
                f"{callback.filename}.ckpt, which is the run's own file. Give it another filename, such "
                f"as {callback.filename}-mine, or another dirpath."
            )
        if Path(LAST).stem == callback.CHECKPOINT_NAME_LAST:  # with save_last
            callback.CHECKPOINT_NAME_LAST = f"{Path(LAST).stem}-v1"


def check_states(callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks whose states a checkpoint would mix up.

    Raises:
        UsageError: Says which.
    """
    seen: set[str] = set()
    for callback in callbacks:
        if type(callback).state_dict is Callback.state_dict:
            continue
        if callback.state_key in seen:
            name = type(callback).__name__
            raise UsageError(
                f"trainer.callbacks has two {name} that a checkpoint cannot tell apart "
                f"({callback.state_key[:200]}). Leave one out, or let them differ in what is named there."
            )
        seen.add(callback.state_key)
