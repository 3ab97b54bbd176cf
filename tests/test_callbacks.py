"""r over a training run, and what is measured and said of it."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from tome_lightning.callbacks import ToMeCallback
from tome_lightning.finetune import FineTune
from tome_lightning.inputs import Image
from tome_lightning.tasks import SingleLabel
from tome_lightning.tome import PlanError, RSchedule

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*exists and is not empty"
)
LOGGED = {"r", "tokens_out", "step_ms", "data_ms", "samples_per_s", "peak_mem_mib"}


class Noise(LightningDataModule):
    """4 batches of 4 random images; 8 to evaluate."""

    batch_size, num_classes, class_names = 4, 3, ("a", "b", "c")

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken

    def setup(self, stage: str | None = None) -> None:
        if self.broken:
            raise FileNotFoundError("no data")

    def loader(self, count: int, *views: int) -> DataLoader:
        generator = torch.Generator().manual_seed(count)
        x = torch.randn(count, *views, 3, 16, 16, generator=generator)
        data = TensorDataset(x, torch.arange(count) % 3, torch.arange(count))
        return DataLoader(data, batch_size=4)

    def train_dataloader(self) -> DataLoader:
        return self.loader(16)

    def val_dataloader(self) -> DataLoader:
        return self.loader(8, 1)

    test_dataloader = predict_dataloader = val_dataloader


class Probe(Callback):
    """Which r each batch really ran with."""

    def __init__(self, fail_in: str | None = None) -> None:
        self.fail_in = fail_in
        self.train: list[Any] = []  # of each micro-batch
        self.steps: list[int] = []  # optimizer steps done before it
        self.evaluated: list[Any] = []  # of each batch of any other stage

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        def before(model: Any, _: Any) -> None:
            if trainer.training:
                self.train.append(model.r)
                self.steps.append(trainer.global_step)
            else:
                self.evaluated.append(model.r)

        self.handle = pl_module.model.register_forward_pre_hook(before)

    def teardown(self, *_: Any, **__: Any) -> None:
        self.handle.remove()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.fail_in == "train" and len(self.train) == 3:
            raise RuntimeError("as planned")

    def on_validation_batch_end(self, *_: Any) -> None:
        if self.fail_in == "val":
            raise RuntimeError("as planned")


def tiny(r: Any = 4) -> FineTune:
    """17 tokens, 3 blocks."""
    vit = {"embed_dim": 16, "depth": 3, "num_heads": 2}
    return FineTune(Image(16, 4), SingleLabel(3), vit=vit, r=r, lr=1e-3, warmup_epochs=0)


def trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return Trainer(**{
        "default_root_dir": folder, "accelerator": "cpu", "logger": False, "max_epochs": 2,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        "enable_checkpointing": saves, "callbacks": list(callbacks), "log_every_n_steps": 1,
        **settings,
    })  # fmt: skip


# r


def test_by_default_training_and_evaluation_use_the_model_s_own_r(tmp_path: Path) -> None:
    probe, module = Probe(), tiny(r=[4, 2])
    trainer(tmp_path, ToMeCallback(), probe).fit(module, datamodule=Noise())
    assert all(list(r) == [4, 2] for r in probe.train + probe.evaluated)
    assert (len(probe.train), len(probe.evaluated)) == (8, 4)


def test_r_follows_the_schedule_and_micro_batches_of_a_step_share_it(tmp_path: Path) -> None:
    """8 batches, 2 to a step: 4 steps of a ramp in 4 plateaus over all of training."""
    schedule = RSchedule(kind="ramp", full=1.0, plateaus=4)
    probe, module = Probe(), tiny(r=4)
    run = trainer(tmp_path, ToMeCallback(schedule), probe, accumulate_grad_batches=2)
    run.fit(module, datamodule=Noise())
    assert probe.train == [1, 1, 2, 2, 3, 3, 4, 4]
    assert probe.steps == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_incomplete_last_group_is_a_step_of_the_schedule(tmp_path: Path) -> None:
    """4 batches, 3 to a step, 2 epochs: 4 steps."""
    schedule = RSchedule(kind="ramp", full=1.0, plateaus=4)
    probe = Probe()
    run = trainer(tmp_path, ToMeCallback(schedule), probe, accumulate_grad_batches=3)
    run.fit(tiny(r=4), datamodule=Noise())
    assert probe.train == [1, 1, 1, 2, 3, 3, 3, 4]


def test_max_steps_ends_the_schedule_where_it_ends_training(tmp_path: Path) -> None:
    schedule = RSchedule(start=0.5)
    probe = Probe()
    run = trainer(tmp_path, ToMeCallback(schedule), probe, max_epochs=-1, max_steps=6)
    run.fit(tiny(), datamodule=Noise())
    assert probe.train == [0, 0, 0, 4, 4, 4]


def test_merging_can_stop_before_training_does(tmp_path: Path) -> None:
    probe = Probe()
    trainer(tmp_path, ToMeCallback(RSchedule(start=0.25, stop=0.75)), probe).fit(
        tiny(), datamodule=Noise()
    )
    assert probe.train == [0, 0, 4, 4, 4, 4, 0, 0]
    assert probe.evaluated == [4] * 4  # evaluation is not on the schedule


def test_train_r_and_eval_r_replace_the_model_s_own(tmp_path: Path) -> None:
    probe, module = Probe(), tiny(r=4)
    run = trainer(tmp_path, ToMeCallback(train_r=2, eval_r=[5]), probe, num_sanity_val_steps=1)
    run.fit(module, datamodule=Noise())
    assert probe.train == [2] * 8
    assert len(probe.evaluated) == 1 + 2 * 2
    run.test(module, datamodule=Noise(), verbose=False)
    run.predict(module, datamodule=Noise())
    assert len(probe.evaluated) == 5 + 2 + 2
    assert all(list(r) == [5] for r in probe.evaluated)
    assert module.model.r == 4


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_the_model_s_own_r_is_back_afterwards(tmp_path: Path, stage: str) -> None:
    module = tiny(r=4)
    tome = ToMeCallback(RSchedule(stop=0.5), train_r=2, eval_r=1, compare_dense=1)
    getattr(trainer(tmp_path, tome), stage)(module, datamodule=Noise())
    assert module.model.r == 4


@pytest.mark.parametrize("where", ["train", "val"])
def test_the_model_s_own_r_is_back_after_an_exception(tmp_path: Path, where: str) -> None:
    module = tiny(r=4)
    run = trainer(tmp_path, ToMeCallback(train_r=2, eval_r=1), Probe(fail_in=where))
    with pytest.raises(RuntimeError, match="as planned"):
        run.fit(module, datamodule=Noise())
    assert module.model.r == 4


def test_a_run_that_fails_before_it_starts_leaves_r_alone(tmp_path: Path) -> None:
    """Otherwise the next attempt with this module would be dense without a word."""
    module = tiny(r=4)
    with pytest.raises(FileNotFoundError):
        trainer(tmp_path, ToMeCallback()).fit(module, datamodule=Noise(broken=True))
    assert module.model.r == 4


def test_a_checkpoint_saved_on_the_ramp_evaluates_at_the_full_r(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, "mid", monitor=None, every_n_train_steps=1, save_top_k=1)
    tome = ToMeCallback(RSchedule(kind="ramp", full=1.0))
    trainer(tmp_path, tome, keep, max_steps=1).fit(tiny(r=4), datamodule=Noise())
    assert FineTune.load_from_checkpoint(tmp_path / "mid.ckpt").model.r == 4


@pytest.mark.parametrize(
    "schedule",
    [
        RSchedule(kind="ramp", full=1.0, plateaus=8),
        RSchedule(kind="random", choices=(0, 1, 2, 3, 4, 5), seed=0),
    ],
    ids=lambda schedule: schedule.kind,
)
def test_schedules_repeat_themselves_and_go_on_after_resuming(
    tmp_path: Path, schedule: RSchedule
) -> None:
    runs = [Probe(), Probe(), Probe()]
    keep = ModelCheckpoint(tmp_path, "{epoch}", monitor=None, save_top_k=-1)
    trainer(tmp_path, ToMeCallback(schedule), runs[0], keep).fit(tiny(r=8), datamodule=Noise())
    torch.manual_seed(1)  # r must not depend on torch's random numbers
    trainer(tmp_path, ToMeCallback(schedule), runs[1]).fit(tiny(r=8), datamodule=Noise())
    trainer(tmp_path, ToMeCallback(schedule), runs[2]).fit(
        tiny(r=8), datamodule=Noise(), ckpt_path=tmp_path / "epoch=0.ckpt"
    )
    assert runs[0].train == [schedule.at(step / 8, 8, 3, step) for step in range(8)]
    assert len(set(runs[0].train)) > 3
    assert runs[1].train == runs[0].train
    assert runs[2].train == runs[0].train[4:]


@pytest.mark.parametrize("wrong", [-1, 2.5, [1, 2, 3, 4], {"keep": 0}, {"ratio": 0.5}])
@pytest.mark.parametrize("name", ["train_r", "eval_r"])
def test_an_impossible_r_is_refused_before_training(tmp_path: Path, name: str, wrong: Any) -> None:
    probe, module = Probe(), tiny()
    with pytest.raises(PlanError):
        trainer(tmp_path, ToMeCallback(**{name: wrong}), probe).fit(module, datamodule=Noise())
    assert probe.train == probe.evaluated == []
    assert module.model.r == 4


def test_it_drives_no_other_module(tmp_path: Path) -> None:
    class Other(LightningModule):
        def training_step(self, *_: Any) -> None: ...
        def configure_optimizers(self) -> None: ...

    with pytest.raises(TypeError, match="FineTune module, got Other"):
        trainer(tmp_path, ToMeCallback()).fit(Other(), datamodule=Noise())


# What is measured


def test_logged_values_are_those_of_the_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, ToMeCallback(train_r=[4, 2]), max_epochs=1)
    run.fit(tiny(), datamodule=Noise())
    logged = {
        n.removeprefix("tome/"): float(v) for n, v in run.callback_metrics.items() if "tome/" in n
    }
    assert set(logged) == LOGGED
    assert logged["r"] == pytest.approx(2)  # mean of 4, 2, 0
    assert logged["tokens_out"] == 17 - 6
    assert logged["step_ms"] > 0
    assert logged["data_ms"] > 0
    assert logged["peak_mem_mib"] > 50  # torch alone is more
    # a median of quotients is not the quotient of medians, but the two lie close
    expected = 4000 / (logged["step_ms"] + logged["data_ms"])
    assert expected / 3 < logged["samples_per_s"] < expected * 3


def test_logging_can_be_switched_off(tmp_path: Path) -> None:
    """Lightning's 0: never."""
    run = trainer(tmp_path, ToMeCallback(), log_every_n_steps=0, max_epochs=1)
    run.fit(tiny(), datamodule=Noise())
    assert not [name for name in run.callback_metrics if name.startswith("tome/")]


