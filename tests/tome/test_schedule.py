import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from tome_lightning.tome import PlanError, RSchedule, layer_plan
from tome_lightning.tome.plan import scale_r

DEPTH = 12
GRID = [i / 1000 for i in range(1001)]
TARGETS = {
    "int": 16,
    "list": [16, 8, 4],
    "inflection": {"r": 16, "inflection": -1.0},
    "short inflection": {"r": 16},
    "keep": {"keep": 0.9},
}


def used(schedule, r):
    """Distinct r on a fine grid of training, in order of first use."""
    seen = []
    for step, progress in enumerate(GRID):
        value = schedule.at(progress, r, DEPTH, step)
        if value not in seen:
            seen.append(value)
    return seen


def test_the_default_is_r_all_the_way():
    assert used(RSchedule(), 16) == [16]


def test_training_outside_start_and_stop_is_dense():
    schedule = RSchedule(start=0.25, stop=0.75)
    for progress in GRID:
        assert schedule.at(progress, 16, DEPTH) == (16 if 0.25 <= progress < 0.75 else 0)


def test_the_last_step_merges_unless_stop_says_otherwise():
    """Progress can be exactly 1 in validation after training."""
    assert RSchedule().at(1.0, 16, DEPTH) == 16
    assert RSchedule(stop=0.9).at(1.0, 16, DEPTH) == 0


def test_a_ramp_climbs_in_equal_steps_and_ends_at_r():
    schedule = RSchedule(kind="ramp", start=0.1, full=0.5, plateaus=4)
    r = [schedule.at(progress, 16, DEPTH) for progress in GRID]
    assert r == sorted(r)
    assert used(schedule, 16) == [0, 4, 8, 12, 16]
    assert schedule.at(0.5, 16, DEPTH) == 16
    # four plateaus of equal length between start and full
    for plateau, value in enumerate([4, 8, 12, 16]):
        assert schedule.at(0.1 + (plateau + 0.5) * 0.1, 16, DEPTH) == value


@pytest.mark.parametrize("plateaus", range(1, 13))
def test_a_ramp_takes_whole_shares_of_r(plateaus):
    schedule = RSchedule(kind="ramp", full=1.0, plateaus=plateaus)
    middles = [(k + 0.5) / plateaus for k in range(plateaus)]
    for r in range(1, 66):
        values = [schedule.at(progress, r, DEPTH) for progress in middles]
        assert values == [(k + 1) * r // plateaus for k in range(plateaus)], r


def test_a_ramp_scales_every_form_of_r():
    schedule = RSchedule(kind="ramp", full=1.0, plateaus=2)
    for r in TARGETS.values():
        first = schedule.at(0.2, r, DEPTH)
        assert first == scale_r(r, 0.5, DEPTH)
        fewer, more = layer_plan(first, DEPTH, 197, 1), layer_plan(r, DEPTH, 197, 1)
        assert 0 < sum(fewer) < sum(more)


def test_random_draws_only_from_its_choices_and_uses_all_of_them():
    schedule = RSchedule(kind="random", choices=(0, 8, 16))
    drawn = [schedule.at(0.5, 16, DEPTH, step) for step in range(300)]
    assert set(drawn) == {0, 8, 16}
    # each about a third: 5 standard deviations (8.2) around 100
    assert all(60 < drawn.count(value) < 140 for value in (0, 8, 16))


def test_random_depends_on_seed_and_step_and_nothing_else():
    def draw(seed, progress=0.5):
        schedule = RSchedule(kind="random", choices=tuple(range(50)), seed=seed)
        return [schedule.at(progress, 16, DEPTH, step) for step in range(50)]

    assert draw(0) == draw(0)
    assert draw(0) == draw(0, progress=0.9)
    assert draw(0) != draw(1)
    assert len(set(draw(0))) > 10


def test_random_is_the_same_in_every_process():
    """Strings hash differently from process to process; ranks must still agree."""
    code = (
        "from tome_lightning.tome.schedule import RSchedule\n"
        "s = RSchedule(kind='random', choices=(2, 4, 8, 16), seed=3)\n"
        "print([s.at(0.5, 16, 12, step) for step in range(40)])"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    schedule = RSchedule(kind="random", choices=(2, 4, 8, 16), seed=3)
    assert other.stdout.strip() == str([schedule.at(0.5, 16, 12, step) for step in range(40)])


SCHEDULES = {
    "constant": RSchedule(),
    "late": RSchedule(start=0.25),
    "window": RSchedule(start=0.25, stop=0.75),
    "early": RSchedule(stop=0.9),
    "ramp": RSchedule(kind="ramp"),
    "late ramp": RSchedule(kind="ramp", start=0.1, full=0.8, plateaus=5, stop=0.9),
    "ramp of many plateaus": RSchedule(kind="ramp", plateaus=40),
    "ramp until the end": RSchedule(kind="ramp", full=1.0, plateaus=3),
    "random": RSchedule(kind="random", choices=(4, 8, 16)),
    "random with dense ends": RSchedule(kind="random", start=0.1, stop=0.9, choices=(4, 0, 16)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_values_are_those_that_training_uses(name, target):
    schedule, r = SCHEDULES[name], TARGETS[target]
    values, seen = schedule.values(r, DEPTH), used(schedule, r)
    assert all(value in seen for value in values)
    assert all(value in values for value in seen)
    assert len(values) == len(seen)


@pytest.mark.parametrize("name", [n for n, s in SCHEDULES.items() if s.kind != "random"])
def test_values_come_in_order_of_first_use(name):
    assert SCHEDULES[name].values(16, DEPTH) == used(SCHEDULES[name], 16)


def test_a_ramp_to_a_small_r_has_no_graph_twice():
    assert RSchedule(kind="ramp", plateaus=4).values(2, DEPTH) == [0, 1, 2]


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"kind": "linear"}, "constant, ramp or random"),
        ({"start": -0.1}, "0 <= start < stop <= 1"),
        ({"stop": 1.1}, "0 <= start < stop <= 1"),
        ({"start": 0.5, "stop": 0.5}, "0 <= start < stop <= 1"),
        ({"start": 0.9, "stop": 0.5}, "0 <= start < stop <= 1"),
        ({"start": float("nan")}, "0 <= start < stop <= 1"),
        ({"stop": float("nan")}, "0 <= start < stop <= 1"),
        ({"kind": "ramp", "plateaus": 0}, "plateaus >= 1"),
        ({"kind": "ramp", "full": 0.0}, "start < full <= stop"),
        ({"kind": "ramp", "start": 0.5, "full": 0.5}, "start < full <= stop"),
        ({"kind": "ramp", "full": 0.9, "stop": 0.8}, "start < full <= stop"),
        ({"kind": "ramp", "full": float("nan")}, "start < full <= stop"),
        ({"kind": "random"}, "choices"),
        ({"choices": (8,)}, "choices"),
        ({"kind": "ramp", "choices": (8,)}, "choices"),
        ({"kind": "random", "choices": (8, -1)}, "0 or more"),
        ({"kind": "random", "choices": (8, 1.5)}, "whole number"),
    ],
)
def test_bad_arguments_are_one_clear_line(kwargs, reason):
    with pytest.raises(PlanError, match=reason) as error:
        RSchedule(**kwargs)
    assert "\n" not in str(error.value)


def test_a_schedule_cannot_change_under_way():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RSchedule().start = 0.5
