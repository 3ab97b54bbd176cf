"""Timing several ways of doing the same, in turn, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from tome_lightning.trainer.meter import synchronize, time_unit

UNIT_MS = {"cuda": 60.0, "cpu": 15.0}  # a timed unit lasts at least that long: many short steps


class Times(NamedTuple):
    """Milliseconds a step took, over the rounds."""

    ms: float
    ms_min: float
    ms_max: float
    rounds: int


def host_time(step: Callable[[], object], device: torch.device, rounds: int = 5) -> float | None:
    """Milliseconds until a step returns that finds the device idle: what the host needs to launch it.

    As long as the step itself where the device waits for launches. None on a CPU, which launches nothing.
    """
    if device.type != "cuda":
        return None
    taken = []
    for _ in range(rounds):
        synchronize(device)
        start = time.perf_counter()
        step()
        taken.append(1000 * (time.perf_counter() - start))
    synchronize(device)
    return statistics.median(taken)


def interleaved(
    steps: Sequence[Callable[[], object]],
    device: torch.device,
    rounds: int | None = None,
    seconds: float = 20.0,
    after: Callable[[list[Times]], None] | None = None,
) -> list[Times]:
    """Time steps that have been run before, in turn: what disturbs the machine disturbs all alike.

    Every round times each step once and begins with another one.

    Args:
        steps: What to time.
        device: What they run on.
        rounds: Timed rounds; by default as many as take that many seconds a step, 5 to 25.
        seconds: See there.
        after: Gets the times so far after each round, outside what is timed.
    """
    first = [time_unit(step, 1, device) for step in steps]
    repeats = [max(1, min(50, round(UNIT_MS[device.type] / ms))) for ms in first]
    if rounds is None:
        round_s = sum(ms * times for ms, times in zip(first, repeats, strict=True)) / 1000
        rounds = max(5, min(25, int(seconds * len(steps) / max(round_s, 1e-9))))
    samples: list[list[float]] = [[] for _ in steps]
    for done in range(rounds):
        for place in range(len(steps)):
            i = (place + done) % len(steps)
            samples[i].append(time_unit(steps[i], repeats[i], device))
        if after is not None:
            after([_times(ms) for ms in samples])
    return [_times(ms) for ms in samples]


def _times(samples: Sequence[float]) -> Times:
    return Times(statistics.median(samples), min(samples), max(samples), len(samples))
