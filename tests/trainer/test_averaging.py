"""Averages that no file would have are refused before a run is started for them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tome_lightning.__main__ import main
from tome_lightning.arguments import UsageError
from tome_lightning.trainer.averaging import EMA, CountedOnHost, averages_to_device, check_averaging

from ..test_cli import TINY

ROOT = Path(__file__).parents[2]


class Own(StochasticWeightAveraging):
    """A user's kind of it."""


def run(*callbacks: Any) -> Any:
    return SimpleNamespace(callbacks=list(callbacks))


@pytest.mark.parametrize("kind", [StochasticWeightAveraging, Own])
def test_averages_that_come_after_the_last_file_are_refused_with_the_way_to_ema(kind):
    with pytest.raises(UsageError, match=f"has {kind.__name__}: .*EMAWeightAveraging"):
        check_averaging(run(EMAWeightAveraging(), kind(swa_lrs=1e-2)))


def test_two_averages_are_refused_and_one_is_fine():
    check_averaging(run())
    check_averaging(run(EMAWeightAveraging()))
    with pytest.raises(UsageError, match="EMAWeightAveraging and WeightAveraging"):
        check_averaging(run(EMAWeightAveraging(), WeightAveraging()))


class Small(LightningModule):
    """A weight and a buffer, and the trainer that has such callbacks."""

    def __init__(self, *callbacks: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(1))
        for callback in callbacks:
            callback.setup(run(), self, "fit")
        self.__dict__["_run"] = run(*callbacks)

    @property
    def trainer(self) -> Any:
        return self.__dict__["_run"]


def devices(callback: Any) -> set[str]:
    averages = callback._average_model
    assert averages.n_averaged.device.type == "cpu"
    return {value.device.type for value in averages.module.state_dict().values()}


@pytest.mark.parametrize("kind", [EMAWeightAveraging, WeightAveraging])
def test_averages_go_where_the_module_went(kind):
    """Buffers as well: what stays behind is copied at each step. The counter is the host's."""
    average = kind(use_buffers=True)
    module = Small(average, Callback())
    module.to("meta")
    averages_to_device(module)
    assert devices(average) == {"meta"}


class Copies(TorchDispatchMode):
    """Notes what waits for a device: reading a number of its, copying to or from the host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, kwargs, out)) if isinstance(value, Tensor)]
        kinds, name = {value.device.type for value in tensors}, op._schema.name
        copied = name in ("aten::_to_copy", "aten::copy_") and len(kinds) > 1
        if copied or (name == "aten::_local_scalar_dense" and "cpu" not in kinds):
            self.seen.append(op._schema.name)
        return out


@pytest.mark.parametrize("kind", [EMAWeightAveraging, WeightAveraging])
def test_a_step_of_averages_on_a_device_waits_for_nothing(kind):
    """The device is meta here, which cannot even be waited for."""
    average = kind(use_buffers=True)
    module = Small(average)
    average._average_model.update_parameters(module)  # the first one copies
    module.to("meta")
    averages_to_device(module)
    with Copies() as copies:
        for _ in range(3):
            average._average_model.update_parameters(module)
    assert copies.seen == []
    assert int(average._average_model.n_averaged) == 4


@pytest.mark.parametrize(
    "settings", [{}, {"avg_fn": get_ema_avg_fn(0.75)}, {"multi_avg_fn": get_ema_multi_avg_fn(0.75)}],
    ids=["mean", "each", "together"],
)  # fmt: skip
def test_averages_are_torch_s_to_the_last_bit(settings):
    torch.manual_seed(0)
    model = torch.nn.BatchNorm1d(5)  # has an integer among its buffers
    theirs, ours = (AveragedModel(model, use_buffers=True, **settings) for _ in range(2))
    ours.__class__ = CountedOnHost
    for step in range(4):
        for value in (*model.parameters(), *model.buffers()):
            value.data.copy_(7 * torch.randn(value.shape) + step)
        theirs.update_parameters(model)
        ours.update_parameters(model)
    kept = ours.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in theirs.state_dict().items())


def test_averages_stay_on_the_device_that_a_user_has_named_for_them():
    average = EMAWeightAveraging(device="cpu")
    module = Small(average)
    module.to("meta")
    averages_to_device(module)
    assert devices(average) == {"cpu"}


def test_the_way_out_is_the_documented_one():
    text = (ROOT / "recipes" / "LONG_RUNS.md").read_text()
    assert EMA in text


def test_on_the_command_line_it_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    swa = "lightning.pytorch.callbacks.StochasticWeightAveraging"
    words = [f"--trainer.callbacks+={swa}", "--trainer.callbacks.swa_lrs=0.01", "--run_dir=R"]
    assert main(["fit", "--recipe=quickstart", *TINY, *words]) == 2
    told = [line for line in capfd.readouterr().err.splitlines() if "Stochastic" in line]
    assert len(told) == 1
    assert EMA in told[0]
    assert not Path("R").exists()
