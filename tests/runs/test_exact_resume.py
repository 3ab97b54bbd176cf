"""A run cut off anywhere and gone on with is the uninterrupted one, bit for bit."""

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
)

from datamodules.base import LabelledData
from datamodules.filelist import FileList
from datamodules.samples import Samples
from tome_lightning import FineTune, Image, RSchedule, SingleLabel, ToMeCallback
from tome_lightning.run.record import RunRecord
from tome_lightning.trainer.batches import BatchError
from tome_lightning.trainer.checkpoint_file import AtomicCheckpointIO
from tome_lightning.trainer.saving import SaveLast

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*exists and", "ignore:.*in eval mode"
)
EPOCHS, BATCHES, BATCH = 3, 5, 4


class Noise(LabelledData):
    """Pictures of noise that each epoch draws anew."""

    class_names = ["a", "b", "c"]  # noqa: RUF012
    sample_shape = (3, 16, 16)

    def __init__(self, batch_size: int = BATCH, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers=num_workers, persistent_workers=num_workers > 0)

    def check(self, stage: str | None = None) -> None:
        pass

    fail_at: int | None = None  # sample drawn so often, whose reading breaks the run
    drawn = 0

    def build(self, split: str) -> Samples:
        count = BATCHES * BATCH + 1 if split == "train" else 5
        return Samples(
            split,
            "",
            FileList([f"{i}.png" for i in range(count)], [i % 3 for i in range(count)]),
            read=lambda path: float(len(path)),
            transform=self.draw_train if split == "train" else self.draw_view,
            workers=self.workers,
            seed=self.seed,
        )

    def draw_train(self, content: float) -> torch.Tensor:
        self.drawn += 1
        if self.drawn == self.fail_at:
            raise OSError("the disk is gone")
        return self.draw(content)

    @staticmethod
    def draw(content: float) -> torch.Tensor:
        return torch.rand(3, 16, 16) + float(np.random.rand())

    def draw_view(self, content: float) -> torch.Tensor:
        return self.draw(content)[None]


class Killed(BaseException):
    """Nothing catches it, as SIGKILL, but the files stay as they are."""


