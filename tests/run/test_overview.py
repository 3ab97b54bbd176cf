"""What a run says of itself when it starts, and writes into its summary."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tome_lightning import fit
from tome_lightning.__main__ import main
from tome_lightning.commands.fit import Run
from tome_lightning.run.overview import device_name, screen
from tome_lightning.tome.macs import macs

STEPS = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options: dict[str, Any] = {
        "run_dir": str(tmp_path_factory.mktemp("run") / "a"),
        "trainer.max_steps": STEPS,
        "trainer.accumulate_grad_batches": 2,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
        "trainer.limit_val_batches": 1,
        "tome.compare_dense": 0,
        "tome.schedule.kind": "ramp",
        "data.batch_size": 8,
    }
    return fit("quickstart", options)


def test_the_summary_holds_what_the_screen_says(run: Run):
    told = screen(run.summary)
    assert run.summary == json.loads((run.directory / "summary.json").read_text())
    model = run.module.model
    dense, merged = (macs(model, plan, model.num_tokens).total for plan in ([0] * 6, model.plan()))
    assert run.summary["macs"] == {
        "dense": dense, "merged": merged, "ratio": pytest.approx(dense / merged, abs=1e-4),
    }  # fmt: skip
    assert run.summary["tokens"] == [50, 46, 42, 38, 34, 30, 26]
    assert run.summary["effective_batch"] == 16
    assert run.summary["steps_planned"] == STEPS
    assert run.summary["samples"] == {"train": 4000, "val": 1000}
    assert "6 blocks, 96 wide, 3 heads" in told
    assert f"{dense / 1e6:.1f} M a sample dense, {merged / 1e6:.1f} M merged" in told
    assert "4,000 to train, 1,000 to validate; 3 steps of 16 samples" in told
    assert "epochs" not in told  # max_steps ends it
    assert device_name(torch.device("cpu")) in told


def test_speed_is_told_for_each_r_that_was_trained_at(run: Run):
    rows = run.summary["speed_by_r"]
    assert sum(row["steps"] for row in rows) == 2 * STEPS  # batches, not steps of the optimizer
    assert len({row["r_mean"] for row in rows}) == len(rows) > 1  # the ramp
    for row in rows:
        assert row["tokens_out"] == 50 - 6 * row["r_mean"]
        assert row["step_ms"] > 0


def test_a_run_of_epochs_counts_its_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options: dict[str, Any] = {
        "run_dir": str(tmp_path / "b"),
        "trainer.max_epochs": 2,
        "trainer.limit_train_batches": 3,
        "trainer.limit_val_batches": 1,
        "trainer.accumulate_grad_batches": 2,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
        "tome.compare_dense": 0,
        "model.r": 0,
    }
    run = fit("quickstart", options)
    assert (
        run.summary["steps_planned"] == run.trainer.global_step == 4
    )  # 2 an epoch, the 2nd of one batch
    told = screen(run.summary)
    assert "4 steps of 64 samples in 2 epochs" in told
    assert "36.1 M a sample, dense" in told
    assert run.summary["weights"] == "random"


def test_training_with_fewer_tokens_has_multiply_accumulates_of_its_own():
    facts: dict[str, Any] = {
        "model": "M", "weights": "W", "samples": {}, "device": "D", "precision": "32-true",
        "processes": 2, "macs": {"dense": 4e9, "merged": 2e9, "ratio": 2.0},
        "train_macs": {"dense": 2e9, "merged": 1e9, "ratio": 2.0},
    }  # fmt: skip
    told = screen(facts)
    assert (
        "4.0 G a sample dense, 2.0 G merged: 2.00x at most in evaluation, 2.0 G in training" in told
    )
    assert "2 x D, 32-true" in told
    assert "of another data module" in told


def test_predict_has_no_metrics_of_another_evaluation(run: Run, tmp_path: Path):
    best, there = run.directory / "checkpoints/best.ckpt", tmp_path / "predicted"
    words = ["predict", "--ckpt_path", str(best), "--run_dir", str(there), "--model.r", "2"]
    assert main([*words, "--trainer.accelerator=cpu", "--trainer.limit_predict_batches=1"]) == 0
    summary = json.loads((there / "summary.json").read_text())
    assert (summary["metrics"], summary["measured_on"]) == ({}, "")
    assert summary["samples"] == {"predict": 1000}


def test_resuming_a_finished_run_keeps_what_was_measured(run: Run, tmp_path: Path):
    shutil.copytree(run.directory, tmp_path / "again")
    words = ["fit", "--resume", str(tmp_path / "again"), "--trainer.enable_progress_bar=false"]
    assert main(words) == 0
    summary = json.loads((tmp_path / "again/summary.json").read_text())
    for name in ("speed_by_r", "step_ms", "peak_mem_mib", "metrics", "steps", "ended"):
        assert summary[name] == run.summary[name], name
    assert summary["ended"] == "finished"
    assert summary["weights"].startswith("random; the run goes on from ")
    assert summary["weights"].endswith(f"at step {STEPS}")
