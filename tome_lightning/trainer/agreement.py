"""Numbers that all processes of a run exchange and read at the same step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_device(numbers: Sequence[float], device: torch.device) -> Tensor:
    """Numbers of the host as float32 ``[n]`` on a device, without waiting for what is queued there.

    A copy out of pageable memory waits for the stream before it begins, whatever ``non_blocking`` says.
    """
    host = torch.tensor(numbers, dtype=torch.float32)
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def of_all(value: Any) -> list[Any]:
    """Gather a plain value of each process, in the order of ranks; every process has to call it."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


class Agreement:
    """The largest of each number over all processes, read by all of them at the same step.

    To read a CUDA tensor is to wait for all that was queued before it. There `exchange` returns what
    the call before has exchanged, which the device is long past, and zeros at first; elsewhere it
    returns what it has just exchanged.
    """

    def __init__(self) -> None:
        self._under_way: tuple[Tensor, torch.cuda.Event] | None = None

    def exchange(self, numbers: Tensor, wait: bool = False) -> list[float]:
        """The maximum of each of `numbers` ``[n]``, on the device of the run; every process calls.

        With `wait` it is what has just been exchanged, on CUDA as well.
        """
        numbers = numbers.float()
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
        if wait or numbers.device.type != "cuda":
            return numbers.tolist()
        before = self.finish()
        host = torch.empty(numbers.shape, pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(numbers.device))
        self._under_way = host, event
        return before or [0.0] * len(numbers)

    def finish(self) -> list[float]:
        """Wait for the exchange that no one has read yet, and read it; an empty list if there is none."""
        if self._under_way is None:
            return []
        host, event = self._under_way
        self._under_way = None
        event.synchronize()
        return host.tolist()
