"""A process that leaves a run publishes why, so that no other one waits for it.

The word passes through the store by which the processes have found each other. It needs no collective,
and no socket of gloo or NCCL to close: those of a process that sits in its own tear-down stay open, and
its peers would wait out the group's time limit (30 minutes). Each process has a thread that looks for the
word, since its main thread may be in a collective which no signal and no exception ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from datamodules.leaving import end_workers
from tome_lightning.screen import complain
from tome_lightning.trainer.claim import release
from tome_lightning.trainer.pulse import BEAT, SILENCE, Pulse

LOOK = 0.5  # seconds between two looks
GRACE = 8.0  # seconds that the main thread of another process has to leave by itself
OWN_GRACE = 15.0  # the same, of the process that has failed: its loggers and callbacks finish
KEY = "leaves"


class Notice(NamedTuple):
    """Why a process leaves.

    Attributes:
        rank: Its number.
        node: Its machine's number.
        code: What it exits with; 128 + signal for a stop.
        reason: In one line.
    """

    rank: int
    node: int
    code: int
    reason: str

    @property
    def signum(self) -> int:
        """The signal that stopped the process; 0 if it failed."""
        return max(0, self.code - 128)


def node() -> int:
    """The number of this machine in the run."""
    names = ("GROUP_RANK", "SLURM_NODEID", "NODE_RANK")
    return next((int(v) for v in map(os.environ.get, names) if v and v.isdigit()), 0)


def agent_has_store() -> bool:
    """Whether the store is torchrun's own, and there before any process has begun."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def connect(seconds: float = 5.0) -> Store | None:
    """A connection to the run's store of one's own: a waiting call blocks all others of its connection.

    None where there is no such store.
    """
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdigit():
        return None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    limit = timedelta(seconds=seconds)
    with contextlib.suppress(RuntimeError):
        store = TCPStore(host, int(port), None, False, limit, wait_for_workers=False)
        return PrefixStore(f"tome_lightning/{attempt}", store)
    return None


def publish(store: Store | None, notice: Notice) -> None:
    """Write a notice where there is none yet: the first process to leave knows the cause."""
    with contextlib.suppress(RuntimeError):
        if store is not None:
            store.compare_set(KEY, "", json.dumps(notice))


def published(store: Store) -> Notice | None:
    """The notice that a process has published; None if there is none.

    Raises:
        RuntimeError: The store is gone.
    """
    return Notice(*json.loads(store.get(KEY))) if store.check([KEY]) else None


class Watch:
    """Looks for notices and for the end of the parent process, in a thread of its own.

    Args:
        rank: The number of this process.
        store: The run's; None for one that has none.
        parent: The process that must be there; 0 for none.
        ask: Called with a signal's number once another process has been stopped by it.
        noted: Called with it where the main thread does not come to act on it.
    """

    def __init__(
        self,
        rank: int,
        store: Store | None,
        parent: int = 0,
        ask: Callable[[int], None] | None = None,
        noted: Callable[[int], None] | None = None,
    ) -> None:
        self.rank, self.store, self.parent = rank, store, parent
        self.ask, self.noted = ask, noted
        self.notice: Notice | None = None
        self.leaving: Notice | None = None  # of this process
        # Tells what its main thread has not told yet.
        self.trouble: Callable[[], None] | None = None
        self._over = threading.Event()
        self._lost = self._looks = 0
        self._pulse = None if store is None else Pulse(rank, store)
        threading.Thread(target=self._run, name="peers", daemon=True).start()

    def end(self) -> None:
        """Look no more: the run is over."""
        self._over.set()
        with contextlib.suppress(RuntimeError):
            if self._pulse is not None:
                self._pulse.end()

    def leave(self, notice: Notice, trouble: Callable[[], None]) -> None:
        """This process leaves: tell the others, and be gone soon, whatever the main thread meets.

        Args:
            notice: Why.
            trouble: Tells it to the user, called if the main thread does not get to that.
        """
        if self.leaving is None:
            self.leaving, self.trouble = notice, trouble
            publish(self.store, notice)

    def last_word(self) -> Notice | None:
        """The notice of another process, if there is one; the main thread tells it, this one does not."""
        self.end()
        notice = self.notice or self._read()
        return notice if notice is not None and notice.rank != self.rank else None

    def _run(self) -> None:
        while not self._over.wait(LOOK):
            orphan = self.parent and os.getppid() != self.parent
            self.notice = None if self.leaving or orphan else self._read() or self._missed()
            if self.leaving is not None:
                self._bound(self.leaving)
            elif orphan:
                self._orphaned()
            elif self.notice is not None:
                self._follow(self.notice)
            else:
                continue
            break

    def _read(self) -> Notice | None:
        try:
            found = published(self.store) if self.store is not None else None
            self._lost = 0
        except RuntimeError:  # with the process that has it
            self._lost += 1
            gone = "the process with the run's store is gone"
            found = Notice(0, -1, 1, gone) if self._lost * LOOK > GRACE else None
        return found

    def _missed(self) -> Notice | None:
        """Word of a neighbour that has left without one."""
        looks, self._looks = self._looks, self._looks + 1
        if self._pulse is None or self._lost or looks % round(BEAT / LOOK):
            return None
        with contextlib.suppress(RuntimeError):
            other = self._pulse.beat()
            if other is not None:
                publish(self.store, Notice(other, -1, 1, f"no sign of life for {SILENCE:.0f} s"))
                return self._read()
        return None

    def _bound(self, own: Notice) -> None:
        if own.signum or self._over.wait(OWN_GRACE):
            return  # a stop has saved, and its loggers may take their time
        if self.trouble is not None:
            self.trouble()
        exit_now(own.code)

    def _follow(self, notice: Notice) -> None:
        if notice.rank == self.rank:
            return
        if notice.signum and self.ask is not None:
            self.ask(notice.signum)
        if self._left_by_itself(GRACE):
            return
        if notice.signum and self.noted is not None:
            self.noted(notice.signum)
        if first_of_machine():
            complain(because(self.rank, notice))
        begun_by_first = self.parent and "RANK" not in os.environ
        if begun_by_first:  # it may be the one that leaves, and is killed as soon as this one fails
            wait_for_parent(self.parent, OWN_GRACE)
        exit_now(0 if notice.signum and begun_by_first else notice.code)

    def _left_by_itself(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._over.wait(0.1):
                return True
            if self.leaving is not None:
                self._bound(self.leaving)
                return True
        return False

    def _orphaned(self) -> None:
        torchrun = "RANK" in os.environ
        whose = "torchrun's agent" if torchrun else "the first process of the run"
        complain(f"process {self.rank} stops: {whose} is gone")
        if torchrun and self.ask is not None:  # its processes are all there, and can still save
            self.ask(signal.SIGTERM)
            self._left_by_itself(OWN_GRACE)
        if self.leaving is None:
            exit_now(1)


def wait_for_parent(parent: int, seconds: float) -> None:
    """Wait until the parent process is gone, for at most so many seconds."""
    until = time.monotonic() + seconds
    while os.getppid() == parent and time.monotonic() < until:
        time.sleep(0.1)


def first_of_machine() -> bool:
    """Whether this process speaks for its machine."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))) == 0


def because(rank: int, notice: Notice) -> str:
    """Why a process stops with another; without the reason on the machine that has printed it."""
    why = f": {notice.reason}" if notice.node != node() else ", which has told why"
    return f"process {rank} stops, because process {notice.rank} has left{why}"


def exit_now(code: int) -> None:
    """End this process at once: an ordinary tear-down may wait for processes that are gone."""
    end_workers()
    with contextlib.suppress(Exception):
        release()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
