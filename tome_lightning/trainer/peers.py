"""When one process of a run fails, all of them end soon, and the cause is printed once."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tome_lightning.screen import complain
from tome_lightning.trainer.launch import launched
from tome_lightning.trainer.ranks import rank, started_by_first
from tome_lightning.trainer.signals import RunStopped, StopSignals, interrupted
from tome_lightning.trainer.watch import (
    GRACE,
    Notice,
    Watch,
    agent_has_store,
    because,
    connect,
    exit_now,
    first_of_machine,
    node,
    publish,
    wait_for_parent,
)

TORCH_DISTRIBUTED = Path(torch.distributed.__file__).parent
PATIENCE = 20.0  # seconds that processes have to end by themselves
# What gloo, NCCL and the store say when the other end of a connection is gone: nothing else they say
# (shapes that differ, an operation that timed out) tells that the cause stands in another process's log.
LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|(closed|reset) by peer|broken pipe"
    r"|remote process exited|recvValue failed|failed to (recv|send)",
    re.IGNORECASE,
)
_watches: list[Watch] = []  # of this process
COLLECTIVE = re.compile(r"gloo|pair\.cc|NCCL|TCPStore")  # of the backward pass, by way of autograd


def one_of_several() -> bool:
    """Whether there are other processes in this run."""
    if torch.distributed.is_initialized():  # Lightning takes WORLD_SIZE back as it tears down
        return torch.distributed.get_world_size() > 1
    return launched().processes > 1


def lost_peer(error: BaseException | None) -> bool:
    """Whether an error says for certain that another process is gone, and nothing else.

    Then the other process has printed the cause; any other error is itself the cause.
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

    Each process tells the others why it leaves, and watches for such words and for the end of the process
    that has started it, see `watch`. Lightning ends the first process when one that it has started fails;
    those that it has started end with the first, also when that was killed.

    Args:
        mistake: The user's mistake behind an error, told in one line; None if there is none.
    """

    def __init__(self, mistake: Callable[[BaseException], object | None] | None = None) -> None:
        self.mistake = mistake or (lambda error: None)
        self.watch: Watch | None = None
        self._signals: StopSignals | None = None
        self._note_stop: Callable[[int], object] | None = None
        if agent_has_store():  # others may fail before this one has come to its group
            self._begin()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for one in getattr(trainer, "callbacks", ()):
            if isinstance(getattr(one, "signals", None), StopSignals):
                self._signals, self._note_stop = (
                    one.signals,
                    partial(one.stopped_elsewhere, trainer),
                )
        if self.watch is None and (started_by_first() or one_of_several()):
            self._begin()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.watch is not None:
            self.watch.end()
        self.watch = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.leave(exception)
        notice = self.watch.last_word() if self.watch and lost_peer(exception) else None
        if notice is not None and notice.signum:
            self._noted(notice.signum)
        started: list[Any] = getattr(getattr(trainer.strategy, "launcher", None), "procs", [])
        if not started:
            return
        if not isinstance(exception, KeyboardInterrupt):
            end = threading.Thread(target=_end_all, args=(started,), daemon=True)
            end.start()

    def leave(self, error: BaseException) -> None:
        """Publish to the other processes that this one leaves with an error."""
        if self.watch is None and one_of_several():
            self._begin()  # it comes before any set-up
        if self.watch is None or lost_peer(error):
            return  # the other one has told
        code, reason = self._verdict(error)
        notice = Notice(rank(), node(), code, " ".join(reason.split())[:500])
        if code == 1:
            tell_it = partial(traceback.print_exception, error)
        else:
            tell_it = partial(complain, reason)
        self.watch.leave(notice, tell_it)

    def _verdict(self, error: BaseException) -> tuple[int, str]:
        """What this process will exit with, and why."""
        if isinstance(error, RunStopped):
            return error.exit_code, str(error)
        if interrupted(error):
            return 128 + signal.SIGINT, "stopped by SIGINT"
        mistake = self.mistake(error)
        return (1, f"{type(error).__name__}: {error}") if mistake is None else (2, str(mistake))

    def _begin(self) -> None:
        attached = started_by_first() or "TORCHELASTIC_RUN_ID" in os.environ
        store = connect() if one_of_several() else None
        self.watch = Watch(rank(), store, os.getppid() if attached else 0, self._ask, self._noted)
        _watches.append(self.watch)

    def _ask(self, signum: int) -> None:
        if self._signals is not None and not self._signals.received:
            self._signals.received = signum

    def _noted(self, signum: int) -> None:
        if self._note_stop is not None:
            self._note_stop(signum)


def follow(error: BaseException) -> int | None:
    """Print why another process has left, if that is all an error says; returns the exit code."""
    if not one_of_several() or not lost_peer(error):
        return None
    watch = _watches[-1] if _watches else None
    notice = None if watch is None else watch.last_word()
    reason = " ".join(str(error).split())[:200]
    if watch is None or notice is None:
        word = "which has told why" if watch is None else "without a word"
        complain(f"process {rank()} stops, because another one is gone, {word} ({reason})")
        if watch is not None:  # those that wait for this one may not have lost that one
            watch.leave(
                Notice(rank(), node(), 1, f"it has lost another one: {reason}"), lambda: None
            )
        return 1
    if first_of_machine() and not notice.signum:  # a stop is told as one
        complain(because(rank(), notice))
    return 0 if notice.signum and started_by_first() else notice.code


def leaving(run: Callable[[], int], own_process: bool) -> int:
    """Run what returns an exit code, and `leave` with it.

    In a process that is not there for this alone (a notebook, a test), whose end is not ours to decide,
    the code is returned and nothing watches any more.
    """
    try:
        code = run()
    except Exception:
        if own_process and one_of_several():
            traceback.print_exc()
            leave(1)
        raise
    finally:
        if not own_process:
            while _watches:
                _watches.pop().end()
    return leave(code) if own_process else code


def leave(code: int) -> int:
    """Leave a run of several processes, if it did not end well, without waiting for any of them.

    Lightning's watcher kills the first process within seconds of a failed one's end that it has started:
    that stays until the first one has left with the cause's code.
    """
    leaving = any(watch.leaving is not None for watch in _watches)
    if not (code or leaving) or not one_of_several():
        return code
    if not _watches and agent_has_store():
        publish(connect(), Notice(rank(), node(), code, "it could not start, see there"))
    if code and started_by_first():
        wait_for_parent(os.getppid(), GRACE + 4)
    atexit._run_exitfuncs()
    exit_now(code)
    return code


def leave_group() -> None:
    """End the threads of a process group that Lightning leaves to the interpreter's exit."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _end_all(processes: list[subprocess.Popen[Any]]) -> None:
    until = time.monotonic() + PATIENCE
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        if process.poll() is None:
            process.kill()
