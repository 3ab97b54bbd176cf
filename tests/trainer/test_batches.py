"""Samples per optimizer step, on however many processes."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from tome_lightning.optim import epoch_of_step, lr_at
from tome_lightning.trainer.batches import (
    BatchError,
    accumulate_to,
    check_accumulation,
    continued,
    effective_batch,
    factors,
)
from tome_lightning.trainer.progress import Progress


def trainer(batch: int = 8, processes: int = 2, accumulate: int = 1, **data: Any) -> Any:
    data.setdefault("train_batches", lambda processes: 960 // processes // batch)
    return SimpleNamespace(
        datamodule=SimpleNamespace(batch_size=batch, **data),
        world_size=processes,
        accumulate_grad_batches=accumulate,
        limit_train_batches=1.0,
        limit_val_batches=1.0,
        val_check_interval=1.0,
        check_val_every_n_epoch=1,
    )


def saved(**changed: Any) -> Progress:
    state = {
        "epoch": 2, "batches": 30, "epoch_batches": 60, "accumulate": 1, "steps": 150, "batch": 16,
        "processes": 2, "effective": 16,
    }  # fmt: skip
    return Progress(**(state | changed))


def test_repeats_accumulation_and_processes_count():
    run = trainer(4, processes=8, accumulate=4, repeat_aug=2)
    assert effective_batch(run) == 256
    assert factors(run) == "4 a process x 2 repeats x 8 processes x 4 accumulated"
    assert effective_batch(SimpleNamespace(datamodule=None)) == 0


@pytest.mark.parametrize(("batch", "processes", "wanted"), [(128, 8, 1), (128, 1, 8), (64, 2, 8)])
def test_keep_effective_batch_accumulates_up_to_the_recipe(batch, processes, wanted):
    run = trainer(batch, processes, accumulate=3)
    accumulate_to(run, 1024)
    assert run.accumulate_grad_batches == wanted
    assert effective_batch(run) == 1024


def test_keep_effective_batch_refuses_what_cannot_be_reached():
    with pytest.raises(
        BatchError, match=r"1024 .* no multiple of 300 = 100 a process x 3 processes\."
    ):
        accumulate_to(trainer(100, 3), 1024)
    with pytest.raises(BatchError, match=r"give model\.effective_batch"):
        accumulate_to(trainer(), None)
    run = trainer()
    run.callbacks = [GradientAccumulationScheduler({2: 4})]
    with pytest.raises(BatchError, match="same in every epoch"):
        accumulate_to(run, 1024)


def test_accumulation_is_fixed_or_scheduled():
    run = trainer(4, processes=8, accumulate=4)
    check_accumulation(run)
    run.callbacks = [GradientAccumulationScheduler({2: 4})]
    with pytest.raises(BatchError, match="accumulate_grad_batches is 4, and"):
        check_accumulation(run)
    run.accumulate_grad_batches = 1
    check_accumulation(run)
    assert [effective_batch(run, epoch) for epoch in (0, 1, 2)] == [32, 32, 128]


def test_the_same_run_stays_where_it_was():
    assert continued(trainer(), saved()) == saved()


def test_a_validation_that_was_due_is_repeated_where_this_run_validates():
    assert continued(trainer(), saved(batches=60, validation_due=True)).validation_due
    assert not continued(trainer(), saved(batches=60)).validation_due
    assert not continued(trainer(), saved(validation_due=True)).validation_due  # in mid-epoch
    for options, due in (
        ({"val_check_interval": 0.5}, True),
        ({"val_check_interval": 30}, True),
        ({"val_check_interval": 0.25}, True),
        ({"val_check_interval": 40}, False),
        ({"val_check_interval": 50, "check_val_every_n_epoch": None}, True),  # 150 batches in all
        ({"val_check_interval": 30, "check_val_every_n_epoch": 2}, False),  # the third epoch
        ({"val_check_interval": 30, "limit_val_batches": 0}, False),
        ({"val_check_interval": 30, "_val_check_time_interval": 60.0}, False),
    ):
        run = trainer()
        vars(run).update(options)
        assert continued(run, saved(validation_due=True)).validation_due is due, options


@pytest.mark.parametrize(
    ("batch", "processes", "accumulate", "batches"),
    [(8, 1, 2, 60), (4, 2, 2, 60), (4, 4, 1, 30), (2, 1, 8, 240)],
)
@pytest.mark.filterwarnings("ignore:.*goes on with")
def test_other_processes_go_on_with_the_next_sample(batch, processes, accumulate, batches):
    now = continued(trainer(batch, processes, accumulate), saved())
    assert now.batches == batches
    assert now.batches * batch * processes == 30 * 16
    assert (now.epoch, now.steps, now.effective) == (2, 150, 16)


@pytest.mark.filterwarnings("ignore:.*goes on with")
def test_a_complete_epoch_stays_complete():
    now = continued(trainer(8, 1, 2), saved(batches=60))
    assert now.batches == now.epoch_batches == 120


def test_another_effective_batch_is_refused():
    with pytest.raises(BatchError, match="effective batch of 16, this run has 8 = 8 a process x 1"):
        continued(trainer(8, 1), saved())


def test_an_epoch_of_another_length_is_said():
    with pytest.warns(UserWarning, match="it had 2, 16 and 70"):
        continued(trainer(), saved(epoch_batches=70))


def test_learning_rate_against_samples_is_the_same_with_and_without_accumulation():
    schedule = {"lr": 1e-3, "min_lr": 1e-6, "warmup_epochs": 1.5, "epochs": 4}
    whole = [lr_at(epoch_of_step(k, 12, 1), **schedule) for k in range(48)]  # 12 batches of 32
    parts = [lr_at(epoch_of_step(k, 48, 4), **schedule) for k in range(48)]  # 48 batches of 8
    assert parts == pytest.approx(whole, rel=1e-12)
