"""Loader processes: how many there are cores for, and what helps those that end before their time."""

import os
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

SHARED = Path("/dev/shm")  # where batches are on their way from a worker
_GONE = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)")
_NO_ROOM = re.compile(
    r"shared memory|unable to (write|mmap|resize|open|allocate)\b.* file </torch_"
)
_NO_FILES = re.compile(r"Too many open files|received 0 items of ancdata")


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may run on: those that a container, `taskset` or srun leaves it."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux only
    return tuple(sorted(usable(0))) if usable else tuple(range(os.cpu_count() or 1))


def cores_of_each(masks: Sequence[Iterable[int]]) -> list[int]:
    """How many cores each process of one machine has for itself, at least 1.

    A core counts for each of the processes that may run on it by an equal part: a task that srun has
    bound to cores of its own has all of them, processes that may run anywhere share the machine.

    Args:
        masks: Of each process the cores that it may run on.
    """
    sharing = Counter(core for mask in masks for core in mask)
    return [max(1, int(sum(Fraction(1, sharing[core]) for core in mask))) for mask in masks]


def started_of(wanted: int, cores: int, batches: int) -> str | None:
    """The message where fewer loader processes start than are asked for; None if all do."""
    if wanted <= min(cores, batches):
        return None
    if batches <= cores:
        why = f"an epoch has {batches} batches on each process"
    else:
        why = f"there are {cores} cores for each process"
        if any(name in os.environ for name in ("SLURM_STEP_ID", "SLURM_STEPID")):
            why += " (srun itself has to be told --cpus-per-task, not sbatch alone)"
    return f"{min(cores, batches)} loader processes instead of num_workers={wanted}, since {why}"


def too_few_workers(asked: int, cores: int) -> str | None:
    """The message where cores lie idle that could load; None if that is not so."""
    if asked >= min(4, cores // 2):
        return None
    return (
        f"num_workers={asked} will probably keep the model waiting: there are {cores} cores for this "
        f"process; try num_workers={min(8, cores)}"
    )


@contextmanager
def deaths_found_between_batches() -> Iterator[None]:
    """Undo what the first `DataLoader` does to SIGCHLD: raise, wherever the training process is.

    In the midst of an optimizer step that costs all steps since the last checkpoint. A loader looks after
    its workers by itself whenever it has waited 5 seconds for a batch.
    """
    child = getattr(signal, "SIGCHLD", None)  # none on Windows
    before = None if child is None else signal.getsignal(child)
    yield
    if child is None or threading.current_thread() is not threading.main_thread():
        return
    if _of_torch(signal.getsignal(child)):
        signal.signal(child, signal.SIG_DFL if before is None or _of_torch(before) else before)


def _of_torch(handler: Any) -> bool:
    return getattr(handler, "__module__", "") == "torch.utils.data._utils.signal_handling"


def explained(error: Exception, workers: list[Any], num_workers: int, prefetch: int) -> str | None:
    """The message where a `DataLoader`'s workers were short of something; None for another error.

    Args:
        error: What was raised.
        workers: Its processes.
        num_workers: How many it was to have.
        prefetch: Batches that each prepares in advance.
    """
    if not num_workers:
        return None
    words = " ".join(str(error).split())
    if _NO_FILES.search(words):
        return (
            "the loader processes have too many files open to hand over a batch. Raise the limit before "
            f"the run (ulimit -n 65536), or use fewer than data.num_workers {num_workers}."
        )
    if isinstance(error, MemoryError):
        what = "a loader process has no memory left"
    elif _NO_ROOM.search(words):
        what = f"a loader process has no room for a batch in {SHARED}"
    elif _GONE.search(words):
        what = _ended(workers)
    else:
        return None
    fewer = f"{num_workers // 2} instead of {num_workers}"
    return (
        f"{what}{_room()}. Ways out: --data.num_workers {fewer} (0 loads in the training process), "
        f"--data.prefetch_factor 1 instead of {prefetch}, a smaller batch, more memory for the job; in a "
        "container more shared memory (docker run --ipc=host or --shm-size=16g)."
    )


def _ended(workers: list[Any]) -> str:
    """How the workers that are gone have ended."""
    codes = [code for worker in workers if (code := worker.exitcode)]
    if not codes:
        return "a loader process has ended"
    if codes[0] > 0:
        return f"a loader process has ended with code {codes[0]}"
    name = signal.Signals(-codes[0]).name
    why = {
        "SIGKILL": ", as the system does where memory has run out",
        "SIGBUS": f", as happens where {SHARED} is full",
        "SIGSEGV": ", by a fault in a decoder or another library",
    }
    return f"a loader process was ended by {name}{why.get(name, '')}"


def _room() -> str:
    try:
        usage = shutil.disk_usage(SHARED)
    except OSError:
        return ""
    return f" ({SHARED} has {usage.free / 2**20:,.0f} of {usage.total / 2**20:,.0f} MiB free)"
