"""What is looked at before a run starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from tome_lightning.callbacks import ToMeCallback
from tome_lightning.errors import UsageError

if TYPE_CHECKING:
    from tome_lightning.finetune import FineTune

OURS = ("lightning", "tome_lightning", "pytorch_lightning")  # whose callbacks' logs are known


def check_options(trainer: Mapping[str, Any]) -> None:
    """Refuse numbers that Lightning does not check, and options that would have no effect.

    Args:
        trainer: The trainer's options.

    Raises:
        UsageError: For the first of them.
    """
    if trainer.get("default_root_dir") is not None:
        raise UsageError(
            "trainer.default_root_dir is not used: all that a run writes lies in its run directory, "
            f"runs/RECIPE/N by default. Name another one: --run_dir {trainer['default_root_dir']}, and "
            "--trainer.default_root_dir null where a recipe has it."
        )
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        value = trainer.get(name)
        if value is not None and value < 1:
            raise UsageError(f"trainer.{name} must be 1 or more, got {value}.")
    interval = trainer.get("val_check_interval")
    if isinstance(interval, (int, float)) and interval <= 0:
        raise UsageError(
            "trainer.val_check_interval must be above 0 (batches, or a share of an epoch), got "
            f"{interval}. To train without validation: --trainer.limit_val_batches 0."
        )


def slow_in_half_precision(trainer: Any) -> bool:
    """Whether a trainer would emulate bfloat16 or float16 on an x86 CPU before AVX-512."""
    half = str(trainer.precision).endswith("-mixed")
    cpu = trainer.accelerator == "cpu" or (
        trainer.accelerator == "auto" and not torch.accelerator.is_available()
    )
    return half and cpu and torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT")


def check_monitors(trainer: Trainer, callbacks: Sequence[Any], module: FineTune) -> None:
    """Refuse an `EarlyStopping` or `ModelCheckpoint` that waits for what is never logged.

    Lightning tells it after the first epoch.

    Args:
        trainer: Of a fit.
        callbacks: The user's.
        module: What logs.

    Raises:
        UsageError: With the nearest names.
    """
    validates = trainer.limit_val_batches != 0
    names = {*logged(module, validates)}
    by_lightning = any(isinstance(callback, LearningRateMonitor) for callback in callbacks)
    foreign = [c for c in callbacks if type(c).__module__.partition(".")[0] not in OURS]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(callback, (EarlyStopping, ModelCheckpoint)) or monitor is None:
            continue
        known = names | ({"epoch", "step"} if isinstance(callback, ModelCheckpoint) else set())
        rate = by_lightning and monitor.startswith("lr")
        if monitor not in known and not rate and getattr(callback, "strict", True):
            _complain(type(callback).__name__, monitor, sorted(known), foreign, validates)
        higher = validates and monitor in module.val_metrics.keys()  # noqa: SIM118  # with prefix
        if higher and callback.mode == "min" and isinstance(callback, EarlyStopping):
            rank_zero_warn(
                f"EarlyStopping has mode min, but of {monitor} higher is better: the run would end as "
                "soon as it is better. --trainer.callbacks.mode max"
            )


def logged(module: FineTune, validates: bool) -> Iterator[str]:
    """Names that a fit logs: what callbacks may monitor."""
    yield from ("train/loss", *ToMeCallback.LOGGED)
    if validates:
        yield from ("val/loss", "val/samples", *map(str, module.val_metrics.keys()))


def _complain(
    kind: str, monitor: str, known: list[str], foreign: list[Any], validates: bool
) -> None:
    near = difflib.get_close_matches(monitor, known, n=1, cutoff=0.6)
    words = f"{kind} monitors {monitor!r}, which this run does not log"
    if foreign:
        names = ", ".join(type(callback).__name__ for callback in foreign)
        rank_zero_warn(f"{words}, unless {names} does")
        return
    if monitor.startswith("val/") and not validates:
        raise UsageError(f"{words}: trainer.limit_val_batches is 0, so it does not validate.")
    hint = f"Did you mean {near[0]}?" if near else f"It logs {', '.join(known)}."
    raise UsageError(f"{words}. {hint}")
