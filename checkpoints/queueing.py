"""One process at a time, where all of them want the same file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[bool]:
    """Hold the system's lock on a file, which ends with the process, however that ends.

    Args:
        lock: A file for this alone; it and its folder are made.

    Yields:
        Whether another process had it first, and has done by now what this one wants to do.
    """
    held = FileLock(lock)
    waited = False
    with contextlib.ExitStack() as stack:
        # A file system without locks, or a folder of somebody else: as many as there are do it.
        with contextlib.suppress(OSError, NotImplementedError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(held.acquire(timeout=0))
            except Timeout:  # an OSError
                waited = True
                stack.enter_context(held.acquire())
        yield waited
