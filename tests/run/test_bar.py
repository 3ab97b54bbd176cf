"""The line that moves while a run trains."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tome_lightning.callbacks import ToMeCallback
from tome_lightning.run.bar import RunBar


def trainer_of(metrics: dict[str, float], training: bool = True, waited: bool = True) -> Any:
    tome = ToMeCallback()
    if waited:
        for _ in range(4):  # each step's start follows the last one's end at once
            tome.meter.start()
            tome.meter.stop((4, 4), 8)
    return SimpleNamespace(
        progress_bar_metrics={"val/top1": metrics["val/top1"]},
        training=training,
        callbacks=[tome],
        loggers=[],
        logger=None,
        callback_metrics={name: torch.tensor(value) for name, value in metrics.items()},
    )


MODULE: Any = SimpleNamespace(device=torch.device("cpu"))
LOGGED = {
    "val/top1": 0.5, "tome/samples_per_s": 160.0, "tome/r": 4.0, "train/loss": 2.5,
}  # fmt: skip


def test_it_tells_loss_r_speed_waiting_and_memory_in_this_order():
    shown = RunBar().get_metrics(trainer_of(LOGGED), MODULE)
    assert list(shown) == ["loss", "r", "samples/s", "data wait", "memory", "top1"]
    assert shown["r"] == "4"
    assert str(shown["data wait"]).endswith("%")
    assert float(str(shown["memory"]).removesuffix("G")) > 0


def test_before_two_steps_nothing_is_said_of_waiting():
    shown = RunBar().get_metrics(trainer_of(LOGGED, waited=False), MODULE)
    assert "data wait" not in shown


@pytest.mark.parametrize("metrics", [{"val/top1": 0.5}, LOGGED])
def test_in_evaluation_it_tells_the_metrics_alone(metrics: dict[str, float]):
    shown = RunBar().get_metrics(trainer_of(metrics, training=False), MODULE)
    assert shown["top1"] == 0.5
    assert "memory" not in shown