def table(report: str) -> list[list[float]]:
    lines = report.splitlines()
    assert lines[0].split()[:2] == ["r", "(mean)"]
    rows = [line.split() for line in lines[1:] if re.match(r"\s+\d+\.\d\d\s", line)]
    return [[math.nan if cell == "-" else float(cell) for cell in row] for row in rows]


def test_the_report_has_one_row_for_each_r(tmp_path: Path) -> None:
    """8 steps: 2 of each r from 1 to 4, each with its own token count and steps."""
    tome = ToMeCallback(RSchedule(kind="ramp", full=1.0, plateaus=4))
    module = tiny(r=4)
    trainer(tmp_path, tome).fit(module, datamodule=Noise())
    rows = table(tome.report(module, torch.device("cpu")))
    # r=4 is clamped in the last block: 17 13 9 5; none of these needs it
    assert [row[:3] for row in rows] == [[r, 17 - 3 * r, 2] for r in (1, 2, 3, 4)]
    assert all(row[3] > 0 for row in rows)
    assert "limited by" in tome.report(module, torch.device("cpu"))


def test_the_summary_is_of_the_most_used_r(tmp_path: Path) -> None:
    tome = ToMeCallback(RSchedule(start=0.75))  # 6 dense steps, 2 merged ones
    module = tiny(r=4)
    trainer(tmp_path, tome).fit(module, datamodule=Noise())
    summary = tome.summary(module, torch.device("cpu"))
    assert (summary["r"], summary["plan"]) == (4, [4, 4, 4])
    assert summary["step_ms"] == tome.meter.median((0, 0, 0), "step_ms")
    assert summary["data_ms"] == tome.meter.median((0, 0, 0), "data_ms")
    assert summary["dense_against_merged"] is None


