"""When last.ckpt is written, and how a run that is asked to stop does."""

import os
import signal
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules.errors import WorkerError
from tome_lightning.__main__ import exit_code
from tome_lightning.trainer import saving
from tome_lightning.trainer.agreement import Agreement
from tome_lightning.trainer.saving import STOPPED, SaveLast, SavingError
from tome_lightning.trainer.signals import RunStopped

from ..runs.test_exact_resume import BATCHES, EPOCHS, Session, compare

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*exists and", "ignore:.*in eval mode"
)


class Writes(Callback):
    """The step and place of every checkpoint."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
        self.steps.append(trainer.global_step)


class KillWorker(Callback):
    """Kills a loader process, as the system does where memory runs out, in the midst of a step."""

    def __init__(self, step: int, split: str) -> None:
        self.step, self.split = step, split

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        if trainer.global_step == self.step:
            of = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
            worker = of[self.split]._iterator._workers[0]
            worker.kill()
            worker.join()


class Signal(Callback):
    """Sends this process a signal after a batch, or in a validation."""

    def __init__(self, signum: int, batch: int | None = None) -> None:
        self.signum, self.batch, self.seen = signum, batch, 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen += 1
        if self.seen == self.batch:
            os.kill(os.getpid(), self.signum)

    def on_validation_start(self, *args: Any) -> None:
        if self.batch is None:
            os.kill(os.getpid(), self.signum)


def writes(folder: Path, save: dict[str, Any], **settings: Any) -> list[int]:
    watch = Writes()
    Session(folder, save=save, extra=[watch], **settings)
    return watch.steps


def test_it_is_written_before_each_validation_and_at_the_end(tmp_path):
    end = EPOCHS * BATCHES
    steps = writes(tmp_path, {"every_n_minutes": None}, limit_val_batches=0)
    assert steps == [5, 10, 15]  # without validation: at the end of each epoch
    steps = writes(tmp_path / "b", {"every_n_minutes": None}, val_check_interval=2)
    assert sorted(set(steps)) == [2, 4, 5, 7, 9, 10, 12, 14, end]


def test_it_is_written_every_so_many_steps_or_minutes(tmp_path):
    every = {"every_n_steps": 2, "every_n_minutes": None}
    assert writes(tmp_path, every, max_epochs=1, limit_val_batches=0) == [2, 4, 5]
    always = {"every_n_minutes": 1e-9}
    assert writes(tmp_path, always, max_epochs=1, limit_val_batches=0) == [1, 2, 3, 4, 5]


def test_no_batch_asks_and_waits_whether_a_signal_has_come(tmp_path):
    """Lightning's question to the first process, which with several would cost a wait at each batch."""
    assert hasattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor")  # else look where it went
    session = Session(tmp_path, max_epochs=1, limit_val_batches=0)
    assert session.trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None
    assert "_broadcast_sigterm_tensor" in vars(session.trainer.fit_loop.epoch_loop)


def test_steps_are_optimizer_steps(tmp_path):
    every = {"every_n_steps": 1, "every_n_minutes": None}
    steps = writes(tmp_path, every, max_epochs=1, limit_val_batches=0, accumulate_grad_batches=2)
    assert steps == [1, 2, 3]


def test_a_dry_run_writes_nothing(tmp_path):
    session = Session(tmp_path, fast_dev_run=2)
    assert not session.last.exists()


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"every_n_minutes": -1.0}])
def test_never_is_null_and_not_zero(options):
    with pytest.raises(SavingError, match="above 0, or null for never"):
        SaveLast(**options)


GROUPS: dict[str, Any] = {"accumulate_grad_batches": 2, "save": {"every_n_minutes": None}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Session:
    """The run that nothing stops."""
    return Session(tmp_path_factory.mktemp("whole"), **GROUPS)


@pytest.mark.parametrize(
    ("signum", "batch"),  # the three signals differ in their numbers alone
    [
        (signal.SIGTERM, 3),
        (signal.SIGTERM, 4),
        (signal.SIGTERM, None),
        (signal.SIGUSR1, 3),
        (signal.SIGINT, 3),
    ],
)
def test_a_run_that_was_asked_to_stop_goes_on_bit_for_bit(tmp_path, whole, signum, batch):
    first = Session.__new__(Session)
    with pytest.raises(RunStopped) as stopped:
        first.__init__(tmp_path / "cut", extra=[Signal(signum, batch)], **GROUPS)
    assert stopped.value.exit_code == 128 + signum
    saved = torch.load(first.last, weights_only=True)
    # at once, though the third batch has begun the second group: it is taken again
    assert saved["global_step"] == {3: 1, 4: 2, None: 3}[batch]
    seen = first.trainer.fit_loop.epoch_loop.batch_progress.current
    assert seen.completed == (batch or BATCHES)
    asked = tmp_path / STOPPED
    assert asked.exists() == (signum != signal.SIGINT)  # a Ctrl-C is no scheduler's
    assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)
    compare(whole, first, Session(tmp_path / "cut", ckpt=str(first.last), **GROUPS))
    assert not asked.exists()  # it goes on


