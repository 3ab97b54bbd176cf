"""What we ask of Lightning and torch beyond what they promise: all of it is here.

A new Lightning or torch may move or drop any of these names; tests/trainer/test_lightning_internals.py
names each and fails where one is gone. Of Lightning's trainer also what is public but set where type
checkers do not see it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.optim.swa_utils import AveragedModel

DYNAMO: Any = torch._dynamo.config
"""Settings of torch.compile, among them how many graphs it makes of one function."""


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The trainer's own list: what is appended is called."""
    return cast(Any, trainer).callbacks


def log_every_n_steps(trainer: Trainer) -> int:
    """The trainer's option; 0 where nothing is logged."""
    return int(cast(Any, trainer).log_every_n_steps)


def writes_logs(trainer: Trainer) -> bool:
    """Whether loggers write at this step."""
    connector = cast(Any, trainer)._logger_connector
    return bool(connector.should_update_logs or cast(Any, trainer).fast_dev_run)


def accumulates(trainer: Trainer) -> bool:
    """Whether the batch that is over was no optimizer step."""
    return trainer.fit_loop._should_accumulate()


def wants_validation(trainer: Trainer) -> bool:
    """Whether Lightning validates after the batch that is over, by its own options."""
    fit: Any = trainer.fit_loop
    check = fit.epoch_loop._should_check_val_fx
    return bool(trainer.enable_validation and check(fit._data_fetcher))


def validates_by_clock(trainer: Trainer) -> bool:
    """Whether ``val_check_interval`` is a time; then the trainer has no attribute of that name."""
    return getattr(trainer, "_val_check_time_interval", None) is not None


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep Lightning from handling signals in this run.

    Its SIGTERM handler waits for the other processes, wherever in a batch this one is.
    """
    connector: Any = getattr(trainer, "_signal_connector", None)
    if hasattr(connector, "register_signal_handlers"):
        connector.register_signal_handlers = _nothing


def ask_nobody_for_sigterm(trainer: Trainer) -> None:
    """Keep Lightning from asking before each batch whether the first process has had a SIGTERM.

    It waits for the device to know.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    if hasattr(loop, "_broadcast_sigterm_tensor"):
        loop._broadcast_sigterm_tensor = _nothing


def time_limit(timer: Timer) -> float | None:
    """Seconds after which a `Timer` ends a run."""
    return timer._duration


def ddp_options(strategy: DDPStrategy) -> dict[str, Any]:
    """What torch's DDP is called with; may be changed before the run starts."""
    return strategy._ddp_kwargs


def average_of(callback: Callback) -> AveragedModel | None:
    """The average that a callback of Lightning's keeps; None of others, and before it has one."""
    if not isinstance(callback, WeightAveraging):
        return None
    return callback._average_model


def has_own_device(callback: WeightAveraging) -> bool:
    """Whether the user has named a device for the average."""
    return bool(callback._device)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a forward pass in training changes buffers."""
    return any(isinstance(part, nn.modules.batchnorm._NormBase) for part in module.modules())


def is_compiled(model: nn.Module) -> bool:
    """Whether ``model.compile()`` was called."""
    return getattr(model, "_compiled_call_impl", None) is not None


def divides_no_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Have Lightning clip the gradients of a fused optimizer that runs without a scaler.

    It takes every fused optimizer for one that divides gradients by the scale itself, after clipping.
    """
    cast(Any, optimizer)._step_supports_amp_scaling = False


def _nothing() -> None:
    pass
