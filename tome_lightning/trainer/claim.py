"""One run at a time in a run directory."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from tome_lightning.errors import UsageError

LOCK = ".running"  # in a run directory; a killed run's is free again at once
_held: dict[Path, int] = {}  # file descriptors of this process's claims


def claim(directory: Path) -> None:
    """Keep other processes from running in a directory, until `release` or the end of this process.

    The system's lock on a file, which ends with the process, however that ends. On file systems that have
    none the run goes on without.

    Raises:
        UsageError: Another process runs in it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    place = directory.resolve()
    if place in _held:
        return
    while True:
        try:
            # not through a link: the folder may be of somebody else
            lock = os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = os.pread(lock, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise UsageError(
                f"Another run ({who}) is going on in {directory}. Wait for its end, or name another "
                "directory with --run_dir."
            ) from error
        except OSError:  # no locks on this file system
            os.close(lock)
            return
        if _is_there(lock, place / LOCK):
            break
        os.close(lock)  # its holder has removed it in the meantime
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _held[place] = lock


def _is_there(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.lstat())
    except OSError:
        return False


def release() -> None:
    """Give up all claims of this process; the files go as well."""
    for place, lock in _held.items():
        with contextlib.suppress(OSError):
            (place / LOCK).unlink()
        os.close(lock)
    _held.clear()


def _forget() -> None:
    # A loader worker that outlives a killed run would hold its lock.
    for lock in _held.values():
        os.close(lock)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
