"""Callbacks that take the time within Lightning's own loop, and end it."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import SimpleProfiler

from tome_lightning.callbacks import as_finetune
from tome_lightning.errors import UsageError
from tome_lightning.finetune import FineTune
from tome_lightning.trainer.meter import StepMeter, synchronize, time_unit

WARM = 2  # rounds that are not counted
# What a hook of a step may be called: neither set-up nor what the bare step does as well.
HOOKS = (
    "on_train_batch_",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


class Measured(Exception):
    """Enough is measured: ends a run between two steps, so that it neither validates nor saves."""


class RealRun(Callback):
    """Measures the steps of a run as it is.

    Args:
        warm: Batches that are not counted: what workers have fetched ahead would flatter them.
        batches: Batches that are.
        loaded: A batch as the loader gives it, to time its way to the device; None for the first.

    Attributes:
        batch: The last one, as the step gets it.
        prepare_ms: What it took to bring `loaded` to the device.
    """

    def __init__(self, warm: int, batches: int, loaded: Any) -> None:
        self.warm = warm
        self.batches = batches
        self.loaded = loaded
        self.batch: Any = None
        self.prepare_ms = 0.0
        self.meter = StepMeter()
        self._seen = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.meter = StepMeter(pl_module.device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.meter.pause()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._seen == self.warm + self.batches:
            synchronize(pl_module.device)
            self._time_way_to_device(trainer, pl_module.device)
            raise Measured
        self.batch = batch
        self.meter.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen += 1
        self.meter.stop(self._seen > self.warm, len(batch[0]))

    def means(self) -> tuple[float, float]:
        """Milliseconds of a step, and of waiting for its data."""
        row = self.meter.read()[True]
        total = row.waited_ms + row.worked_ms
        share = row.waited_ms / total if total else 0.0  # epochs of a single batch
        step = statistics.fmean(row.step_ms)
        return step, step * share / (1 - share)

    def _time_way_to_device(self, trainer: Trainer, device: torch.device) -> None:
        def prepare() -> None:
            trainer.strategy.batch_to_device(self.loaded, device, 0)

        self.prepare_ms = statistics.median(time_unit(prepare, 1, device) for _ in range(5))


class FixedRun(Callback):
    """Steps on one batch from memory, in turn: bare dense, bare merged, and Lightning's own.

    A bare step is zero_grad, forward, loss, backward and optimizer step, and clipping where the run
    clips. What Lightning and the callbacks add to it is on a CPU what lies outside of these calls in
    the same step, which no other load can blur; on CUDA, where calls only queue work, the difference
    between so many steps of either kind without waiting for the device in between.

    Args:
        rounds: Rounds that are counted.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.meter = StepMeter()  # its waiting is Lightning's own, since data is at hand
        self.profiler = SimpleProfiler()
        self.times: dict[str, list[float]] = {
            name: [] for name in ("dense", "merged", "optimizer", "trainer", "inside")
        }
        self._at_once = 1
        self._seen = 0
        self._began = self._inside = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.meter = StepMeter(pl_module.device)
        self._at_once = 5 if pl_module.device.type == "cuda" else 1
        self._watch(trainer, as_finetune(pl_module))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.meter.start()
        if self._seen % self._at_once:
            return
        device = pl_module.device
        synchronize(device)
        if self._seen:
            passed = 1000 * (time.perf_counter() - self._began)
            self.times["trainer"].append(passed / self._at_once)
            self.times["inside"].append(1000 * self._inside / self._at_once)
        if len(self.times["trainer"]) == WARM + self.rounds:
            raise Measured
        self._time_bare(trainer, as_finetune(pl_module), batch)
        self._inside, self._began = 0.0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen += 1
        self.meter.stop(True, len(batch[0]))

    def median(self, name: str) -> float:
        """Milliseconds of a dense or merged step, or of the optimizer's."""
        return statistics.median(self.times[name][WARM:])

    def overhead(self) -> float:
        """Milliseconds that Lightning and the callbacks add to a merged step."""
        other = "merged" if self.meter.device.type == "cuda" else "inside"
        pairs = zip(self.times["trainer"][WARM:], self.times[other][WARM:], strict=True)
        return max(0.0, statistics.median(whole - part for whole, part in pairs))

    def gap(self) -> float:
        """Milliseconds between two steps that are no waiting for data."""
        return self.meter.median(True, "data_ms") or 0.0

    def hooks(self) -> dict[str, float]:
        """Milliseconds of the host in each callback and in the module's hooks, most first."""
        sums: dict[str, float] = {}
        for action, seconds in self.profiler.recorded_durations.items():
            kind, _, name = action.partition("]")
            owner, _, hook = name.rpartition(".")
            ours = kind in ("[Callback", "[LightningModule") and hook.startswith(HOOKS)
            if ours and not owner.startswith(type(self).__name__) and len(seconds) > WARM:
                owner = owner.partition("{")[0]
                sums[owner] = sums.get(owner, 0.0) + 1000 * statistics.fmean(seconds[WARM:])
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def _time_bare(self, trainer: Trainer, module: FineTune, batch: Any) -> None:
        optimizer: Any = trainer.optimizers[0]
        own = module.model.r
        for name, r in (("dense", 0), ("merged", own)):
            module.model.r = r
            try:
                ms = time_unit(
                    lambda: _bare_step(trainer, module, optimizer, batch),
                    self._at_once,
                    module.device,
                )
            except torch.OutOfMemoryError as error:
                raise UsageError(
                    f"The {name} model's step does not fit into memory with {len(batch[0])} samples, "
                    "so there is nothing to compare. Give a smaller --data.batch_size."
                ) from error
            self.times[name].append(ms)
        for group in optimizer.param_groups:  # not the same step many times over
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.zero_()
        self.times["optimizer"].append(time_unit(optimizer.step, self._at_once, module.device))

    def _watch(self, trainer: Trainer, module: FineTune) -> None:
        """Add up the time inside of what a bare step does as well."""
        optimizer: Any = trainer.optimizers[0]
        step = self._timed(optimizer.step)

        @functools.wraps(optimizer.step)  # with the mark by which the scheduler knows it
        def after_closure(closure: Callable[[], Any] | None = None) -> Any:
            loss = closure() if closure is not None else None  # Lightning's holds forward and all
            step()
            return loss

        optimizer.step = after_closure
        names = ["loss", "backward", "optimizer_zero_grad"]
        if trainer.gradient_clip_val:
            names.append("configure_gradient_clipping")
        for name in names:
            setattr(module, name, self._timed(getattr(module, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self._inside += time.perf_counter() - start
            return result

        return timed


def _bare_step(trainer: Trainer, module: FineTune, optimizer: Any, batch: Any) -> None:
    scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
    optimizer.zero_grad()
    with trainer.precision_plugin.forward_context():
        loss = module.loss(batch[0], batch[1])
    (loss if scaler is None else scaler.scale(loss)).backward()
    if scaler is not None:
        scaler.unscale_(optimizer)
    if trainer.gradient_clip_val:
        module.clip_gradients(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