def test_validation_is_not_counted_as_waiting_for_data(tmp_path: Path) -> None:
    tome = ToMeCallback()
    trainer(tmp_path, tome, val_check_interval=2).fit(tiny(), datamodule=Noise())
    (row,) = tome.meter.read().values()
    assert row.steps == 8
    assert len(row.data_ms) == 4  # 4 times 2 steps: the first of each pair has no step before it


def test_compare_dense_times_both_and_changes_no_weight(tmp_path: Path) -> None:
    finals = []
    for rounds in (0, 3):
        torch.manual_seed(0)
        tome, module = ToMeCallback(compare_dense=rounds), tiny(r=4)
        trainer(tmp_path, tome, max_epochs=1).fit(module, datamodule=Noise())
        finals.append(module.vit.state_dict())
    figures = tome.dense_against_merged
    assert figures is not None
    assert (figures["rounds"], figures["batch"]) == (3, 4)
    assert min(figures["dense_ms"], figures["merged_ms"]) > 0
    assert figures["speedup"] == pytest.approx(figures["dense_ms"] / figures["merged_ms"])
    assert f"{figures['speedup']:.2f}x" in tome.report(module, torch.device("cpu"))
    assert tome.summary(module, torch.device("cpu"))["dense_against_merged"] == figures
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
    assert all(p.grad is None for p in module.parameters())


