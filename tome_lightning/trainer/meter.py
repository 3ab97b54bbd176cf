"""Measuring a training loop without stopping it."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

KEPT = 512  # recent steps a figure is the median of


@dataclass
class RecordedSteps:
    """What was measured at one r."""

    steps: int = 0
    samples: int = 0
    step_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    data_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    per_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    waited_ms: float = 0.0
    worked_ms: float = 0.0


class StepMeter:
    """Step time, time without data, samples per second and peak memory, per label (per r).

    A step runs from ``start()`` to ``stop()``; what lies between two steps is waiting for data. On
    CUDA both are marked by events on the stream and read once the device has passed them, so nothing
    waits for the device; elsewhere the clock is read.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.recorded: dict[Any, RecordedSteps] = {}
        self._pending: deque[tuple[Any, int, Any, Any, Any]] = deque()
        self._started: Any = None
        self._stopped: Any = None

    def pause(self) -> None:
        """Forget when the last step ended: what follows is not waiting for data."""
        self._stopped = None

    def start(self) -> None:
        """A batch has arrived and its step begins."""
        self._started = self._mark()

    def stop(self, label: Any, samples: int) -> None:
        """The step of that many samples is over."""
        stopped = self._mark()
        self._pending.append((label, samples, self._stopped, self._started, stopped))
        self._stopped = stopped
        if len(self._pending) >= KEPT:
            self.read()

    def read(self) -> dict[Any, RecordedSteps]:
        """All figures known by now, without waiting for steps still under way."""
        cuda = self.device.type == "cuda"
        while self._pending and (not cuda or self._pending[0][-1].query()):
            label, samples, previous, started, stopped = self._pending.popleft()
            row = self.recorded.setdefault(label, RecordedSteps())
            step = self._between(started, stopped)
            row.steps += 1
            row.samples += samples
            row.step_ms.append(step)
            if previous is not None:
                data = self._between(previous, started)
                row.data_ms.append(data)
                row.per_s.append(1000 * samples / (step + data))
                row.waited_ms += data
                row.worked_ms += step
        return self.recorded

    def median(self, label: Any, name: str) -> float | None:
        """Median of ``step_ms``, ``data_ms`` or ``per_s`` over the recent steps at one label."""
        row = self.read().get(label)
        values = getattr(row, name) if row else ()
        return statistics.median(values) if values else None

    def waiting_share(self) -> float | None:
        """Share of the time between steps that went into waiting for data, over the whole run.

        Of sums, not of medians: workers hand over their batches in bursts, so the median step waits
        for nothing while the mean one does.
        """
        rows = self.read().values()
        waited, worked = sum(row.waited_ms for row in rows), sum(row.worked_ms for row in rows)
        return waited / (waited + worked) if worked else None

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _between(self, start: Any, stop: Any) -> float:
        if self.device.type == "cuda":
            return float(start.elapsed_time(stop))
        return float(1000 * (stop - start))


def synchronize(device: torch.device) -> None:
    """Wait for what the device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_unit(step: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Milliseconds per step of that many steps, the device idle before and after."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    synchronize(device)
    return 1000 * (time.perf_counter() - start) / repeats


def peak_memory_mib(device: torch.device | str) -> float:
    """Peak memory in MiB: what torch allocated on a CUDA device, else this process's resident peak."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def limiting_words(share: float | None, repeats: bool = False) -> str:
    """What limits the speed of a run, in words.

    Args:
        share: Share of the time that was spent waiting for data.
        repeats: Whether the data can be told to make more of each file it reads (``repeat_aug``).
    """
    if share is None:
        return "unknown: too few steps were measured"
    if share < 0.1:
        return f"the model: {share:.0%} of the time it waited for data"
    remedy = "raise data.num_workers" + (" or data.repeat_aug" if repeats else "")
    words = f"{share:.0%} of the time the model waited for data: {remedy}"
    return f"data: {words}, or read smaller files" if share >= 0.5 else f"partly data: {words}"
