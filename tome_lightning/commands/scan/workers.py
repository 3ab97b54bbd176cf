"""Many files checked side by side, by processes that may crash.

Each process has one file at a time and a pipe of its own, so that a crash tells which file it was
and stops no other. Nothing heavy is imported here: every process imports this module.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from datamodules.shards.member import file_of
from tome_lightning.errors import UsageError
from tome_lightning.trainer.signals import handled

LONGEST_REASON = 300  # characters
READY = "ready"
_spawn = multiprocessing.get_context("spawn")  # decoders do not survive a fork


class Outcome(NamedTuple):
    """What the check of one file found.

    Attributes:
        path: As the lists of the data set name it.
        size: Bytes, of a member of a shard those of the shard; None for a file that is not there.
        mtime_ns: Time of its last change, in nanoseconds; likewise.
        reason: `Type: message` of what the check raised; None for a good file.
        facts: What the check says of a good file.
        hung: The check raised TimeoutError: a thread is left behind, and another time, when the
            disk is less busy, the file may be good.
    """

    path: str
    size: int | None
    mtime_ns: int | None
    reason: str | None
    facts: Mapping[str, Any]
    hung: bool = False


class Job(NamedTuple):
    """What is done with each file.

    Attributes:
        root: Folder that relative paths start from.
        check: Takes a path and returns facts, or raises for a bad file; pickled for the processes.
    """

    root: str
    check: Callable[[str], Mapping[str, Any]]


class Task(NamedTuple):
    """One file, and what an earlier scan found of it."""

    path: str
    known: Outcome | None = None


def check_one(job: Job, task: Task) -> Outcome:
    """Check a file, unless it is unchanged since the known outcome."""
    path = os.path.join(job.root, task.path)
    stamp = _stamp(path)
    if task.known is not None and stamp == (task.known.size, task.known.mtime_ns):
        return task.known
    try:
        return Outcome(task.path, *stamp, None, dict(job.check(path)))
    except Exception as error:  # whatever a decoder raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        return Outcome(task.path, *stamp, reason, {}, isinstance(error, TimeoutError))


def check_all(
    job: Job, tasks: Iterable[Task | None], workers: int
) -> Generator[Outcome, None, None]:
    """Check files in so many processes; outcomes come in the order in which they are ready.

    A file whose process crashes, or that takes too long, gets a second try in a new process before
    it counts as bad. Closing the generator kills the processes, so use `contextlib.closing`.

    Args:
        job: What is done with each file.
        tasks: The files; the next one is taken when a process is free. None gives out nothing for now,
            until another outcome has been taken.
        workers: Processes; 0 checks in this one, where a crash ends everything.

    Raises:
        UsageError: A process could not be started.
    """
    left = iter(tasks)
    if workers == 0:
        yield from (check_one(job, task) for task in left if task is not None)
        return
    crew = [Worker(job) for _ in range(workers)]
    try:
        while True:
            for worker in crew:
                if worker.task is None and (task := next(left, None)) is not None:
                    worker.give(task)
            busy = [worker for worker in crew if worker.task is not None]
            if not busy:
                return
            readable = wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe in readable and (outcome := worker.take()) is not None:
                    yield outcome
    finally:
        for worker in crew:
            worker.stop()


class Worker:
    """A process that checks one file at a time, replaced when it crashes or has a hung thread.

    Attributes:
        pipe: Readable when there is something to `take`.
        task: The file given to it, None while it is free.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.task: Task | None = None
        self._process: SpawnProcess | None = None

    def give(self, task: Task) -> None:
        """Have a file checked."""
        self.task, self._failures = task, 0
        if self._process is None:
            self._start()
        self._send(task)

    def take(self) -> Outcome | None:
        """What the process has to say: the outcome of its file, or None when there is none yet.

        Raises:
            UsageError: The process ended before its first file.
        """
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            return self._replace(self._crash())
        if message == READY:
            self._ready = True
            return None
        outcome: Outcome = message
        if outcome.hung:
            return self._replace(outcome)
        self.task = None
        return outcome

    def stop(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join(5)
            self._process = None
            self.pipe.close()

    def _start(self) -> None:
        self.pipe, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=serve, args=(theirs,), daemon=True)
        with handled(signal.SIGINT, signal.SIG_IGN):  # inherited: Ctrl-C does not reach it
            self._process.start()
        theirs.close()  # so that the pipe ends with the process
        self._ready = False
        self._send(self._job)

    def _send(self, message: Job | Task) -> None:
        with contextlib.suppress(BrokenPipeError):  # `take` will see that the process is gone
            self.pipe.send(message)

    def _replace(self, failure: Outcome) -> Outcome | None:
        """Try the file again in a new process; the second failure is its outcome."""
        assert self.task is not None
        self.stop()
        self._failures += 1
        if self._failures == 1:
            self._start()
            self._send(self.task)
            return None
        self.task = None
        return failure

    def _crash(self) -> Outcome:
        assert self.task is not None
        assert self._process is not None
        self._process.join(5)
        code = self._process.exitcode
        if not self._ready:
            raise UsageError(
                f"A process that was to check files ended with exit code {code} before its first "
                "one; what it printed stands above. A script calls scan() under "
                "`if __name__ == '__main__':`; workers=0 checks without processes."
            )
        how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        path = self.task.path
        stamp = _stamp(os.path.join(self._job.root, path))
        return Outcome(path, *stamp, f"Crash: the decoder ended its process ({how})", {})


def serve(pipe: Connection) -> None:
    """What a process does: check what comes through the pipe until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"  # before the job is unpickled: that imports torch
    with contextlib.suppress(EOFError, BrokenPipeError):
        job = pipe.recv()
        pipe.send(READY)
        while True:
            pipe.send(check_one(job, pipe.recv()))
    os._exit(0)  # a hung thread would keep the process


def _stamp(path: str) -> tuple[int | None, int | None]:
    """Size in bytes and time of the last change in nanoseconds; None where there is no file.

    A member of a shard has those of its shard.
    """
    try:
        status = os.stat(file_of(path))
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns
