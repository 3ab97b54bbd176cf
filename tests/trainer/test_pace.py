"""Learning rate and r over runs whose steps and epochs change: continuous, and over where the run is."""

import itertools
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from tome_lightning.optim import epoch_of_step, lr_at, lr_at_step
from tome_lightning.trainer.pace import Pace, steps_in, steps_to_come
from tome_lightning.trainer.progress import Progress

PEAK, MIN, WARMUP = 1e-3, 1e-6, 1.5


class Step(NamedTuple):
    epoch: int
    pace: Pace
    lr: float
    table: float  # the learning rate of VideoMAE's schedule
    share: float


class Simulated:
    """A trainer's counters: `steps` takes optimizer steps, from wherever it was put."""

    def __init__(
        self, max_epochs: int = -1, max_steps: int = -1, batches: int = 10, **options: Any
    ):
        scheduling = options.pop("scheduling", None)
        scheduler = [GradientAccumulationScheduler(dict(scheduling))] if scheduling else []
        self.counted = SimpleNamespace(processed=options.pop("at", 0))
        self.trainer: Any = SimpleNamespace(
            max_epochs=max_epochs, max_steps=max_steps, num_training_batches=batches,
            callbacks=scheduler, accumulate_grad_batches=options.pop("accumulate", 1),
            current_epoch=options.pop("epoch", 0), global_step=options.pop("taken", 0),
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(
                batch_progress=SimpleNamespace(current=self.counted))),
        )  # fmt: skip
        self.pace = options.pop("pace", None) or Pace.of(self.trainer)
        assert not options

    def steps(self) -> Iterator[Step]:
        run = self.trainer
        while run.current_epoch != run.max_epochs:
            for scheduler in run.callbacks:
                scheduler.on_train_epoch_start(run)
            for batch in range(self.counted.processed, run.num_training_batches):
                self.counted.processed = batch + 1
                whole = (batch + 1) % run.accumulate_grad_batches == 0
                if not whole and batch + 1 != run.num_training_batches:
                    continue
                self.counted.processed = batch  # as before the batch: r and rates of the step
                yield self.now()
                self.counted.processed = batch + 1
                run.global_step += 1
                self.pace = self.pace.stepped(run)
                if run.global_step == run.max_steps:
                    return
            self.counted.processed = 0
            run.current_epoch += 1

    def now(self) -> Step:
        pace = self.pace
        end = pace.end(self.trainer)
        table = lr_at_step(pace.done, pace.epoch_steps, PEAK, MIN, WARMUP, end)
        lr = lr_at(pace.epoch(), PEAK, MIN, WARMUP, pace.epoch(end))
        return Step(self.trainer.current_epoch, pace, lr, table, pace.share(self.trainer))


def cut(run: Simulated, steps: int) -> list[Step]:
    """Steps of a run that is cut off before the next one, whose batches are then not counted."""
    rows = list(itertools.islice(run.steps(), steps + 1))
    run.counted.processed -= run.counted.processed % run.trainer.accumulate_grad_batches
    return rows[:-1]


def smooth(rows: list[Step], step: float) -> None:
    """No value moves by more than a step does that is so large a part of the schedule."""
    for before, after in itertools.pairwise(rows):
        assert 0 <= after.share - before.share < step
        # half a cosine, or the warm-up, at its steepest
        bound = PEAK * step * 6
        assert abs(after.lr - before.lr) < bound
        assert abs(after.table - before.table) < bound
    peak = max(range(len(rows)), key=lambda i: rows[i].lr)
    for lrs in ([row.lr for row in rows], [row.table for row in rows]):
        assert lrs[: peak - 1] == sorted(lrs[: peak - 1])
        assert lrs[peak + 2 :] == sorted(lrs[peak + 2 :], reverse=True)


@pytest.mark.parametrize(("batches", "accumulate"), [(10, 1), (10, 2), (5, 2), (7, 3), (33, 4)])
@pytest.mark.parametrize("limits", [(9, -1), (-1, 23), (4, 11), (300, 40)])
def test_a_run_of_alike_epochs_counts_its_steps(batches, accumulate, limits):
    """To the last bit what the formulas give of its steps."""
    epochs, max_steps = limits
    run = Simulated(epochs, max_steps, batches, accumulate=accumulate)
    an_epoch, rows = steps_in(batches, accumulate), list(run.steps())
    total = epochs if epochs > 0 else epoch_of_step(max_steps, batches, accumulate)
    steps = epochs * an_epoch if epochs > 0 else max_steps
    ends = [end for end in (max_steps, epochs * an_epoch) if end > 0]
    assert len(rows) == min(ends)
    for k, row in enumerate(rows):
        assert row.pace.done == k
        assert row.lr == lr_at(epoch_of_step(k, batches, accumulate), PEAK, MIN, WARMUP, total)
        assert row.table == lr_at_step(k, an_epoch, PEAK, MIN, WARMUP, steps)
        assert row.share == k / min(ends)


