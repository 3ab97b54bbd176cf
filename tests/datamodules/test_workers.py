"""What a loader's processes are short of is told with the ways out; other errors stay what they are."""

import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules import workers
from datamodules.errors import WorkerError
from datamodules.filelist import FileList
from datamodules.loader import Loader
from datamodules.samples import Samples
from datamodules.workers import (
    cores_of_each,
    deaths_found_between_batches,
    explained,
    started_of,
    too_few_workers,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "has ended"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "has ended"),
        (MemoryError("Caught MemoryError in DataLoader worker process 0."), "no memory left"),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 1.\nTraceback\nRuntimeError: unable "
                "to allocate shared memory(shm) for file </torch_7_8>: No space left on device (28)"
            ),
            "no room for a batch in /dev/shm",
        ),
        (
            RuntimeError("unable to write to file </torch_7_8>: No space left on device (28)"),
            "no room for a batch in /dev/shm",
        ),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (OSError(24, "Too many open files"), "ulimit -n"),
    ],
)
def test_what_a_worker_is_short_of_is_told(error: Exception, told: str) -> None:
    words = explained(error, [], num_workers=4, prefetch=2)
    assert words is not None
    assert told in words
    assert "num_workers" in words
    assert explained(error, [], num_workers=0, prefetch=1) is None


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (-signal.SIGKILL, "ended by SIGKILL, as the system does where memory has run out"),
        (-signal.SIGBUS, "ended by SIGBUS, as happens where /dev/shm is full"),
        (-signal.SIGSEGV, "ended by SIGSEGV, by a fault in a decoder"),
        (3, "ended with code 3"),
    ],
)
def test_how_a_worker_has_ended_is_told(code: int, told: str) -> None:
    processes = [SimpleNamespace(exitcode=end) for end in (None, 0, code)]
    gone = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    assert told in str(explained(gone, processes, num_workers=3, prefetch=2))


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(5, "Input/output error")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert explained(error, [], num_workers=2, prefetch=2) is None


def loader(transform: Callable[[Any], torch.Tensor], workers: int) -> Loader:
    files = FileList([f"{i}" for i in range(4)], [0] * 4)
    samples = Samples("val", "", files, lambda path: 0.0, transform)
    return Loader(samples, batch_size=2, num_workers=workers)


def without_memory(_: Any) -> torch.Tensor:
    raise MemoryError


def broken(_: Any) -> torch.Tensor:
    raise RuntimeError("shapes differ")


def test_a_loader_says_what_its_workers_say() -> None:
    with pytest.raises(WorkerError, match=r"^a loader process has no memory left .*Ways out"):
        list(loader(without_memory, 1))
    with pytest.raises(RuntimeError, match="shapes differ") as other:
        list(loader(broken, 1))
    assert not isinstance(other.value, WorkerError)
    with pytest.raises(MemoryError):
        list(loader(without_memory, 0))


def test_the_handler_that_raises_wherever_one_is_goes_and_others_stay(monkeypatch) -> None:
    monkeypatch.setattr(torch.utils.data._utils.signal_handling, "_SIGCHLD_handler_set", False)
    before = signal.signal(signal.SIGCHLD, mine := lambda *_: None)
    try:
        with deaths_found_between_batches():
            torch.utils.data._utils.signal_handling._set_SIGCHLD_handler()  # as a DataLoader does
            assert workers._of_torch(
                signal.getsignal(signal.SIGCHLD)
            )  # else look what torch does now
        assert signal.getsignal(signal.SIGCHLD) is mine
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize(
    ("masks", "cores"),
    [
        ([range(12)], [12]),
        ([range(96)] * 8, [12] * 8),  # torchrun: all may run anywhere
        ([range(12 * n, 12 * n + 12) for n in range(8)], [12] * 8),  # srun's bound tasks
        ([range(n, n + 1) for n in range(8)], [1] * 8),  # srun that was not told --cpus-per-task
        ([range(n // 4 * 32, n // 4 * 32 + 32) for n in range(8)], [8] * 8),  # bound to a socket
        ([range(4)] * 8, [1] * 8),
        ([range(4), range(2, 6)], [3, 3]),
        ([range(8), range(2)], [7, 1]),
    ],
)
def test_a_core_counts_for_each_process_that_may_run_on_it(masks, cores) -> None:
    assert cores_of_each([tuple(mask) for mask in masks]) == cores


def test_fewer_workers_than_asked_for_are_always_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    assert started_of(8, 8, 8) is None
    assert started_of(0, 1, 1) is None
    told = "1 loader processes instead of num_workers=8, since there are 1 cores for each process"
    assert started_of(8, 1, 100) == told
    assert started_of(8, 6, 3) == (
        "3 loader processes instead of num_workers=8, since an epoch has 3 batches on each process"
    )
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert (started_of(8, 1, 100) or "").startswith(f"{told} (srun itself has to be told")
    assert "srun" not in (started_of(8, 6, 3) or "")


def test_idle_cores_are_told() -> None:
    assert too_few_workers(2, 16) is not None
    assert too_few_workers(4, 16) is None
    assert too_few_workers(0, 1) is None
