"""A loss that is no number: stop or skip, with what led to it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tome_lightning.trainer.loss_guard import PATIENCE, REPORT, Facts, LossGuard, NonFiniteLossError

FACTS = Facts(step=120, epoch=3, r=8, lr=1.25e-3)
IDS = torch.arange(40, 52)


def optimizer(grad: float = 1.0) -> torch.optim.Optimizer:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.full((3,), grad)
    return torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)


def look(guard: LossGuard, folder: Path, *losses: float, **options: Any) -> None:
    for loss in losses:
        guard.add(torch.tensor(loss, requires_grad=True), IDS)
    made = options.pop("optimizer", None) or optimizer()
    guard.look(made, FACTS, folder, options.pop("scaled", False))


def test_finite_losses_pass_and_leave_nothing(tmp_path):
    guard = LossGuard("stop")
    for _ in range(3):
        look(guard, tmp_path, 0.5, 3e38)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_stop_names_step_r_learning_rate_and_samples(tmp_path, loss):
    guard = LossGuard("stop")
    with pytest.raises(NonFiniteLossError) as caught:
        look(guard, tmp_path, 0.5, loss)
    told = str(caught.value)
    for part in (str(loss), "step 120", "epoch 3", "r=8", "0.00125", "40, 41", "4 more", REPORT):
        assert part in told
    report = json.loads((tmp_path / REPORT).read_text())
    assert (report["step"], report["r"]) == (120, 8)
    assert report["batches"] == [{"process": 0, "loss": str(loss), "ids": IDS.tolist()}]


def test_skip_leaves_the_step_out_and_goes_on(tmp_path):
    guard, made = LossGuard("skip"), optimizer()
    weight = made.param_groups[0]["params"][0]
    with pytest.warns(UserWarning, match="left out, 1 so far"):
        look(guard, tmp_path, float("nan"), optimizer=made)
    made.step()
    assert torch.equal(weight, torch.ones(3))  # neither a step nor weight decay
    weight.grad = torch.ones(3)
    look(guard, tmp_path, 0.5, optimizer=made)
    made.step()
    assert (weight < 1).all()
    assert guard.skipped == 1


def test_skip_sees_infinite_gradients_of_a_finite_loss(tmp_path):
    guard = LossGuard("skip")
    with pytest.warns(UserWarning, match="gradients are not finite at optimizer step 120"):
        look(guard, tmp_path, 0.5, optimizer=optimizer(float("inf")))


def test_a_float16_scaler_deals_with_infinite_gradients_itself(tmp_path):
    guard, made = LossGuard("skip"), optimizer(float("inf"))
    look(guard, tmp_path, 0.5, optimizer=made, scaled=True)
    assert made.param_groups[0]["params"][0].grad is not None


@pytest.mark.filterwarnings("ignore:.*left out")
def test_skipping_ends_when_the_weights_must_be_at_fault(tmp_path):
    guard = LossGuard("skip")
    for _ in range(PATIENCE):
        look(guard, tmp_path, float("nan"))
    look(guard, tmp_path, 1.0)  # in between all is well: the count starts anew
    for _ in range(PATIENCE):
        look(guard, tmp_path, float("nan"))
    with pytest.raises(NonFiniteLossError, match=f"the {PATIENCE + 1}th step in a row"):
        look(guard, tmp_path, float("nan"))
