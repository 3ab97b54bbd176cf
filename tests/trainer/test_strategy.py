"""Weights are whole in every process."""

import pytest
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from torch import nn

from tome_lightning.__main__ import main
from tome_lightning.arguments import UsageError
from tome_lightning.trainer.strategy import check_strategy, spare_ddp

PLAIN = nn.Linear(2, 2)


class Own(ModelParallelStrategy):
    """A user's."""


def _name(strategy: object) -> str:
    named = isinstance(strategy, (str, Namespace))
    return (
        str(strategy) if named else type(strategy).__name__
    )  # an address differs from process to process


@pytest.mark.parametrize(
    "strategy",
    [
        *("fsdp", "fsdp_cpu_offload", "fsdp2", "fsdp2_sharded"),
        Namespace(class_path="lightning.pytorch.strategies.FSDPStrategy"),
        Namespace(class_path="lightning.pytorch.strategies.ModelParallelStrategy"),
        FSDPStrategy(),
        ModelParallelStrategy(),
    ],
    ids=_name,
)
def test_sharding_is_refused(strategy) -> None:
    with pytest.raises(UsageError, match=r"ViT-H take 10 GB under ddp.*grad_checkpointing true"):
        check_strategy(strategy)


@pytest.mark.parametrize(
    "strategy",
    ["auto", "ddp", "ddp_find_unused_parameters_true", DDPStrategy(), Own(),
     Namespace(class_path="mine.Sharded"),
     Namespace(class_path="lightning.pytorch.strategies.DDPStrategy")],
    ids=_name,
)  # fmt: skip
def test_others_are_not(strategy) -> None:
    check_strategy(strategy)


@pytest.mark.parametrize("name", ["auto", "ddp", "ddp_find_unused_parameters_true"])
def test_ddp_holds_gradients_once(name) -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy=name, logger=False)
    before = dict(trainer.strategy._ddp_kwargs)
    spare_ddp(trainer.strategy, PLAIN)
    spared = {"gradient_as_bucket_view": True, "broadcast_buffers": False}
    assert trainer.strategy._ddp_kwargs == before | spared


def test_ddp_still_sends_the_buffers_that_training_changes() -> None:
    ddp = DDPStrategy()
    spare_ddp(ddp, nn.Sequential(PLAIN, nn.BatchNorm2d(3)))
    assert ddp._ddp_kwargs == {"gradient_as_bucket_view": True}


def test_a_users_own_choice_of_buckets_holds_and_other_strategies_are_left_alone() -> None:
    kept = {"gradient_as_bucket_view": False, "broadcast_buffers": True}
    own = DDPStrategy(**kept)
    spare_ddp(own, PLAIN)
    assert own._ddp_kwargs == kept
    alone = SingleDeviceStrategy()
    before = dict(vars(alone))
    spare_ddp(alone, PLAIN)
    assert vars(alone) == before


@pytest.mark.parametrize("strategy", ["fsdp2", "lightning.pytorch.strategies.FSDPStrategy"])
def test_it_is_refused_before_anything_starts(strategy, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--recipe=quickstart", "--data.root=digits", "--trainer.accelerator=cpu"]
    assert main(["fit", *words, f"--trainer.strategy={strategy}"]) == 2
    assert "Use --trainer.strategy ddp" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
