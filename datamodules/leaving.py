"""How loader processes end: with the training process, for certain, and of nothing else."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterable
from multiprocessing.process import BaseProcess

LOOK = 2.0  # seconds between two looks whether the training process is still there
_workers: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


def outlive_signals(worker: int) -> None:
    """Leave it to the training process what SIGTERM, SIGUSR1 and Ctrl-C mean: for `worker_init_fn`.

    A terminal and SLURM send them to all processes of a job. A worker that ends of one takes the
    training process with it before that has saved. A second SIGTERM ends the worker as usual: with that
    a `DataLoader` ends those that hang. It also ends, whatever it is doing, once the training process is
    gone (torch's own look comes only between two samples).
    """

    def once(signum: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, once)
    for signum in (signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGINT)):
        signal.signal(signum, signal.SIG_IGN)
    # Not PR_SET_PDEATHSIG: that fires when the *thread* ends which has made the loader's iterator.
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


def end_at_exit(workers: Iterable[BaseProcess]) -> None:
    """Have these loader processes gone before multiprocessing's exit waits for them.

    It sends each one SIGTERM, once, and waits without limit; a worker outlives the first SIGTERM, and
    one that hangs in a decoder or on a dead disk any.
    """
    _workers.update(workers)
    atexit.unregister(end_workers)
    atexit.register(end_workers)  # what is registered last comes first


def end_workers() -> None:
    """SIGKILL to all loader processes that are left: they have nothing to save."""
    for worker in list(_workers):
        if worker._parent_pid == os.getpid() and worker.is_alive():  # type: ignore[attr-defined]
            worker.kill()
    _workers.clear()
