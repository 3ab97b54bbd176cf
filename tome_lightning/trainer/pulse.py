"""Finds processes that are gone or frozen without having said so: their neighbours miss their signs.

A killed process loses its sockets, and those that wait for it in a collective meet an error. A machine
without power or network, or a process that is stopped, leaves them open: the others would wait for the
group's time limit (30 minutes). So each process gives a sign of life in the run's store, from the thread
that watches: one whose main thread is busy, in a collective or a compiler, gives it all the same.
"""

from __future__ import annotations

import threading

from torch.distributed import Store  # type: ignore[attr-defined]

BEAT = 5.0  # seconds between two signs
# Seconds; longer than a server of files takes to be replaced, which may freeze its users.
SILENCE = 120.0
OVER = b"over"


class Pulse:
    """Signs of life of one process, and a look at those of the processes before and after it.

    Args:
        rank: The number of this process.
        store: The run's.
    """

    def __init__(self, rank: int, store: Store) -> None:
        self.rank, self.store = rank, store
        self._beats = 0
        self._over = False
        self._one = threading.Lock()  # no sign comes after the last word
        # Last sign, and how often it was the last one.
        self._seen: dict[int, tuple[bytes, int]] = {}

    def beat(self) -> int | None:
        """Give a sign, every `BEAT` seconds; returns a neighbour that gives none any more.

        What counts are own looks, not the clock: one that was frozen itself has not looked. Who has never
        given a sign, or has said that its run is over, is not missed.

        Raises:
            RuntimeError: The store is gone.
        """
        with self._one:
            if self._over:
                return None
            self._beats += 1
            self.store.set(_key(self.rank), str(self._beats))
        for other in (self.rank - 1, self.rank + 1):
            if other >= 0 and self.store.check([_key(other)]) and self._misses(other):
                return other
        return None

    def end(self) -> None:
        """Say that the run is over for this process, and no sign will follow."""
        with self._one:
            self._over = True
            self.store.set(_key(self.rank), OVER.decode())

    def _misses(self, other: int) -> bool:
        sign = self.store.get(_key(other))
        last, looks = self._seen.get(other, (b"", 0))
        looks = looks + 1 if sign == last != OVER else 0
        self._seen[other] = sign, looks
        return looks * BEAT >= SILENCE


def _key(rank: int) -> str:
    return f"beats/{rank}"