@pytest.mark.parametrize("batches", [12, 13])
@pytest.mark.parametrize("scheduling", [{0: 1, 3: 4}, {0: 4, 2: 2, 5: 1}, {1: 13}])
def test_scheduled_accumulation_moves_the_schedules_as_its_epochs_go(scheduling, batches):
    run = Simulated(8, batches=batches, scheduling=scheduling)
    rows = list(run.steps())
    starts = {row.epoch: row for row in reversed(rows)}
    for epoch, row in starts.items():
        assert row.pace.epoch() == pytest.approx(epoch)
        assert row.share == pytest.approx(epoch / 8)
        assert row.lr == pytest.approx(lr_at(epoch, PEAK, MIN, WARMUP, 8), rel=1e-9)
    last = run.now()
    assert (last.lr, last.table) == pytest.approx((MIN, MIN), rel=1e-9)
    assert last.share == pytest.approx(1)
    assert len(rows) == steps_to_come(run.trainer, batches)


@pytest.mark.parametrize("max_steps", [5, 30, 41])
def test_max_steps_within_scheduled_epochs_ends_r_s_schedule(max_steps):
    run = Simulated(8, max_steps, batches=12, scheduling={0: 1, 2: 3})
    rows = list(run.steps())
    assert len(rows) == max_steps == steps_to_come(run.trainer, 12)
    smooth(rows, 3.1 / max_steps)
    assert run.now().share == pytest.approx(1)


CHANGES: dict[str, Callable[..., Simulated]] = {
    "twice the data": lambda **at: Simulated(8, batches=20, **at),
    "a fifth": lambda **at: Simulated(8, batches=4, **at),
    "other accumulation": lambda **at: Simulated(8, batches=10, accumulate=3, **at),
    "scheduled": lambda **at: Simulated(8, batches=10, scheduling={0: 1, 5: 2}, **at),
}


@pytest.mark.parametrize("taken", [4, 10, 33, 79])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_run_goes_on_with_other_epochs_where_it_was(change, taken):
    first = Simulated(8)
    rows = cut(first, taken)
    epoch, at = divmod(taken, 10)
    batches = change().trainer.num_training_batches
    at = min(at, batches - 1)  # as `Progress.moved_to`: as many samples on, but within the epoch
    second = change(pace=first.pace, epoch=epoch, at=at, taken=taken)
    later = list(second.steps())
    assert len(rows) + len(later) == steps_to_come(second.trainer, batches, epoch, at, taken)
    assert later[0].share == taken / 80
    smooth(rows + later, 1.5 / 8 / 4)  # some have 4 steps in an epoch
    last = second.now()
    assert (last.lr, last.table, last.share) == pytest.approx((MIN, MIN, 1), rel=1e-9)


def test_a_run_of_steps_alone_goes_on_with_other_epochs():
    first = Simulated(max_steps=60)
    rows = cut(first, 25)
    second = Simulated(max_steps=60, batches=30, pace=first.pace, epoch=2, at=5, taken=25)
    later = list(second.steps())
    whole = list(Simulated(max_steps=60).steps())
    assert [row[2:] for row in rows + later] == [row[2:] for row in whole]


def test_a_limit_that_was_raised_makes_the_rest_longer():
    first = Simulated(4)
    cut(first, 20)
    second = Simulated(8, pace=first.pace, epoch=2, taken=20)
    whole = list(Simulated(8).steps())
    assert [row[1:] for row in second.steps()] == [row[1:] for row in whole[20:]]


@pytest.mark.parametrize("taken", range(1, 24, 3))
def test_what_is_left_does_not_depend_on_where_a_run_was_cut_off(taken):
    """To the last bit, with a count that is no whole number."""
    options: dict[str, Any] = {"batches": 7, "scheduling": {0: 1, 1: 3, 3: 2}}
    whole = list(Simulated(6, **options).steps())
    assert any(row.pace.done % 1 for row in whole)
    first = Simulated(6, **options)
    cut(first, taken)
    epoch, at = first.trainer.current_epoch, first.counted.processed
    second = Simulated(6, pace=first.pace, epoch=epoch, at=at, taken=taken, **options)
    assert list(second.steps()) == whole[taken:]


def test_a_run_that_is_over_has_no_steps_to_come():
    run = Simulated(3, batches=10).trainer
    assert steps_to_come(run, 10) == 30
    assert steps_to_come(run, 10, epoch=2, batches=10, taken=30) == 30
    assert steps_to_come(run, 10, epoch=5, batches=3, taken=53) == 53
    run.max_steps = 4
    assert steps_to_come(run, 10) == 4
    assert steps_to_come(run, 10, epoch=1, batches=10, taken=20) == 20


OLD = {
    "epoch": 2, "batches": 4, "epoch_batches": 5, "accumulate": 2, "steps": 8, "batch": 4,
    "processes": 1, "effective": 8, "validation_due": False,
}  # fmt: skip


@pytest.mark.parametrize(("batches", "done"), [(2, 7), (4, 8), (5, 9)])
def test_a_checkpoint_of_before_the_count_stands_at_its_steps(batches, done):
    saved = OLD | {"batches": batches, "steps": done}
    progress = Progress.read({"tome_lightning": {"progress": saved}})
    assert progress is not None
    assert progress.pace == Pace(done, 5, 2)
    assert progress.as_dict() | saved == progress.as_dict()
    again = Progress.read({"tome_lightning": {"progress": progress.as_dict()}})
    assert again == progress


def test_half_of_the_count_is_of_no_version():
    half = OLD | {"scheduled": 8.0}
    assert Progress.read({"tome_lightning": {"progress": half}}) is None
    assert math.isfinite(Progress(**OLD).scheduled)
