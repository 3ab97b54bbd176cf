"""Steps are timed in turn."""

import time

import torch

from tome_lightning.commands.benchmark import timing
from tome_lightning.commands.benchmark.timing import host_time, interleaved

CPU = torch.device("cpu")


def test_every_round_times_each_step_and_begins_with_another():
    calls = []

    def step(name):
        def run():
            calls.append(name)
            time.sleep(0.016)  # longer than a unit has to be: one step each

        return run

    times = interleaved([step(name) for name in "abc"], CPU, rounds=3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"  # the first are a trial
    assert [t.rounds for t in times] == [3, 3, 3]
    assert all(t.ms_min <= t.ms <= t.ms_max for t in times)


def test_short_steps_are_timed_several_at_once():
    calls = []
    interleaved([lambda: calls.append(1)], CPU, rounds=2)
    assert len(calls) == 1 + 2 * 50


def test_rounds_fill_the_time_within_bounds():
    def count(seconds):
        return interleaved([lambda: time.sleep(0.015)], CPU, seconds=seconds)[0].rounds

    assert count(0.0) == 5
    assert count(0.2) <= 13


def test_the_host_s_time_leaves_out_what_the_device_still_does(monkeypatch):
    """A step on a GPU returns when it is launched; what is waited for around it is not counted."""
    waited = []
    monkeypatch.setattr(timing, "synchronize", lambda device: (waited.append(1), time.sleep(0.05)))
    taken = host_time(lambda: time.sleep(0.002), torch.device("cuda"), rounds=3)
    assert 2 <= taken < 50
    assert len(waited) == 4  # idle before each, and at the end


def test_a_cpu_launches_nothing():
    assert host_time(lambda: None, CPU) is None