def test_compare_dense_alternates_dense_and_merged_steps(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Late(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            pl_module.model.register_forward_pre_hook(lambda model, _: seen.append(model.r))

    tome = ToMeCallback(compare_dense=2)
    run = trainer(tmp_path, tome, Late(), max_epochs=1, limit_val_batches=0)
    run.fit(tiny(r=4), datamodule=Noise())
    assert seen == [0, 4] * 3  # one round to warm up


CPU_FULL = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes"
GPU_FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (torch.OutOfMemoryError(GPU_FULL), "(GPU 0 was asked for 2.00 GiB)"),
        (RuntimeError(CPU_FULL), "(this machine was asked for 2.0 GiB)"),
    ],
    ids=["cuda", "cpu"],
)
def test_a_dense_step_that_does_not_fit_is_said_and_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: RuntimeError, lack: str
) -> None:
    class Late(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            def fail(model: Any, _: Any) -> None:
                if model.r == 0:
                    raise error

            pl_module.model.register_forward_pre_hook(fail)

    tome, module = ToMeCallback(compare_dense=2), tiny(r=4)
    run = trainer(tmp_path, tome, Late(), max_epochs=1, limit_val_batches=0)
    with caplog.at_level("INFO"):
        run.fit(module, datamodule=Noise())
    assert f"dense does not fit in memory with 4 samples {lack}" in caplog.text
    assert tome.dense_against_merged is None
    assert module.model.r == 4
    assert all(p.grad is None for p in module.parameters())


def test_another_failure_of_the_comparison_is_not_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> float:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr("tome_lightning.callbacks._timed_step", fail)
    run = trainer(tmp_path, ToMeCallback(compare_dense=1), max_epochs=1, limit_val_batches=0)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run.fit(tiny(r=4), datamodule=Noise())


def test_there_is_nothing_to_compare_at_r_0(tmp_path: Path) -> None:
    tome = ToMeCallback(compare_dense=2)
    trainer(tmp_path, tome, max_epochs=1).fit(tiny(r=0), datamodule=Noise())
    assert tome.dense_against_merged is None


# What is said


def test_describe_gives_the_token_table_and_leaves_r_alone() -> None:
    module = tiny(r=[4, 2])
    text = ToMeCallback(train_r=3, eval_r={"r": 2}).describe(module, "fit")
    assert "tokens 17 14 11 8" in text
    assert "r=3" in text
    assert "merge less" not in text
    text = ToMeCallback(train_r=3, eval_r=[1]).describe(module, "validate")
    assert "tokens 17 16 16 16" in text
    assert list(module.model.r) == [4, 2]


def test_describe_says_which_blocks_are_clamped() -> None:
    text = ToMeCallback().describe(tiny(r=6), "fit")
    assert "tokens 17 11 6 4" in text  # 10 patches can lose 5, then 5 can lose 2
    assert "blocks 1, 2 merge less than asked" in text


def test_a_share_to_keep_is_not_called_clamped() -> None:
    assert "merge less" not in ToMeCallback().describe(tiny(r={"keep": 0.5}), "fit")


def test_describe_says_when_nothing_merges() -> None:
    assert "dense model" in ToMeCallback().describe(tiny(r=0), "fit")
    assert "dense model" in ToMeCallback(eval_r=0).describe(tiny(r=4), "test")
    training, evaluation = (
        ToMeCallback(eval_r=0).describe(tiny(r=4), "fit").split("Token Merging for evaluation")
    )
    assert "dense model" not in training
    assert "dense model" in evaluation


def test_the_table_is_printed_when_a_stage_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run = trainer(tmp_path, ToMeCallback(eval_r=1))
        run.validate(tiny(), datamodule=Noise(), verbose=False)
    assert "Token Merging for validate: r=1" in caplog.text
    assert "tokens 17 16 15 14" in caplog.text
