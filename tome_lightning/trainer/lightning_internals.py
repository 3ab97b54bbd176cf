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


def epochs_begun(trainer: Trainer) -> int:
    """Epochs of a fit, the present one included."""
    return int(cast(Any, trainer.fit_loop).epoch_progress.current.started)


def batches_trained(trainer: Trainer) -> int:
    """Batches of this epoch that a fit has trained on."""
    return int(cast(Any, trainer.fit_loop.epoch_loop).batch_progress.current.processed)


def validation_due(trainer: Trainer) -> bool:
    """Whether Lightning is to validate, or to validate to the end, before the next batch."""
    loop: Any = trainer.fit_loop.epoch_loop
    if trainer.validating:
        seen = loop.val_loop.batch_progress
        return not (seen.is_last_batch and seen.current.completed == seen.current.ready)
    if loop.batch_progress.current.completed == loop.batch_progress.current.processed:
        return False  # not in on_train_batch_end: what was due is done
    return wants_validation(trainer)


def set_loops(
    fit_loop: dict[str, Any], epoch: int, batches: int, epoch_batches: int, steps: int, due: bool
) -> None:
    """Make the saved state of Lightning's fit loop say where a run stands.

    Between batches it looks as if saved in `on_train_batch_end`, which counts the batch as processed but
    not as completed (after an epoch's last batch Lightning goes on with the next epoch). With a
    validation due it looks as if saved in the middle of one, which Lightning begins anew.

    Args:
        fit_loop: `checkpoint["loops"]["fit_loop"]`, changed in place.
        epoch: As `Progress` has it, like the next three.
        batches: Of this run's, see `Progress.moved_to`.
        epoch_batches: Of this run's.
        steps: Since the start.
        due: Whether a validation is, only where `repeats_validation`.
    """
    before, last = epoch * epoch_batches, batches == epoch_batches
    over = int(last and not due)  # the next epoch has as good as begun; no hook counts it later

    fit_loop["epoch_progress"] = {
        "total": _counts(epoch + 1, epoch),
        "current": _counts(epoch + 1 + over, epoch),
    }
    open_batch = 0 if due else 1
    fit_loop["epoch_loop.batch_progress"] = {
        "total": _counts(before + batches, before + batches, open_batch),
        "current": _counts(batches, batches, open_batch),
        "is_last_batch": last,
    }
    fit_loop["epoch_loop.val_loop.batch_progress"] = {
        "total": _counts(int(due), 0),
        "current": _counts(int(due), 0),
        "is_last_batch": False,
    }
    # Lightning adds one on resuming, or after the validation.
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - 1
    if fit_loop["state_dict"].get("combined_loader"):  # not every loader can go on in mid-epoch
        position = {"epoch": epoch + over, "batches": 0 if over else batches}
        fit_loop["state_dict"]["combined_loader"] = [position]


def _counts(begun: int, processed: int, open_: int = 0) -> dict[str, int]:
    completed = processed - open_
    return {"ready": begun, "started": begun, "processed": processed, "completed": completed}


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
