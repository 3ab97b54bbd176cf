"""Loader processes end with the training process, soon, whatever they are doing."""

import atexit
import multiprocessing
import multiprocessing.util
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from datamodules import leaving
from datamodules.leaving import outlive_signals
from datamodules.loader import Loader

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
PATIENCE = 15.0


class Numbers(Dataset[int]):
    """0 to 19, of which those after the first hang if asked to."""

    def __init__(self, hangs: bool) -> None:
        self.hangs = hangs

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        while self.hangs and index:
            time.sleep(0.2)
        return index


def training(hangs: bool, persistent: bool, end: Callable[[Any], int]) -> tuple[int, list[int]]:
    """A process that takes a batch, and does what `end` says with the rest; it and its workers."""
    there, here = os.pipe()
    pid = os.fork()
    if not pid:
        atexit._clear()  # of the tests, as are loader processes that other tests have left
        multiprocessing.process._children.clear()
        atexit.register(multiprocessing.util._exit_function)
        code = 99
        try:
            loader = Loader(
                Numbers(hangs), num_workers=2, worker_init_fn=outlive_signals,
                persistent_workers=persistent,
            )  # fmt: skip
            batches = iter(loader)
            next(batches)
            workers = [str(child.pid) for child in multiprocessing.active_children()]
            os.write(here, " ".join(workers).encode())
            code = end(batches)
            atexit._run_exitfuncs()
        finally:
            os._exit(code)
    os.close(here)
    told = os.read(there, 100)  # not to its end: workers that hang hold the pipe open
    os.close(there)
    return pid, [int(word) for word in told.split()]


def wait_until_gone(pids: list[int]) -> None:
    until = time.monotonic() + PATIENCE
    while left := [pid for pid in pids if running(pid)]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{len(left)} of {len(pids)} processes are still there")
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("hangs", "persistent"), [(False, False), (True, True)])
def test_the_training_process_does_not_wait_for_them_at_its_exit(hangs, persistent):
    pid, workers = training(hangs, persistent, lambda batches: 0)
    assert len(workers) == 2
    wait_until_gone([pid])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    wait_until_gone(workers)


def test_they_notice_in_the_midst_of_a_sample_that_it_was_killed(monkeypatch):
    monkeypatch.setattr(leaving, "LOOK", 0.1)
    pid, workers = training(True, True, lambda batches: os.kill(os.getpid(), signal.SIGKILL) or 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    wait_until_gone(workers)


def test_they_outlive_one_signal_of_a_scheduler_and_the_run_goes_on():
    def signalled(batches: Any) -> int:
        next(batches)  # of the second one: both are past their start
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGTERM)
        return sum(1 for _ in batches)

    pid, _ = training(False, False, signalled)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 18


def test_processes_of_others_are_left_alone():
    context = multiprocessing.get_context("fork")
    other = context.Process(target=time.sleep, args=(60,), daemon=True)
    other.start()
    leaving.end_workers()
    assert other.is_alive()
    other.kill()
    other.join()
