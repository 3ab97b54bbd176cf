"""Calls that are given up after a time limit, for reads that may hang.

Loader workers are daemonic processes, which may not start processes: the limit is enforced from
outside the reading thread instead. A thread cannot be stopped, so one that hangs is left behind.
"""

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from datamodules.errors import DataError


class ReadTimeout(TimeoutError):
    """A call took longer than its limit; it may still be running."""


class Deadline:
    """Runs calls in a thread of this process and stops waiting for them after `seconds`.

    The thread is kept for the next call, unless it hangs. Works in loader workers, whether forked
    or spawned, and from several threads at once; a pickled or forked copy makes its own threads.
    The limit holds for what releases the interpreter's lock, as decoders and file access do.

    Args:
        seconds: Limit of one call; None or 0 for no limit, and no thread.

    Attributes:
        abandoned: Number of threads of this process that were left behind.
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not 0 <= seconds <= threading.TIMEOUT_MAX:
            raise DataError(f"a time limit must be 0 (none) or more seconds, got {seconds!r}")
        self.seconds = seconds
        self._start()

    def _start(self) -> None:
        self.abandoned = 0
        self._pid = os.getpid()
        self._idle: list[_Thread] = []

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)`; what it raises is raised unchanged.

        Raises:
            ReadTimeout: It has not returned in time.
        """
        if not self.seconds:
            return function(*args)
        if self._pid != os.getpid():  # threads do not survive a fork
            self._start()
        try:
            thread = self._idle.pop()
        except IndexError:
            thread = _Thread()
        thread.requests.put((function, args))
        try:
            result, error = thread.replies.get(timeout=self.seconds)
        except BaseException as reason:  # Empty, or an interrupt of this thread
            thread.requests.put(None)  # ends the thread, should it ever come back
            self.abandoned += 1
            if not isinstance(reason, Empty):
                raise
            raise ReadTimeout(f"gave up after {self.seconds:g} s") from None
        self._idle.append(thread)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.seconds = state["seconds"]
        self._start()

    def __del__(self) -> None:
        for thread in getattr(self, "_idle", ()):
            thread.requests.put(None)


class _Thread:
    """A daemon thread, so that a hanging one does not keep the process alive."""

    def __init__(self) -> None:
        self.requests: SimpleQueue[Any] = SimpleQueue()
        self.replies: SimpleQueue[Any] = SimpleQueue()
        serve = threading.Thread(
            target=_serve, args=(self.requests, self.replies), name="deadline", daemon=True
        )
        serve.start()


def _serve(requests: "SimpleQueue[Any]", replies: "SimpleQueue[Any]") -> None:
    while (request := requests.get()) is not None:
        replies.put(_answer(*request))
        del request  # waits for the next one without holding the last one's arguments


def _answer(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, Any]:
    try:
        return function(*args), None
    except BaseException as error:
        return None, error
