"""A run goes on as it was started, or says why not: callbacks, loggers, limits."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Timer

from tome_lightning.__main__ import main
from tome_lightning.trainer.saving import _limits

from ..test_cli import TINY

EMA = "lightning.pytorch.callbacks.EMAWeightAveraging"
STOPPING = "lightning.pytorch.callbacks.EarlyStopping"
FIT = [
    "fit",
    "--recipe=quickstart",
    *TINY,
    "--tome.compare_dense=0",
    "--run_dir=R",
    "--resume=auto",
]
Run = Callable[..., tuple[int, str]]


class Witness(Callback):
    """A callback of the user's own."""


@pytest.fixture
def run(tmp_path, monkeypatch, capfd, caplog) -> Run:
    """``run(words)`` in an empty working folder: exit code and all that was said."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        caplog.clear()
        code = main([*FIT, *words])
        said = capfd.readouterr()
        return code, said.out + said.err + caplog.text

    return call


def last() -> dict[str, Any]:
    return torch.load("R/checkpoints/last.ckpt", weights_only=True)


def test_the_line_with_averaged_weights_resumes_itself_any_number_of_times(run: Run):
    averaged = [f"--trainer.callbacks+={EMA}", "--trainer.callbacks.decay=0.9"]
    pictures = "--trainer.callbacks+=tome_lightning.commands.visualize.GroupPictures"
    for steps in (1, 2, 3):
        code, said = run(*averaged, pictures, f"--trainer.max_steps={steps}")
        assert code == 0, said
        assert last()["global_step"] == steps
        assert last()["averaging_state"]
        name = "config.yaml" if steps == 1 else f"config.resume-{steps - 1}.yaml"
        used = yaml.safe_load(Path("R", name).read_text())["trainer"]["callbacks"]
        names = [one["class_path"].rpartition(".")[2] for one in used]
        assert names == ["EMAWeightAveraging", "GroupPictures"]


def test_a_callback_that_the_run_had_is_not_dropped_without_a_word(run: Run):
    witness = f"--trainer.callbacks+={__name__}.Witness"
    assert run(f"--trainer.callbacks+={EMA}", witness, "--trainer.max_steps=1")[0] == 0
    code, said = run("--trainer.max_steps=2")
    assert (code, last()["global_step"]) == (2, 1)
    assert f"had trainer.callbacks {EMA}, {__name__}.Witness" in said
    assert f"--trainer.callbacks+={EMA}" in said
    code, said = run(f"--trainer.callbacks+={EMA}", "--trainer.max_steps=2")
    assert code == 2, "one of two named"
    assert f"had trainer.callbacks {__name__}.Witness, and" in said
    for on_purpose in (["--trainer.callbacks=null"], ["--trainer.callbacks", "null"]):
        steps = last()["global_step"] + 1
        code, said = run(*on_purpose, f"--trainer.max_steps={steps}")
        assert (code, last()["global_step"]) == (0, steps), said
        assert steps > 2 or "which this one has not" in said


def test_a_logger_that_the_run_had_is_told(run: Run):
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    assert run(logger, "--trainer.logger.save_dir=logs", "--trainer.max_steps=1")[0] == 0
    code, said = run("--trainer.max_steps=2")
    assert code == 0, said
    assert "had trainer.logger lightning.pytorch.loggers.CSVLogger, which this one has not" in said


def test_a_run_that_a_limit_has_ended_goes_on_under_a_larger_one_and_else_says_why_not(run: Run):
    stopping = [f"--trainer.callbacks+={STOPPING}", "--trainer.callbacks.monitor=val/top1"]
    stopping += ["--trainer.callbacks.mode=max"]
    epochs = ["--trainer.limit_train_batches=1", "--trainer.max_steps=-1", "--trainer.max_epochs=3"]
    threshold = "--trainer.callbacks.stopping_threshold"
    assert run(*stopping, f"{threshold}=-1", *epochs)[0] == 0
    assert last()["global_step"] == 1
    code, said = run(*stopping, f"{threshold}=-1", *epochs)
    assert (code, last()["global_step"]) == (0, 1), said
    assert "Nothing was left to do" in said
    assert "stopping_threshold -1" in said
    code, said = run(*stopping, f"{threshold}=2", *epochs)
    assert (code, last()["global_step"]) == (0, 3), said


def test_a_time_limit_is_one_of_the_limits():
    def limits(duration: str) -> list[Any]:
        timer = Timer(duration=duration)
        return _limits(SimpleNamespace(max_epochs=3, max_steps=-1, callbacks=[timer]))

    assert limits("00:00:00:01") == limits("00:00:00:01") != limits("00:01:00:00")


def test_auto_goes_on_after_an_evaluation(run: Run):
    words = ["fit", "--recipe=quickstart", *TINY, "--tome.compare_dense=0", "--resume=auto"]
    assert main([*words, "--trainer.max_steps=1"]) == 0
    best = "--ckpt_path=runs/quickstart/0/checkpoints/best.ckpt"
    assert main(["test", best, "--trainer.limit_test_batches=1"]) == 0
    assert main([*words, "--trainer.max_steps=1", "--trainer.fast_dev_run=1"]) == 0
    assert main([*words, "--trainer.max_steps=3"]) == 0
    saved = torch.load("runs/quickstart/0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
