"""Step times by a clock that the test turns."""

import os

import pytest
import torch

from tome_lightning.trainer import meter as meter_module
from tome_lightning.trainer.meter import KEPT, StepMeter, limiting_words, peak_memory_mib


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_ms(self, ms: float) -> None:
        self.now += ms / 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter_module.time, "perf_counter", clock)
    return clock


def step(meter: StepMeter, clock: Clock, data_ms: float, step_ms: float, label="a", samples=8):
    clock.pass_ms(data_ms)
    meter.start()
    clock.pass_ms(step_ms)
    meter.stop(label, samples)


def test_medians_are_of_each_label_alone(clock: Clock) -> None:
    meter = StepMeter()
    step(meter, clock, 7, 50, "a")  # nothing ended before it: its 7 ms are no waiting for data
    for data_ms, step_ms, label, samples in [
        (10, 30, "a", 8), (20, 20, "b", 4), (30, 90, "a", 8), (5, 15, "b", 4), (10, 40, "a", 8),
    ]:  # fmt: skip
        step(meter, clock, data_ms, step_ms, label, samples)

    assert meter.median("a", "step_ms") == pytest.approx((40 + 50) / 2)
    assert meter.median("a", "data_ms") == pytest.approx(10)
    assert meter.median("a", "per_s") == pytest.approx(8 / 0.050)  # of 8 / .04, 8 / .12, 8 / .05
    assert meter.median("b", "step_ms") == pytest.approx((20 + 15) / 2)
    assert meter.median("b", "data_ms") == pytest.approx((20 + 5) / 2)
    assert meter.median("b", "per_s") == pytest.approx((4 / 0.040 + 4 / 0.020) / 2)
    rows = meter.read()
    assert [(rows[k].steps, rows[k].samples) for k in "ab"] == [(4, 32), (2, 8)]


def test_one_slow_step_does_not_move_the_median(clock: Clock) -> None:
    meter = StepMeter()
    for step_ms in (10, 10, 60_000, 10, 10):
        step(meter, clock, 1, step_ms)
    assert meter.median("a", "step_ms") == pytest.approx(10)


def test_what_passes_in_a_pause_is_not_waiting_for_data(clock: Clock) -> None:
    meter = StepMeter()
    step(meter, clock, 5, 10)
    step(meter, clock, 5, 10)
    meter.pause()
    clock.pass_ms(60_000)  # a validation
    step(meter, clock, 5, 10)
    step(meter, clock, 5, 10)
    row = meter.read()["a"]
    assert row.steps == len(row.step_ms) == 4
    assert list(row.data_ms) == pytest.approx([5, 5])  # neither the first step nor the one after
    assert list(row.per_s) == pytest.approx([8 / 0.015] * 2)


def test_an_unknown_label_has_no_median(clock: Clock) -> None:
    meter = StepMeter()
    assert meter.median("a", "step_ms") is None
    step(meter, clock, 5, 10)
    assert meter.median("a", "step_ms") == pytest.approx(10)
    assert meter.median("a", "data_ms") is None  # one step alone: nothing is known of the data


def test_only_recent_steps_are_kept_but_all_are_counted(clock: Clock) -> None:
    meter = StepMeter()
    for _ in range(2 * KEPT):
        step(meter, clock, 1, 100)
    for _ in range(KEPT):
        step(meter, clock, 1, 10)
    row = meter.read()["a"]
    assert (row.steps, row.samples) == (3 * KEPT, 8 * 3 * KEPT)
    assert {len(row.step_ms), len(row.data_ms), len(row.per_s)} == {KEPT}
    assert meter.median("a", "step_ms") == pytest.approx(10)
    assert not meter._pending  # read: nothing else grows with the run


def test_reading_twice_counts_nothing_twice(clock: Clock) -> None:
    meter = StepMeter()
    step(meter, clock, 1, 10)
    meter.read()
    assert meter.read()["a"].steps == 1


@pytest.mark.parametrize(
    ("share", "start"),
    [
        (0.0, "the model: 0%"),
        (0.09, "the model: 9%"),
        (0.1, "partly data: 10%"),
        (0.49, "partly data: 49%"),
        (0.5, "data: 50%"),
        (0.99, "data: 99%"),
        (None, "unknown"),
    ],
)
@pytest.mark.parametrize("repeats", [True, False])
def test_what_limits_a_run_is_said_in_words(share: float | None, start: str, repeats: bool) -> None:
    words = limiting_words(share, repeats)
    assert words.startswith(start)
    data = "data: " in words
    assert ("num_workers" in words) == data  # a way out wherever data is the reason
    assert ("repeat_aug" in words) == (data and repeats)


def test_waiting_counts_bursts_that_a_median_does_not_see(clock: Clock) -> None:
    """Four workers hand over four batches at once: three of four steps wait for nothing."""
    meter = StepMeter()
    assert meter.waiting_share() is None
    step(meter, clock, 0, 10)
    for _ in range(6):
        step(meter, clock, 160, 10)
        for _ in range(3):
            step(meter, clock, 0, 10)
    assert meter.median("a", "data_ms") == pytest.approx(0, abs=1e-6)
    assert meter.waiting_share() == pytest.approx(160 / 200)


def test_peak_memory_holds_what_was_touched_and_is_no_more_than_the_machine_has() -> None:
    touched = torch.ones(64 * 2**20 // 4)  # 64 MiB
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    peak = peak_memory_mib("cpu")
    assert touched.nbytes / 2**20 <= peak <= total
    del touched
    assert peak_memory_mib("cpu") >= peak  # a peak does not come down


@pytest.mark.gpu
def test_cuda_steps_are_timed_on_the_stream_without_waiting() -> None:
    meter = StepMeter("cuda")
    x = torch.randn(2048, 2048, device="cuda")
    for _ in range(3):
        meter.start()
        for _ in range(10):
            x = (x @ x).tanh()
        meter.stop("a", 8)
    torch.cuda.synchronize()
    row = meter.read()["a"]
    assert row.steps == 3
    assert min(row.step_ms) > 0
    assert peak_memory_mib("cuda") >= x.nbytes / 2**20
