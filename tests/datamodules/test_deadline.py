"""Calls that hang are given up, in this process and in loader workers."""

import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from datamodules.deadline import Deadline, ReadTimeout
from datamodules.errors import DataError
from datamodules.videos.decoding import open_video

AMPLE = 60  # seconds: a bound that only a hang passes


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[str]:
    """A named pipe that nobody writes to: opening it for reading hangs, like a dead disk."""
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    yield str(path)
    writer = os.open(path, os.O_RDWR)  # lets the threads go that still wait
    time.sleep(0.1)
    os.close(writer)


def open_with(library: str, path: str) -> Any:
    if library == "av":
        return pytest.importorskip("av").open(path)
    if library == "decord":
        return pytest.importorskip("decord").VideoReader(path, num_threads=1)
    return open_video(path, library)


class Failure(Exception):
    pass


def test_a_call_returns_what_the_function_returns() -> None:
    assert Deadline(AMPLE).call(divmod, 17, 5) == (3, 2)


def test_an_error_arrives_unchanged() -> None:
    failure = Failure("as it was")

    def fail() -> None:
        raise failure

    deadline = Deadline(AMPLE)
    with pytest.raises(Failure, match="as it was") as caught:
        deadline.call(fail)
    assert caught.value is failure
    assert deadline.abandoned == 0
    assert deadline.call(abs, -1) == 1


def test_calls_share_one_thread_that_is_not_this_one() -> None:
    deadline = Deadline(AMPLE)
    threads = {deadline.call(threading.get_ident) for _ in range(20)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("seconds", [None, 0, 0.0])
def test_without_a_limit_there_is_no_thread(seconds: float | None) -> None:
    assert Deadline(seconds).call(threading.get_ident) == threading.get_ident()


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_limit_without_meaning_is_refused(seconds: float) -> None:
    with pytest.raises(DataError, match="time limit"):
        Deadline(seconds)


def test_a_slow_call_is_given_up_and_its_late_answer_is_not_mixed_up() -> None:
    deadline, go_on = Deadline(0.2), threading.Event()
    for count in (1, 2):
        with pytest.raises(ReadTimeout, match=r"0\.2 s"):
            deadline.call(lambda: go_on.wait() and "late")
        assert deadline.abandoned == count
        assert deadline.call(str, "next") == "next"
    go_on.set()
    assert deadline.call(str, "after") == "after"


def test_a_thread_that_was_given_up_ends_when_it_comes_back() -> None:
    deadline, go_on = Deadline(0.2), threading.Event()
    threads: list[threading.Thread] = []

    def hang() -> None:
        threads.append(threading.current_thread())
        go_on.wait()

    with pytest.raises(ReadTimeout):
        deadline.call(hang)
    go_on.set()
    threads[0].join(AMPLE)
    assert not threads[0].is_alive()


def test_nothing_of_a_call_is_kept() -> None:
    class Clip:
        pass

    deadline = Deadline(AMPLE)
    given, made = Clip(), deadline.call(Clip)
    deadline.call(id, given)
    gone = [weakref.ref(given), weakref.ref(made)]
    del given, made
    deadline.call(abs, 0)  # the thread is past the answers before
    assert [reference() for reference in gone] == [None, None]


def test_threads_may_call_at_once() -> None:
    deadline = Deadline(AMPLE)

    def echo(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: deadline.call(echo, number), range(200)))
    assert answers == list(range(200))


def test_a_used_one_pickles() -> None:
    deadline = Deadline(0.2)
    with pytest.raises(ReadTimeout):
        deadline.call(threading.Event().wait, 5)
    copy = pickle.loads(pickle.dumps(deadline))
    assert copy.seconds == 0.2
    assert copy.abandoned == 0
    assert copy.call(abs, -2) == 2


@pytest.mark.parametrize("library", ["av", "decord", "pyav"])
def test_a_decoder_that_waits_for_its_file_is_given_up(library: str, pipe: str) -> None:
    deadline, begin = Deadline(0.3), time.monotonic()
    with pytest.raises(ReadTimeout):
        deadline.call(open_with, library, pipe)
    assert time.monotonic() - begin < AMPLE
    assert deadline.abandoned == 1
    assert deadline.call(abs, -3) == 3


SCRIPT = """
import os, sys, time
from torch.utils.data import DataLoader, Dataset
from datamodules.deadline import Deadline, ReadTimeout
from datamodules.videos.decoding import open_video

class Files(Dataset):
    def __init__(self, pipe):
        self.pipe, self.deadline = pipe, Deadline(0.3)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        try:
            return self.deadline.call(open_video if index % 3 == 1 else str, *(
                (self.pipe, "pyav") if index % 3 == 1 else ("fine",)))
        except ReadTimeout:
            return f"given up {self.deadline.abandoned}"

if __name__ == "__main__":
    files = Files(sys.argv[1])
    assert files[0] == "fine"  # a thread exists before the fork
    assert files[1] == "given up 1"
    loader = DataLoader(files, 3, num_workers=1, multiprocessing_context=sys.argv[2])
    print(list(loader))
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_limits_hold_in_loader_workers_and_a_hanging_thread_does_not_delay_the_exit(
    context: str, pipe: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), pipe, context],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=2 * AMPLE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == str([["fine", f"given up {n}", "fine"] for n in (1, 2)])


@pytest.mark.parametrize("library", ["av", "decord"])
def test_the_process_ends_while_a_decoder_hangs(library: str, pipe: str) -> None:
    pytest.importorskip(library)
    call = {"av": "av.open", "decord": "decord.VideoReader"}[library]
    program = (
        f"import {library}\n"
        "from datamodules.deadline import Deadline, ReadTimeout\n"
        "try:\n"
        f"    Deadline(0.3).call({call}, {pipe!r})\n"
        "except ReadTimeout:\n"
        "    print('given up')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=AMPLE,
    )
    assert (done.returncode, done.stdout) == (0, "given up\n"), done.stderr