def test_a_stop_before_a_validation_within_a_group_goes_on_bit_for_bit(tmp_path):
    settings: dict[str, Any] = {
        "accumulate_grad_batches": 2, "val_check_interval": 3, "save": {"every_n_minutes": None},
    }  # fmt: skip
    whole = Session(tmp_path / "whole", **settings)
    first = Session.__new__(Session)
    with pytest.raises(RunStopped):
        first.__init__(tmp_path / "cut", extra=[Signal(signal.SIGTERM)], **settings)
    assert torch.load(first.last, weights_only=True)["global_step"] == 1
    compare(whole, first, Session(tmp_path / "cut", ckpt=str(first.last), **settings))


class Late(Agreement):
    """Answers as on CUDA: each with what the call before has exchanged."""

    before: list[float] | None = None

    def exchange(self, numbers: torch.Tensor, wait: bool = False) -> list[float]:
        now = super().exchange(numbers)
        before, self.before = self.before, now
        return before or [0.0] * len(now)

    def finish(self) -> list[float]:
        before, self.before = self.before, None
        return before or []


def test_a_late_answer_writes_no_file_twice_and_ends_no_other_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "Agreement", Late)
    now = iter(range(0, 10**6, 30))  # half a minute at each look
    monkeypatch.setattr(saving.time, "monotonic", lambda: float(next(now)))
    steps = writes(tmp_path, {"every_n_minutes": 1.0}, max_epochs=2, limit_val_batches=0)
    assert all(b - a > 1 for a, b in pairwise(sorted(set(steps) - {5, 10})))
    assert len(steps) == len(set(steps))

    session = Session(tmp_path / "b", max_epochs=1, limit_val_batches=0, extra=[LeftOver()])
    assert session.trainer.global_step == BATCHES


class LeftOver(Callback):
    """A stop of another fit, of which nobody has read the answer."""

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        (save,) = (one for one in trainer.callbacks if isinstance(one, SaveLast))
        save._agreement.before = [float(signal.SIGTERM), 0.0]


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_other_verbs_stop_at_their_next_batch(tmp_path, verb):
    save, hook = SaveLast(), {"validate": "validation"}.get(verb, verb)
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn=verb), strategy=None, callbacks=[], is_global_zero=True,
        fit_loop=SimpleNamespace(epoch_loop=0),
        _signal_connector=(connector := SimpleNamespace(register_signal_handlers=None)),
    )  # fmt: skip
    trainer: Any = trainer
    save.setup(trainer, None, verb)
    assert connector.register_signal_handlers() is None  # Lightning's handler would wait for others
    getattr(save, f"on_{hook}_start")(trainer, None)
    try:
        getattr(save, f"on_{hook}_batch_start")(trainer, None, None, 0)
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(RunStopped) as stopped:
            getattr(save, f"on_{hook}_batch_start")(trainer, None, None, 1)
    finally:
        save.teardown(trainer, None, verb)
    assert stopped.value.exit_code == 138


def test_data_that_fails_between_two_steps_costs_none_of_them(tmp_path):
    settings: dict[str, Any] = {"save": {"every_n_minutes": None}}
    whole = Session(tmp_path / "whole", **settings)
    first = Session.__new__(Session)
    with pytest.raises(OSError, match="the disk is gone"):
        first.__init__(tmp_path / "cut", fail_at=14, **settings)
    assert torch.load(first.last, weights_only=True)["global_step"] == 3
    compare(whole, first, Session(tmp_path / "cut", ckpt=str(first.last), **settings))


@pytest.fixture
def soon(monkeypatch):
    """A loader looks after its workers five times a second, not every 5 seconds."""
    found = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(found, "__defaults__", (0.2,))


@pytest.mark.parametrize("split", ["train", pytest.param("val", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_loader_process_costs_no_step(split, tmp_path, soon, capsys):
    settings: dict[str, Any] = {"save": {"every_n_minutes": None}, "workers": 2}
    whole = Session(tmp_path / "whole", **settings)
    first = Session.__new__(Session)
    with pytest.raises(WorkerError, match="was ended by SIGKILL") as told:
        first.__init__(tmp_path / "cut", extra=[KillWorker(6, split)], **settings)
    assert exit_code(lambda: raising(told.value)) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: a loader process was ended by SIGKILL")
    assert "--data.num_workers 1 instead of 2" in err
    assert "--shm-size" in err
    assert err.count("\n") == 1
    assert (
        torch.load(first.last, weights_only=True)["global_step"] >= 7
    )  # that step is taken as well
    compare(whole, first, Session(tmp_path / "cut", ckpt=str(first.last), **settings))


def raising(error: Exception) -> None:
    raise error
