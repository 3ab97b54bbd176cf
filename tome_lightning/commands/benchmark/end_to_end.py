"""Where the time of a recipe's run goes: its data, its model, its optimizer, Lightning, merging."""

from __future__ import annotations

import contextlib
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple, cast

from lightning.pytorch import Callback

from datamodules.workers import usable_cores
from tome_lightning.callbacks import ToMeCallback
from tome_lightning.commands.benchmark.advice import EndToEnd
from tome_lightning.commands.benchmark.prepared import PreparedRun
from tome_lightning.commands.benchmark.probes import FixedRun, Measured, RealRun
from tome_lightning.commands.prepared import callback_of, own_environment
from tome_lightning.screen import quiet, say
from tome_lightning.tome.macs import macs
from tome_lightning.trainer.lightning_internals import callbacks_of

__all__ = ["EndToEnd", "measure"]

DATA_S = 3.0  # seconds of the loader alone, at least
LONG_S = 30.0  # seconds after which it is enough, however few batches came


def measure(argv: list[str], steps: int = 20) -> EndToEnd:
    """Run a recipe as ``fit`` would, in short, and find out what its time goes into.

    One process; r as at the end of its schedule. Nothing is validated, and nothing is left behind.

    Args:
        argv: What would follow ``fit`` on the command line.
        steps: Optimizer steps of the real run, and steps of each kind on a batch from memory.

    Raises:
        Exception: What ``fit`` would raise; ``__main__`` makes one line of it.
    """
    with tempfile.TemporaryDirectory(prefix="tome_lightning-") as folder, own_environment():
        _say("the data alone")
        real = PreparedRun(argv, Path(folder, "run"))
        data: Any = real.datamodule
        loading = _data_alone(data, steps)
        _say("the run itself")
        warm = max(3, loading.workers * loading.prefetch)
        accumulated = int(real.trainer.accumulate_grad_batches)
        at_once = max(1, loading.workers)
        batches = -(-steps * accumulated // at_once) * at_once
        run = RealRun(warm, batches, loading.batch)
        _run(real, run)
        accumulated = int(real.trainer.accumulate_grad_batches)  # as setup() left it
        _say("steps without data, bare and in the Trainer")
        with quiet():
            still = PreparedRun(argv, Path(folder, "still"), run.batch)
        fixed = FixedRun(steps if run.batch[0].device.type == "cpu" else max(3, steps // 5))
        cast(Any, still.trainer).profiler = fixed.profiler
        _run(still, fixed)
        return _together(real, loading, run, fixed, accumulated)


class _Loading(NamedTuple):
    """The loader alone.

    Attributes:
        per_s: Samples a second.
        workers: Its processes.
        prefetch: Batches that each fetches ahead.
        batch: The last one it gave.
    """

    per_s: float
    workers: int
    prefetch: int
    batch: Any


def _data_alone(data: Any, steps: int) -> _Loading:
    """Draw batches as fast as they come, once those fetched ahead are used up."""
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    workers = int(getattr(loader, "num_workers", 0))
    prefetch = int(getattr(loader, "prefetch_factor", None) or 0)
    batches = _endless(loader)
    for _ in range(1 + workers * prefetch):
        batch = next(batches)
    # Workers are done in turn, or all at once: only whole rounds of them tell their speed.
    per_round, samples, start = max(1, workers), 0, time.perf_counter()
    for count in itertools.count(1):
        batch = next(batches)
        samples += len(batch[0])
        passed = time.perf_counter() - start
        enough = (count >= steps and passed >= DATA_S) or passed >= LONG_S
        if enough and count % per_round == 0:
            break
    batches.close()
    return _Loading(samples / passed, workers, prefetch, batch)


def _endless(loader: Any) -> Generator[Any, None, None]:
    for epoch in itertools.count():
        sampler: Any = getattr(loader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        yield from loader


def _run(prepared: PreparedRun, probe: Callback) -> None:
    """Fit until the probe has seen enough, with the progress bar at work but out of sight."""
    trainer = prepared.trainer
    callbacks_of(trainer).append(probe)
    with contextlib.suppress(Measured), contextlib.redirect_stdout(io.StringIO()), quiet():
        trainer.fit(prepared.model, datamodule=prepared.datamodule)


def _together(
    real: PreparedRun, loading: _Loading, run: RealRun, fixed: FixedRun, accumulated: int
) -> EndToEnd:
    model, trainer = real.model.model, real.trainer
    tome = callback_of(trainer, ToMeCallback)
    if tome.train_r is not None:
        model.r = tome.train_r
    tokens, plan = model.train_tokens, model.plan(model.train_tokens)
    dense = macs(model, [0] * len(plan), tokens).total
    step, wait = run.means()
    return EndToEnd(
        recipe=real.recipe or "no recipe",
        device=fixed.meter.device.type,
        precision=str(trainer.precision),
        batch=len(run.batch[0]),
        r=statistics.fmean(plan),
        tokens_in=tokens,
        tokens_out=tokens - sum(plan),
        steps=run.batches,
        accumulate=accumulated,
        workers=loading.workers,
        cores=len(usable_cores()),
        processes=real.processes,
        repeats=hasattr(real.datamodule, "repeat_aug"),
        mac_ratio=dense / macs(model, plan, tokens).total,
        data_per_s=loading.per_s,
        prepare_ms=run.prepare_ms,
        dense_ms=fixed.median("dense"),
        merged_ms=fixed.median("merged"),
        optimizer_ms=fixed.median("optimizer"),
        overhead_ms=fixed.overhead(),
        hooks_ms=fixed.hooks(),
        period_ms=step + wait,
        wait_ms=max(0.0, wait - fixed.gap()),
    )


def _say(what: str) -> None:
    say(f"measuring {what} ...", sys.stderr)
