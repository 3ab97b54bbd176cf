"""A device, or a loader process, that is out of memory: one message instead of a stack of calls."""

from __future__ import annotations

import re

import torch

from datamodules.errors import WorkerError

WAYS_OUT = (
    "halve --data.batch_size (with --keep_effective_batch the steps stay the same); "
    "--model.grad_checkpointing true; a larger --model.r; --trainer.precision bf16-mixed; "
    "for evaluation --data.eval_batch_size"
)


def out_of_memory(error: BaseException | None) -> str | None:
    """The message for a user whose device has no memory left; None for another error.

    Args:
        error: What was raised, or what lies behind it.
    """
    while error is not None:
        if isinstance(error, WorkerError):
            return str(error)
        words = asked_for(error)
        if words is not None:
            return f"out of memory: {words}. Ways out, the cheapest first: {WAYS_OUT}."
        error = error.__cause__ or error.__context__
    return None


def asked_for(error: BaseException) -> str | None:
    """Which memory is used up, and how much more was asked for; None for another error."""
    words = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        asked = re.search(r"Tried to allocate ([\d.]+ \wiB)", words)
        device = re.search(r"GPU (\d+)", words)
        free = re.search(r"of which ([\d.]+ \wiB) is free", words)
        return (
            (f"GPU {device[1]}" if device else "the GPU")
            + (f" was asked for {asked[1]}" if asked else " has none left")
            + (f" and had {free[1]} free" if free else "")
        )
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in words:
        size = re.search(r"allocate (\d+) bytes", words)
        return (
            f"this machine was asked for {int(size[1]) / 2**30:.1f} GiB" if size else "this machine"
        )
    return None
