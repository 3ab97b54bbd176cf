"""A run from Python: flags, numbers of any library, objects, and going on with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import tome_lightning

from ..test_cli import TINY


class History(Callback):
    """What a notebook's user writes to look at a run."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.steps.append(trainer.global_step)


def fit(steps: int, **more: Any) -> Any:
    overrides: dict[str, Any] = dict(word.removeprefix("--").split("=", 1) for word in TINY)
    overrides |= {"tome.compare_dense": 0, "trainer.max_steps": np.int64(steps)}
    return tome_lightning.fit("quickstart", overrides, run_dir=Path("a run"), **more)


def test_objects_are_used_noted_and_asked_for_when_the_run_goes_on(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    history, keep = History(), ModelCheckpoint(monitor="val/loss", save_top_k=2)
    flags = {"keep_effective_batch": True, "model.effective_batch": np.int32(16)}
    done = fit(1, callbacks=[history, keep], logger=CSVLogger("logs"), **flags)
    assert history.steps[-1] == 1
    assert len(history.steps) == 2, "two batches of 8 a step of 16"
    assert Path(keep.best_model_path).is_file()
    assert list(Path("logs").rglob("metrics.csv"))
    assert not list(done.directory.glob("events*")), "instead of TensorBoard"
    assert done.trainer.checkpoint_callback.best_model_path == done.summary["checkpoint"]

    config = (done.directory / "config.yaml").read_text()
    assert yaml.safe_load(config)["trainer"]["callbacks"] is None
    assert f"# objects given in Python, not in this file: {__name__}.History" in config
    saved = torch.load(done.directory / "checkpoints" / "last.ckpt", weights_only=True)
    noted = saved["tome_lightning"]["trainer"]["callbacks"]
    assert [one["class_path"].rpartition(".")[2] for one in noted] == ["History", "ModelCheckpoint"]

    with pytest.raises(ValueError, match=rf"had trainer\.callbacks {__name__}\.History") as error:
        fit(2, callbacks=ModelCheckpoint(monitor="val/loss"), resume="auto", **flags)
    assert "objects from Python as fit(..., callbacks=[...])" in str(error.value)
    again, keep = History(), ModelCheckpoint(monitor="val/loss", save_top_k=2)
    capfd.readouterr()
    fit(2, callbacks=[keep, again], logger=False, resume="auto", **flags)
    assert again.steps[-1] == 2
    assert len(keep.best_k_models) == 2, "the first one's scores are known"
    assert "CSVLogger, which this one has not" in capfd.readouterr().out


def test_what_cannot_be_passed_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"model\.r cannot be an object of the class object"):
        fit(1, **{"model.r": object()})
    assert not list(tmp_path.iterdir())
