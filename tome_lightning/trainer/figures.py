"""When a step's loss and metrics are read from the device, and over which processes they are averaged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tome_lightning.trainer.lightning_internals import writes_logs


def at_each_batch(trainer: Any) -> bool:
    """Whether to log with ``prog_bar``, for which Lightning reads the values at each batch.

    To read a CUDA tensor is to wait for the whole step. Our own bar reads at its refreshes instead
    (``reads_figures``), and without a bar nobody reads; another bar knows no other way.
    """
    bar = trainer.progress_bar_callback
    return bar is not None and not getattr(bar, "reads_figures", False)


def to_log(trainer: Any, loss: Tensor) -> Tensor:
    """A batch's loss ``[]`` as it is logged, detached.

    At a step that loggers write it is the mean over all processes, which have batches of one size; else
    this process's own, since to ask the others costs a message.
    """
    count = trainer.world_size if torch.distributed.is_initialized() else 1
    if count == 1 or not writes_logs(trainer):
        return loss.detach()
    total = loss.detach().float().clone()
    torch.distributed.all_reduce(total)  # the device adds; the host goes on
    return total / count
