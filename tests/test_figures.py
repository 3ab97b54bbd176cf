"""A step waits for no device: counted by what reads a tensor, between two refreshes of the screen."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tome_lightning import ToMeCallback
from tome_lightning.agreement import Agreement
from tome_lightning.bar import REFRESH, RunBar
from tome_lightning.figures import at_each_batch, to_log
from tome_lightning.peers import Peers
from tome_lightning.saving import SaveLast

from .test_ema import Noise, best, tiny, trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*exists and"
)
# Operators whose result has a size, or is a number, that the host has to know.
WAIT = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "equal",
        "_unique2",
        "unique_dim",
    )
}


class Waits(TorchDispatchMode):
    """Counts what would wait for a CUDA device; on a CPU the same operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op._schema.name
        masked = name in ("aten::index", "aten::index_put_", "aten::index_put") and any(
            place is not None and place.dtype in (torch.bool, torch.uint8) for place in args[1]
        )
        if name in WAIT or masked:
            self.seen[name] += 1
        return op(*args, **(kwargs or {}))


class Count(Callback):
    """Counts batch by batch; comes after all others, and closes a batch where the next begins."""

    def __init__(self) -> None:
        self.mode = Waits()
        self.train: list[int] = []
        self.evaluated: list[int] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.train.append(sum(self.mode.seen.values()))

    def on_validation_batch_start(self, *_: Any) -> None:
        self.evaluated.append(sum(self.mode.seen.values()))


class Long(Noise):
    def train_dataloader(self) -> Any:
        return self.loader(4 * (2 * REFRESH + 2), 3, 16, 16)

    def val_dataloader(self) -> Any:
        return self.loader(16, 1, 3, 16, 16)


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits on a CPU alone does not count."""

    def one_hot(labels: Tensor, classes: int) -> Tensor:  # torch's looks at labels but on CUDA
        empty = torch.zeros(*labels.shape, classes, dtype=torch.long)
        return empty.scatter_(-1, labels.unsqueeze(-1), 1)

    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    # a step late on CUDA: see test_guard
    monkeypatch.setattr(
        Agreement, "exchange", lambda self, numbers, wait=False: [0.0] * len(numbers)
    )


def run(folder: Path, bar: Callback) -> Count:
    count, last = Count(), SaveLast(every_n_steps=None, every_n_minutes=60)
    last.folder = folder
    callbacks = (best(folder), ToMeCallback(), last, Peers(), bar, count)
    fit = trainer(
        folder, *callbacks, max_epochs=1, enable_progress_bar=True, log_every_n_steps=REFRESH
    )
    with count.mode:
        fit.fit(tiny(), datamodule=Long())
    return count


@pytest.mark.usefixtures("as_on_cuda")
def test_steps_wait_for_no_device_between_refreshes_and_evaluation_once_a_batch(tmp_path: Path):
    count = run(tmp_path, RunBar())
    waits = [after - before for before, after in zip(count.train, count.train[1:], strict=False)]
    waits = waits[REFRESH:]  # the first ten steps begin the run
    assert waits[: REFRESH - 1] == [0] * (REFRESH - 1)
    assert waits[REFRESH - 1] > 0  # the refresh
    assert waits[REFRESH] == 0
    evaluated = [b - a for a, b in zip(count.evaluated, count.evaluated[1:], strict=False)]
    assert evaluated == [1] * 3


@pytest.mark.parametrize(
    ("bar", "given"),
    [(RunBar(), False), (None, False), (TQDMProgressBar(), True)],
    ids=["ours", "none", "other"],
)
def test_another_bar_is_given_its_figures(bar: Any, given: bool):
    assert at_each_batch(SimpleNamespace(progress_bar_callback=bar)) is given


def test_the_bar_still_tells_the_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bar = RunBar(refresh_rate=1)
    told: list[dict[str, Any]] = []
    real = bar.get_metrics
    bar.get_metrics = lambda *given: told.append(real(*given)) or told[-1]  # type: ignore[method-assign]
    fit = trainer(
        tmp_path, ToMeCallback(), bar, max_epochs=1, enable_progress_bar=True, log_every_n_steps=2
    )
    fit.fit(tiny(), datamodule=Noise())
    losses = {row["loss"] for row in told}
    assert len(losses) == 6
    assert float(fit.callback_metrics["train/loss"]) == told[-1]["loss"]
    assert told[-1]["r"] == "4"
    assert "samples/s" in told[-1]


class Processes:
    """A trainer of two processes; the other one's loss is 3."""

    world_size, fast_dev_run = 2, False

    def __init__(self, written: bool) -> None:
        self._logger_connector = SimpleNamespace(should_update_logs=written)


@pytest.mark.parametrize(("written", "logged"), [(True, 2.0), (False, 1.0)])
def test_a_written_loss_is_the_mean_over_processes_and_others_ask_nobody(
    written: bool, logged: float, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda loss: asked.append(loss.add_(3)) or None
    )
    loss = torch.tensor(1.0, dtype=torch.bfloat16, requires_grad=True)
    with Waits() as waits:
        told = to_log(Processes(written), loss)
    assert (float(told), told.requires_grad, len(asked)) == (logged, False, int(written))
    assert float(loss.detach()) == 1  # as it was, for the backward pass
    assert not waits.seen


def test_every_step_that_is_written_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    fit = trainer(tmp_path, ToMeCallback(), max_epochs=1, log_every_n_steps=2)

    def note(trainer: Any, loss: Tensor) -> Tensor:
        if trainer._logger_connector.should_update_logs:
            asked.append(trainer.global_step)
        return to_log(trainer, loss)

    monkeypatch.setattr("tome_lightning.finetune.to_log", note)
    fit.fit(tiny(), datamodule=Noise())
    assert asked == [1, 3, 5]
