"""Signals that ask a run to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tome_lightning.screen import say

TWICE = 5.0  # seconds within which a signal may come again by another way: sent to a whole process group
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class RunStopped(Exception):
    """A run was asked to stop and has done so, with everything saved that there was to save.

    Attributes:
        signum: The signal that asked.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """As shells have it: 128 + signal."""
        return 128 + self.signum


def interrupted(error: BaseException) -> bool:
    """Whether an error is a Ctrl-C, of which Lightning makes an exit with 1."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    return isinstance(cause, KeyboardInterrupt)


def stop_asked(callbacks: Iterable[object]) -> int:
    """The signal that a callback with `StopSignals` has received; 0 if none."""
    stops = (getattr(callback, "signals", None) for callback in callbacks)
    return next((stop.received for stop in stops if isinstance(stop, StopSignals)), 0)


@contextlib.contextmanager
def handled(signum: int, handler: Any) -> Iterator[None]:
    """Have a signal handled so for a while; not in other threads than the main one, which cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, usual)


@contextlib.contextmanager
def leaving_at_ctrl_c() -> Iterator[None]:
    """Have Ctrl-C end the process at once while libraries are imported, some of which swallow it."""

    def leave(signum: int, frame: Any) -> None:
        say("Stopped by SIGINT", sys.stderr)
        os._exit(130)

    usual = signal.getsignal(signal.SIGINT)
    ours = usual is signal.default_int_handler
    with handled(signal.SIGINT, leave) if ours else contextlib.nullcontext():
        yield


class StopSignals:
    """Remembers SIGTERM, SIGUSR1 and Ctrl-C instead of dying of them, until `restore`.

    A second one has its usual effect, at once for Ctrl-C.

    Attributes:
        received: Number of the signal that came, 0 if none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._at = 0.0
        self._usual: dict[int, Any] = {}
        self._forward: Callable[[int], None] | None = None

    def install(self, forward: Callable[[int], None] | None = None) -> None:
        """Take the signals over; `forward` passes one on to the processes this one has started."""
        self._forward = forward
        if threading.current_thread() is not threading.main_thread() or self._usual:
            return  # a notebook's thread has no signals of its own
        self.received = 0
        owner = os.getpid()

        def remember(signum: int, frame: Any) -> None:
            if os.getpid() != owner:  # a forked child that has not set its own handlers yet
                return
            if self.received:
                if signum == signal.SIGINT or time.monotonic() - self._at > TWICE:
                    self.restore()
                    # Not Lightning's own handler, which talks to other processes from wherever it is.
                    usual = (
                        signal.SIG_DFL if signum != signal.SIGINT else signal.default_int_handler
                    )
                    signal.signal(signum, usual)
                    signal.raise_signal(signum)
                return
            self.received, self._at = signum, time.monotonic()
            if self._forward is not None and signum != signal.SIGINT:
                self._forward(signum)  # Ctrl-C reaches them from the terminal

        for signum in STOPPING:
            usual = signal.getsignal(signum)
            if usual is not signal.SIG_IGN or signum != signal.SIGINT:  # ignored in background jobs
                self._usual[signum] = signal.signal(signum, remember)

    def restore(self) -> None:
        """Give the signals back."""
        for signum, usual in self._usual.items():
            with contextlib.suppress(TypeError, ValueError):  # a handler that was not Python's
                signal.signal(signum, usual)
        self._usual = {}