class Recorder(Callback):
    """What each batch saw; ends the process, so to speak, where it is told to."""

    def __init__(self, cut: tuple[str, int] | None = None) -> None:
        self.cut = cut
        self.rows: dict[tuple[int, int], Any] = {}
        self.metrics: dict[int, Any] = {}
        self.seen = 0

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.rows[trainer.current_epoch, batch_idx] = (
            float(outputs["loss"]).hex(),
            batch[2].tolist(),
            float(batch[0].sum()).hex(),
            module.model.r,
            [group["lr"] for group in trainer.optimizers[0].param_groups],
            trainer.global_step,
            trainer.fit_loop.epoch_loop._batches_that_stepped,
        )
        self.seen += 1
        self._maybe("batches")

    def on_validation_batch_start(
        self, trainer: Any, module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.cut == ("validation", trainer.current_epoch):
            raise Killed

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        place = trainer.current_epoch, trainer.fit_loop.batch_idx
        logged = trainer.callback_metrics.items()
        self.metrics[place] = {n: float(v).hex() for n, v in logged if n.startswith("val/")}
        self._maybe("validated")

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self._maybe("epochs", trainer.current_epoch)

    def _maybe(self, what: str, count: int | None = None) -> None:
        if what == "validated":
            count = len(self.metrics)
        if self.cut == (what, self.seen if count is None else count):
            raise Killed


class Session:
    """One process's life."""

    def __init__(
        self,
        folder: Path,
        cut: tuple[str, int] | None = None,
        ckpt: str | None = None,
        save: dict[str, Any] | None = None,
        ema: bool = False,
        workers: int = 0,
        batch_size: int = BATCH,
        freeze: Any = "none",
        extra: tuple[Callback, ...] | list[Callback] = (),
        fail_at: int | None = None,
        base_lr: float = 0.05,
        weight_decay: float = 0.05,
        stop_at_max_steps: bool = False,
        **trainer: Any,
    ) -> None:
        seed_everything(7, verbose=False)
        module = FineTune(
            Image(size=16, patch=4),
            SingleLabel(3, mixup=0.8, cutmix=1.0, smoothing=0.1),
            vit={
                "embed_dim": 16,
                "depth": 2,
                "num_heads": 2,
                "drop_path_rate": 0.3,
                "drop_rate": 0.2,
            },
            base_lr=base_lr,
            weight_decay=weight_decay,
            warmup_epochs=1,
            head_init_std=0.1,
            freeze=freeze,
        )
        module.restoring = ckpt is not None
        self.recorder = Recorder(cut)
        schedule = RSchedule(kind="ramp", start=0.1, full=0.6, plateaus=3)
        callbacks: list[Callback] = [
            ToMeCallback(schedule, train_r=3, eval_r=2),
            self.recorder,
            SaveLast(**(save or {"every_n_steps": 1})),
        ]
        callbacks[-1].folder = folder
        callbacks[:0] = extra
        if stop_at_max_steps:  # as the command line has it: validates a run that ends in mid-epoch
            callbacks.append(RunRecord(folder / "run", "", None, callbacks[len(extra)]))
        if ema:
            callbacks.insert(0, EMAWeightAveraging(decay=0.8))
        callbacks.append(
            ModelCheckpoint(
                folder,
                "best",
                "val/loss",
                enable_version_counter=False,
                save_on_train_epoch_end=False,
            )
        )
        settings: dict[str, Any] = {"max_epochs": EPOCHS, "log_every_n_steps": 1} | trainer
        self.trainer = Trainer(
            accelerator="cpu", devices=1, logger=False, callbacks=callbacks,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            plugins=[AtomicCheckpointIO()], default_root_dir=folder, **settings,
        )  # fmt: skip
        self.module, self.killed, self.last = module, False, folder / "last.ckpt"
        data = Noise(batch_size, workers)
        data.fail_at = fail_at
        try:
            self.trainer.fit(module, datamodule=data, ckpt_path=ckpt)
        except Killed:
            self.killed = True


def same(a: Any, b: Any, name: str = "") -> None:
    """Equal to the last bit, tensors and all."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), name
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            same(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), name
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{name}.{i}")
    else:
        assert a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)), name


def compare(whole: Session, *parts: Session) -> None:
    rows: dict[Any, Any] = {}
    metrics: dict[Any, Any] = {}
    for part in parts:
        for place, row in part.recorder.rows.items():
            assert rows.setdefault(place, row) == row, f"batch {place} differs when taken again"
        for place, row in part.recorder.metrics.items():
            assert metrics.setdefault(place, row) == row, f"validation {place} differs"
    assert rows == whole.recorder.rows
    assert metrics == whole.recorder.metrics
    saved = [torch.load(s.last, weights_only=True) for s in (whole, parts[-1])]
    names = ["state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"]
    names += [name for name in ("current_model_state", "averaging_state") if name in saved[0]]
    for name in names:
        same(saved[0][name], saved[1][name], name)
    assert saved[0]["tome_lightning"]["progress"] == saved[1]["tome_lightning"]["progress"]
    best = [next(v for k, v in s["callbacks"].items() if "ModelCheckpoint" in k) for s in saved]
    same(best[0]["best_model_score"], best[1]["best_model_score"])


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation, EMA": {"accumulate_grad_batches": 2, "ema": True},
    "two validations an epoch": {"val_check_interval": 2},
    "validations within a group": {"val_check_interval": 3, "accumulate_grad_batches": 2},
    "validation every other epoch": {"check_val_every_n_epoch": 2, "accumulate_grad_batches": 3},
    "no validation": {"limit_val_batches": 0},
    "workers": {"workers": 2},
    "max_steps": {"max_steps": 9, "max_epochs": -1},
    "frozen": {"freeze": "backbone"},
    "scheduled accumulation": {"extra": [GradientAccumulationScheduler({0: 1, 1: 2, 2: 3})]},
}
# after a batch (5 is the last one of an epoch), in a validation, after one, as an epoch starts
CUTS = [("batches", 4), ("batches", 5), ("batches", 8), ("validation", 1), ("validated", 1)]
CUTS += [("epochs", 1)]
ON_DEMAND = (
    "no validation", "validations within a group", "workers", "frozen", "scheduled accumulation",
)  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in ON_DEMAND else [], id=name)
        for name in SETTINGS
    ],
)
def whole(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Session]:
    settings = SETTINGS[request.param]
    return settings, Session(tmp_path_factory.mktemp("whole"), **settings)


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut[0]} {cut[1]}")
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(
    whole: tuple[dict[str, Any], Session], cut: tuple[str, int], tmp_path: Path
) -> None:
    settings, reference = whole
    first = Session(tmp_path, cut=cut, **settings)
    if not first.killed:
        pytest.skip("this run has no such place")
    second = Session(tmp_path, ckpt=str(first.last), **settings)
    compare(reference, first, second)


def test_a_run_may_be_cut_off_again_and_again(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"accumulate_grad_batches": 2, "ema": True}
    reference = Session(tmp_path / "whole", **settings)
    sessions = [Session(tmp_path / "cut", cut=("batches", 3), **settings)]
    for cut in (
        ("batches", 2),
        ("validation", 0),
        ("batches", 3),
        ("validation", 1),
        ("epochs", 2),
    ):
        last = str(sessions[-1].last)
        sessions.append(Session(tmp_path / "cut", cut=cut, ckpt=last, **settings))
        assert sessions[-1].killed
    sessions.append(Session(tmp_path / "cut", ckpt=str(sessions[-1].last), **settings))
    compare(reference, *sessions)


def test_the_best_checkpoint_can_be_gone_on_from_as_well(tmp_path: Path) -> None:
    reference = Session(tmp_path / "whole")
    first = Session(tmp_path / "cut", cut=("epochs", 1))
    second = Session(tmp_path / "cut", ckpt=str(tmp_path / "cut" / "best.ckpt"))
    compare(reference, first, second)


def test_a_run_that_is_over_trains_no_more(tmp_path: Path) -> None:
    first = Session(tmp_path)
    again = Session(tmp_path, ckpt=str(first.last))
    assert not again.recorder.rows
    same(first.module.state_dict(), again.module.state_dict())
    longer = Session(tmp_path, ckpt=str(first.last), max_epochs=EPOCHS + 1)
    assert sorted(longer.recorder.rows) == [(EPOCHS, batch) for batch in range(BATCHES)]


def test_a_batch_of_another_size_is_refused(tmp_path: Path) -> None:
    first = Session(tmp_path, cut=("batches", 3))
    with pytest.raises(BatchError, match="effective batch of 4, this run has 2"):
        Session(tmp_path, ckpt=str(first.last), batch_size=2)


def test_smaller_batches_and_more_accumulation_go_on_with_the_next_sample(tmp_path: Path) -> None:
    whole = Session(tmp_path / "whole")
    first = Session(tmp_path / "cut", cut=("batches", 7))
    with pytest.warns(UserWarning, match="goes on with 1 processes, 2 samples"):
        second = Session(
            tmp_path / "cut", ckpt=str(first.last), batch_size=2, accumulate_grad_batches=2
        )
    ids = [i for place, row in sorted(whole.recorder.rows.items()) for i in row[1]]
    later = [row for place, row in sorted(second.recorder.rows.items())]
    # cut off in the seventh batch, before it was saved
    assert [i for row in later for i in row[1]] == ids[6 * BATCH :]
    assert later[-1][5] == EPOCHS * BATCHES


def test_a_validation_that_is_due_no_more_changes_nothing_of_training(tmp_path: Path) -> None:
    """By the clock, by other options, or where `max_steps` has ended an epoch that now goes on."""
    whole = Session(tmp_path / "whole").recorder.rows
    often = {"val_check_interval": timedelta(milliseconds=20)}
    seldom = {"val_check_interval": timedelta(hours=1)}
    for number, (before, after) in enumerate(
        [
            (often, seldom),
            ({}, {"limit_val_batches": 0}),
            ({"val_check_interval": 2}, {}),
        ]
    ):
        first = Session(tmp_path / f"{number}", cut=("validation", 0), **before)
        assert first.killed
        second = Session(tmp_path / f"{number}", ckpt=str(first.last), **after)
        assert first.recorder.rows | second.recorder.rows == whole
        assert not first.recorder.rows.keys() & second.recorder.rows.keys()


def test_max_steps_that_are_reached_are_so_whatever_became_of_the_validation(
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {"max_epochs": 2, "stop_at_max_steps": True}
    whole = Session(tmp_path / "whole", **settings, max_steps=8)
    assert (1, 2) in whole.recorder.metrics  # in mid-epoch
    first = Session(tmp_path / "cut", cut=("validation", 1), **settings, max_steps=8)
    assert first.killed
    again = Session(tmp_path / "cut", ckpt=str(first.last), **settings, max_steps=8)
    assert not again.recorder.rows
    same(whole.module.state_dict(), again.module.state_dict())
    longer = Session(tmp_path / "longer", ckpt=str(first.last), **settings)
    assert {place: row[-1] for place, row in longer.recorder.rows.items()} == {(1, 3): 8, (1, 4): 9}


def test_a_run_that_was_stopped_early_stays_stopped(tmp_path: Path) -> None:
    class Early(Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    first = Session(tmp_path, extra=[Early()])
    assert max(first.recorder.rows) == (1, BATCHES - 1)
    assert not Session(tmp_path, ckpt=str(first.last)).recorder.rows
    longer = Session(tmp_path, ckpt=str(first.last), max_epochs=EPOCHS + 1)
    assert min(longer.recorder.rows) == (2, 0)


def test_a_moved_run_keeps_its_best_score(tmp_path: Path) -> None:
    first = Session(tmp_path / "old" / "checkpoints", cut=("epochs", 2))
    (tmp_path / "old").rename(tmp_path / "new")
    last = tmp_path / "new" / "checkpoints" / "last.ckpt"
    second = Session(last.parent, ckpt=str(last), max_epochs=2)
    kept = second.trainer.checkpoint_callback
    assert kept.best_model_path == str(last.with_name("best.ckpt"))
    assert kept.best_model_score == first.trainer.checkpoint_callback.best_model_score


def test_the_rates_of_the_command_line_beat_those_of_the_checkpoint(tmp_path: Path) -> None:
    first = Session(tmp_path, cut=("batches", 7))
    second = Session(tmp_path, ckpt=str(first.last), base_lr=0.025, weight_decay=0.5)
    (place, halved), (_, before) = min(second.recorder.rows.items()), first.recorder.rows.popitem()
    assert place == (1, 1)
    whole = Session(tmp_path / "whole").recorder.rows[place]
    # the rest of the cosine, from half the peak to the same end
    floor = 1e-6
    for now, then in zip(halved[4], whole[4], strict=True):
        assert 0.45 < now / then < 0.55 or then < 10 * floor
    groups = second.trainer.optimizers[0].param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.5}
    assert before[4] != halved[4]


def ended(run: Session) -> dict[str, Any]:
    """The summary of a run that promised its steps, whose schedules ended where it did."""
    groups = run.trainer.optimizers[0].param_groups
    floor = [1e-6 * group["lr_scale"] for group in groups]
    assert [group["lr"] for group in groups] == pytest.approx(floor, rel=1e-9)
    assert run.module.progress() == pytest.approx(1)
    summary: dict[str, Any] = json.loads((run.last.parent / "run" / "summary.json").read_text())
    assert summary["steps_planned"] == run.trainer.global_step
    return summary


def test_scheduled_accumulation_goes_on_within_an_epoch(tmp_path: Path) -> None:
    scheduler = GradientAccumulationScheduler({0: 1, 1: 2})
    settings: dict[str, Any] = {"extra": [scheduler], "stop_at_max_steps": True}
    whole = Session(tmp_path / "whole", **settings)
    assert ended(whole)["effective_batch"] == BATCH
    assert whole.trainer.global_step == 5 + 3 + 3
    rates = [row[4][0] for _, row in sorted(whole.recorder.rows.items())]
    assert rates[BATCHES - 1] == max(rates)  # after the warm-up of one epoch
    first = Session(tmp_path / "cut", cut=("batches", 8), **settings)
    second = Session(tmp_path / "cut", ckpt=str(first.last), **settings)
    compare(whole, first, second)
    ended(second)


@pytest.mark.filterwarnings("ignore:.*goes on with")
def test_epochs_of_another_length_go_on_at_the_rate_that_was(tmp_path: Path) -> None:
    first = Session(tmp_path, cut=("batches", 5), limit_train_batches=3)
    saved = torch.load(first.last, weights_only=True)["tome_lightning"]["progress"]
    second = Session(tmp_path, ckpt=str(first.last), stop_at_max_steps=True)
    first.recorder.rows.popitem()  # cut off in the fifth batch, before it was saved
    lr = [row[4][0] for run in (first, second) for _, row in sorted(run.recorder.rows.items())]
    assert lr[2] == max(lr)  # after the warm-up of one epoch
    assert lr[2:] == sorted(lr[2:], reverse=True)
    assert (saved["scheduled"], saved["first_batches"], saved["first_accumulate"]) == (4, 3, 1)
    ended(second)
    assert second.trainer.global_step == 4 + 4 + 5


def test_a_checkpoint_of_before_the_schedules_had_a_count_goes_on(tmp_path: Path) -> None:
    whole = Session(tmp_path / "whole", accumulate_grad_batches=2)
    first = Session(tmp_path / "cut", cut=("batches", 8), accumulate_grad_batches=2)
    saved = torch.load(first.last, weights_only=True)
    for name in ("scheduled", "first_batches", "first_accumulate"):
        del saved["tome_lightning"]["progress"][name]
    torch.save(saved, first.last)
    second = Session(tmp_path / "cut", ckpt=str(first.last), accumulate_grad_batches=2)
    compare(whole, first, second)
