"""One process's trouble ends all of them, soon, and is told once."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tome_lightning.launch import launched

TORCH_DISTRIBUTED = Path(torch.distributed.__file__).parent
PATIENCE = 20.0  # seconds that processes have to end by themselves
# What gloo, NCCL and the store say when the other end of a connection is gone: nothing else they say
# (shapes that differ, an operation that timed out) tells that the cause stands in another process's log.
LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|(closed|reset) by peer|broken pipe"
    r"|remote process exited|recvValue failed|failed to (recv|send)",
    re.IGNORECASE,
)
COLLECTIVE = re.compile(r"gloo|pair\.cc|NCCL|TCPStore")  # of the backward pass, by way of autograd


def rank() -> int:
    """The number of this process, 0 the first, before any strategy is set up."""
    if os.environ.get("RANK", "").isdigit():  # torchrun, which may itself run under SLURM
        names = ["RANK"]
    else:
        names = ["SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"]
    # no process has a larger number on its machine than over all machines
    numbers = [os.environ.get(name, "") for name in (*names, "LOCAL_RANK")]
    return max([0, *(int(number) for number in numbers if number.isdigit())])


def one_of_several() -> bool:
    """Whether there are other processes in this run."""
    if torch.distributed.is_initialized():  # Lightning takes WORLD_SIZE back as it tears down
        return torch.distributed.get_world_size() > 1
    return launched().processes > 1


def started_by_first() -> bool:
    """Whether the first process has started this one, and neither torchrun nor SLURM nor a user did.

    The first one is killed within seconds once such a process ends with anything but 0.
    """
    elsewhere = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "RANK"))
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 and not elsewhere


def lost_peer(error: BaseException | None) -> bool:
    """Whether an error certainly says no more than that another process is gone.

    Then the other one has told the cause; of any other error the traceback is the cause.
    """
    while error is not None:
        if isinstance(error, RuntimeError) and LOST.search(str(error)) and _of_a_collective(error):
            return True
        error = error.__cause__
    return False


def _of_a_collective(error: RuntimeError) -> bool:
    if isinstance(error, torch.distributed.DistError) or COLLECTIVE.search(str(error)):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(TORCH_DISTRIBUTED)


class Peers(Callback):
    """Leaves no process behind when another one ends.

    Lightning ends the first process when one that it has started fails. This is the other half: the
    started ones end with the first, also when that was killed.
    """

    def __init__(self) -> None:
        self._watched = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if started_by_first() and not self._watched:
            self._watched = True
            watch = threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True)
            watch.start()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        started: list[Any] = getattr(getattr(trainer.strategy, "launcher", None), "procs", [])
        if not started:
            return
        if not isinstance(exception, KeyboardInterrupt):
            end = threading.Thread(target=_end_all, args=(started,), daemon=True)
            end.start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    told = f"error: process {rank()} stops: the first process of the run is gone"
    print(told, file=sys.stderr, flush=True)
    os._exit(1)  # the main thread may be waiting in a collective that no signal ends


def _end_all(processes: list[subprocess.Popen[Any]]) -> None:
    until = time.monotonic() + PATIENCE
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        if process.poll() is None:
            process.kill()
