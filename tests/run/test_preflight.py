"""A run that cannot be is told before it starts, in one line, and leaves no folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint

import tome_lightning
from tome_lightning.__main__ import main
from tome_lightning.arguments import UsageError
from tome_lightning.run.leftovers import held, remove_unused
from tome_lightning.run.preflight import check_monitors, check_options, logged
from tome_lightning.run.resume import overruled

from ..test_cli import TINY, trained

__all__ = ["trained"]
CALLBACKS = "lightning.pytorch.callbacks"
QUICK = ["--recipe=quickstart", *TINY, "--tome.compare_dense=0"]
Run = Callable[..., str]


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd) -> Run:
    """``refused(words)`` in an empty working folder: the one line that a user's mistake gets."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> str:
        capfd.readouterr()
        assert main([str(word) for word in words]) == 2
        lines = capfd.readouterr().err.splitlines()
        (told,) = [line for line in lines if line.startswith("error: ")]
        return told

    return call


def nothing_left() -> bool:
    return not [path for path in Path("runs").rglob("*") if path.is_file() or path.name.isdigit()]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"default_root_dir": "x"}, "is not used.*--run_dir x"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches must be 1 or more, got 0"),
        ({"accumulate_grad_batches": -1}, "got -1"),
        ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch must be 1 or more, got 0"),
        ({"val_check_interval": 0}, "val_check_interval must be above 0"),
        ({"val_check_interval": -0.5}, "got -0.5"),
    ],
)
def test_numbers_that_lightning_divides_by_are_looked_at(option, told):
    with pytest.raises(UsageError, match=told):
        check_options(option)


def test_options_that_lightning_takes_are_not_refused():
    check_options({})
    check_options({"check_val_every_n_epoch": None, "val_check_interval": 1000})
    check_options({"accumulate_grad_batches": 1, "val_check_interval": "00:01:00:00"})


@pytest.fixture(scope="module")
def module() -> tome_lightning.FineTune:
    vit = {"embed_dim": 8, "depth": 1, "num_heads": 1}
    return tome_lightning.FineTune(
        tome_lightning.Image(size=8, patch=4), tome_lightning.SingleLabel(4), vit=vit
    )


class Foreign(Callback):
    """May log what it likes."""


def check(module: Any, *callbacks: Any, validates: bool = True) -> None:
    trainer: Any = SimpleNamespace(limit_val_batches=1.0 if validates else 0)
    check_monitors(trainer, callbacks, module)


@pytest.mark.parametrize(
    ("callback", "validates", "told"),
    [
        (EarlyStopping("val/tpo1"), True, "EarlyStopping monitors 'val/tpo1'.*mean val/top1"),
        (ModelCheckpoint(monitor="val_loss"), True, "ModelCheckpoint .* mean val/loss"),
        (EarlyStopping("accuracy"), True, "It logs .*train/loss"),
        (EarlyStopping("epoch"), True, "EarlyStopping monitors 'epoch'"),
        (EarlyStopping("lr"), True, "EarlyStopping monitors 'lr'"),
        (EarlyStopping("val/top1"), False, "limit_val_batches is 0, so it does not validate"),
    ],
)
def test_a_monitor_that_is_never_logged_is_refused_with_the_nearest(
    module, callback, validates, told
):
    with pytest.raises(UsageError, match=told):
        check(module, callback, validates=validates)


@pytest.mark.parametrize(
    "callbacks",
    [
        [EarlyStopping("val/loss"), ModelCheckpoint(monitor="val/top5")],
        [EarlyStopping("train/loss"), ModelCheckpoint(monitor="epoch"), ModelCheckpoint()],
        [EarlyStopping("lr/pg1"), LearningRateMonitor()],
        [EarlyStopping("mine", strict=False), Callback()],
    ],
)
def test_monitors_that_are_logged_or_need_not_be_are_fine(module, callbacks, recwarn):
    check(module, *callbacks)
    assert not [one for one in recwarn if "monitor" in str(one.message)]


def test_what_a_users_own_callback_may_log_is_only_told(module):
    with pytest.warns(UserWarning, match="'mine', which this run does not log, unless Foreign"):
        check(module, EarlyStopping("mine"), Foreign())


def test_stopping_once_accuracy_rises_is_warned_of(module):
    with pytest.warns(UserWarning, match="mode min, but of val/top1 higher is better"):
        check(module, EarlyStopping("val/top1"))


