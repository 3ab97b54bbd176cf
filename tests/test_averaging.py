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

from tome_lightning.__main__ import main
from tome_lightning.arguments import UsageError
from tome_lightning.averaging import EMA, averages_to_device, check_averaging

from .test_cli import TINY

ROOT = Path(__file__).parents[1]


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
    return {value.device.type for value in callback._average_model.state_dict().values()}


@pytest.mark.parametrize("kind", [EMAWeightAveraging, WeightAveraging])
def test_averages_go_where_the_module_went(kind):
    """Counters and buffers as well: what stays behind is copied at each step."""
    average = kind(use_buffers=True)
    module = Small(average, Callback())
    module.to("meta")
    averages_to_device(module)
    assert devices(average) == {"meta"}


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
