"""Where a run's time goes: measured on small recipes, and said of numbers made up for each case."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules import Digits
from tome_lightning.__main__ import exit_code
from tome_lightning.commands.benchmark import end_to_end
from tome_lightning.commands.benchmark.advice import limited_by, verdict
from tome_lightning.commands.benchmark.end_to_end import EndToEnd, measure
from tome_lightning.run.record import RUN_DIR_VARIABLE

SMALL = "--recipe quickstart --model.vit.depth 1 --model.vit.embed_dim 24".split()
SMALL += "--data.batch_size 4 --trainer.accelerator cpu".split()
STOPS = "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val/top1".split()


class SlowDigits(Digits):
    """Digits of which each takes far longer to read than to learn from."""

    def build(self, split: str) -> Any:
        samples = super().build(split)
        read = samples.read

        def slowly(path: str) -> Any:
            time.sleep(0.05)
            return read(path)

        samples.read = slowly
        return samples


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to run in, whose ``temporary`` is where temporary files go."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        patch.setattr(end_to_end, "DATA_S", 0.1)
        yield folder


@pytest.fixture(scope="module")
def measured(place: Path) -> EndToEnd:
    own = ["--data.num_workers", "0", "--run_dir", "mine", "--trainer.max_steps", "1", *STOPS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(RUN_DIR_VARIABLE, "another run's")
        found = measure([*SMALL, *own], steps=3)
        assert os.environ[RUN_DIR_VARIABLE] == "another run's"
    return found


def test_a_recipe_is_measured_as_it_would_be_run(measured: EndToEnd) -> None:
    assert (measured.recipe, measured.device, measured.precision) == (
        "quickstart",
        "cpu",
        "32-true",
    )
    assert (measured.batch, measured.workers, measured.steps) == (4, 0, 3)
    assert (measured.tokens_in, measured.tokens_out, measured.r) == (50, 46, 4)
    assert 1 < measured.mac_ratio < 50 / 46 + 0.1
    for name in ("data_per_s", "dense_ms", "merged_ms", "optimizer_ms", "overhead_ms", "period_ms"):
        assert getattr(measured, name) > 0, name
    assert measured.optimizer_ms < measured.merged_ms
    assert {"FineTune", "ToMeCallback", "SaveLast"} <= set(measured.hooks_ms)
    assert "FixedRun" not in measured.hooks_ms


def test_measuring_leaves_nothing_behind(measured: EndToEnd, place: Path) -> None:
    assert [path.name for path in place.rglob("*")] == ["temporary"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_figures_are_plain_and_the_last_line_is_the_verdict(measured: EndToEnd) -> None:
    told = json.loads(json.dumps(measured.as_dict()))
    assert told["verdict"] == measured.lines()[-1]
    assert told["limited_by"] in measured.lines()[-2]
    assert sum(told["shares"].values()) == pytest.approx(1)


def test_a_slow_loader_is_named_as_the_limit(place: Path) -> None:
    slow = ["--data", f"{__name__}.SlowDigits", "--data.num_workers", "1"]
    run = measure([*SMALL, *slow], steps=3)
    assert run.waiting_share > 0.5
    assert limited_by(run).startswith("data:")
    assert verdict(run).startswith("ToMe cannot help here: ")
    assert "data wait" in verdict(run)


def test_a_users_mistake_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: measure([*SMALL, "--model.r", "-1"])) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert [path.name for path in place.rglob("*")] == ["temporary"]


def run(**changes: Any) -> EndToEnd:
    """A run that its model limits: bare steps of 160 and 80 ms, 2.13 times fewer MACs."""
    base = EndToEnd(
        recipe="k400",
        device="cuda",
        precision="bf16-mixed",
        batch=32,
        r=65.0,
        tokens_in=1569,
        tokens_out=9,
        steps=20,
        accumulate=1,
        workers=8,
        cores=16,
        processes=1,
        repeats=True,
        mac_ratio=2.13,
        data_per_s=3200.0,
        prepare_ms=0.0,
        dense_ms=160.0,
        merged_ms=80.0,
        optimizer_ms=2.0,
        overhead_ms=0.0,
        hooks_ms={"ToMeCallback": 0.1},
        period_ms=80.0,
        wait_ms=0.0,
    )
    return replace(base, **changes)


def test_a_run_that_its_model_limits_is_as_fast_as_its_steps() -> None:
    assert verdict(run()) == "r=65: the run goes 2.0x as fast as dense (of at most 2.13x)"
    assert limited_by(run()).startswith("the model itself (data 0%, the optimizer 2%")


def test_a_run_that_waits_for_data_is_not_helped() -> None:
    waits = run(merged_ms=30, dense_ms=60, period_ms=100, wait_ms=70)
    assert verdict(waits).startswith("ToMe cannot help here: 70% data wait")
    assert limited_by(waits).startswith("data: 70% of the time")
    assert waits.gain == 1  # dense steps of 60 ms would wait for the same batches


def test_merging_that_leaves_the_loader_behind_gains_up_to_its_rate() -> None:
    partly = run(dense_ms=120, merged_ms=60, period_ms=90, wait_ms=30)
    assert verdict(partly) == (
        "r=65: the run goes 1.3x as fast as dense (of at most 2.13x); with data twice as fast it would "
        "be 2.0x"
    )


def test_without_workers_reading_comes_on_top_of_every_step() -> None:
    alone = run(workers=0, merged_ms=80, dense_ms=160, period_ms=160, wait_ms=80)
    assert alone.gain == pytest.approx((160 + 80) / (80 + 80))
    assert alone.gain_with_faster_data == pytest.approx((160 + 40) / (80 + 40))


def test_a_loader_that_would_not_follow_a_faster_model_is_told() -> None:
    near = run(dense_ms=160, merged_ms=100, period_ms=100, data_per_s=32 / 0.090)
    assert verdict(near).endswith("; faster than 1.8x the loader could not follow")


def test_a_model_too_small_for_merging_is_told() -> None:
    small = run(dense_ms=10, merged_ms=12, period_ms=12, mac_ratio=1.3, optimizer_ms=0.5)
    assert verdict(small).startswith(
        "ToMe cannot help here: at r=65 a step takes 1.20x as long as a dense one"
    )
    assert limited_by(small).startswith("merging: ")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "r=0: nothing merges; 98% of the time is the model's to save from"),
        (
            {"period_ms": 160.0, "wait_ms": 80.0},
            "ToMe cannot help here: 50% data wait (r=0 now, nothing merges)",
        ),
        (
            {"period_ms": 160.0, "wait_ms": 80.0, "workers": 0},
            "r=0: nothing merges, and ToMe could bring 2.0x at the very most: 50% data wait",
        ),
    ],
)
def test_a_dense_run_is_told_what_merging_could_save(changes: dict[str, Any], told: str) -> None:
    dense = run(tokens_out=1569, r=0.0, mac_ratio=1.0, dense_ms=80.0, **changes)
    assert verdict(dense) == told
    assert dense.merging_ms == 0
    assert not any("merged, bare" in line for line in dense.lines())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optimizer_ms": 40.0, "dense_ms": 125.2}, "the optimizer: 50% of the time"),
        (
            {"overhead_ms": 80.0, "period_ms": 160.0},
            "Lightning and the callbacks: 50% of the time",
        ),
    ],
)
def test_what_tokens_do_not_shrink_is_named(changes: dict[str, Any], told: str) -> None:
    assert limited_by(run(**changes)).startswith(told)


def test_an_optimizer_step_of_several_batches_counts_for_each_in_part() -> None:
    four = run(accumulate=4, optimizer_ms=40.0, period_ms=80.0 - 30.0)
    assert four.slowdown == pytest.approx(1)
    assert four.shares()["the optimizer"] == pytest.approx(10 / 50)


def test_cores_shared_with_workers_and_processes_left_out_are_told() -> None:
    shared = run(device="cpu", workers=1, cores=2, period_ms=100.0).lines()
    assert any("share 2 cores" in line and "1.25x as long" in line for line in shared)
    assert any("not 8" in line for line in run(processes=8).lines())
    alone = "\n".join(run().lines())
    assert "share" not in alone
    assert "one process" not in alone


def test_five_milliseconds_of_overhead_are_the_limit() -> None:
    assert not any("more than 5 ms" in line for line in run(overhead_ms=4.9).lines())
    assert any("more than 5 ms" in line for line in run(overhead_ms=5.1).lines())