FROM_LIGHTNING = {
    "interval": (
        ["--trainer.val_check_interval=1000", "--trainer.limit_train_batches=125"],
        "`val_check_interval` (1000) must be less than or equal to the number of the training",
    ),
    "misspelt monitor": (
        [f"--trainer.callbacks+={CALLBACKS}.EarlyStopping", "--trainer.callbacks.monitor=val/tpo1"],
        "Did you mean val/top1?",
    ),
    "not for this module": (
        [f"--trainer.callbacks+={CALLBACKS}.BackboneFinetuning"], "callbacks.finetuning",
    ),
    "two of one kind": (
        [f"--trainer.callbacks+={CALLBACKS}.EarlyStopping", "--trainer.callbacks.monitor=val/top1"] * 2,
        "that a checkpoint cannot tell apart",
    ),
    "no logger": (
        [f"--trainer.callbacks+={CALLBACKS}.LearningRateMonitor", "--trainer.logger=false"],
        "no logger",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", FROM_LIGHTNING)
def test_what_lightning_refuses_is_one_line_and_leaves_no_folder(refused, mistake):
    words, told = FROM_LIGHTNING[mistake]
    assert told in refused("fit", *QUICK, *words)
    assert nothing_left()


class Missing(str):
    """As Lightning's flag of a package that is not installed."""

    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("package", "flag", "words"),
    [
        (
            "psutil", f"{CALLBACKS}.device_stats_monitor._PSUTIL_AVAILABLE",
            [f"--trainer.callbacks+={CALLBACKS}.DeviceStatsMonitor"],
        ),
        (
            "mlflow", "lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE",
            ["--trainer.logger=lightning.pytorch.loggers.MLFlowLogger"],
        ),
    ],
)  # fmt: skip
def test_a_package_that_is_missing_is_named(refused, monkeypatch, package, flag, words):
    monkeypatch.setattr(flag, Missing(f"pip install {package}"))
    told = refused("fit", *QUICK, *words)
    assert "Lightning refuses this run" in told
    assert f"pip install {package}" in told
    assert nothing_left()


def test_from_python_the_same_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = dict(word.removeprefix("--").split("=") for word in TINY)
    options["trainer.val_check_interval"] = "1000"
    with pytest.raises(UsageError, match=r"Lightning refuses this run.*val_check_interval"):
        tome_lightning.fit("quickstart", options | {"trainer.limit_train_batches": 125})
    assert nothing_left()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.vit.depth=4"], "model.vit.depth=4 (the checkpoint has 3)"),
        (["--model.freeze=backbone"], "model.freeze=backbone (the checkpoint has none)"),
        (["--model.input.patch=7"], "model.input.patch=7 (the checkpoint has 4)"),
        (["--trainer.val_check_interval=1000"], "val_check_interval"),
    ],
)
def test_a_run_that_cannot_go_on_so_is_as_it_was(refused, trained, words, told):
    shutil.copytree(trained, "R")
    before = contents(Path("R"))
    line = refused(
        "fit", *QUICK, "--run_dir=R", "--resume=R", "--trainer.max_steps=4",
        "--trainer.limit_train_batches=125", *words,
    )  # fmt: skip
    assert told in line
    assert contents(Path("R")) == before


def contents(run: Path) -> dict[Path, bytes]:
    files = [path for path in run.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files if path.name != "hparams.yaml"}


def test_an_option_that_the_checkpoint_does_not_set_is_another_model_too():
    """A checkpoint has of timm's options those that its run was given."""
    saved = {"model": {"r": 4, "vit": {"depth": 3}}}
    used = {"model": {"r": 4, "vit": {"depth": 3, "qkv_bias": False}}, "data": {"size": 8}}
    assert overruled(saved, used) == ["model.vit.qkv_bias=False (the checkpoint does not set it)"]


def test_all_that_a_run_logs_may_be_monitored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = dict(word.removeprefix("--").split("=") for word in TINY)
    run = tome_lightning.fit("quickstart", options | {"tome.compare_dense": "0"})
    names = set(logged(run.module, validates=True))
    assert set(run.trainer.callback_metrics) <= names
    assert {"train/loss", "train/lr", "val/loss", "val/top1"} <= set(run.trainer.callback_metrics)


def test_what_was_there_and_what_a_run_made_itself_stays(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    before = held(run)
    for name in ("config.resume-1.yaml", "environment.resume-1.json", "events.out.tfevents.1.x.2"):
        (run / name).touch()
    remove_unused(run, before)
    assert held(run) == before
    (run / "notes.txt").touch()
    remove_unused(run, frozenset())
    assert held(run) == {"notes.txt"}
    os.remove(run / "notes.txt")
    remove_unused(run, frozenset())
    assert not run.exists()
