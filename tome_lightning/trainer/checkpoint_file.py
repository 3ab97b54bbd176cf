"""Checkpoint files that are always whole, and the safe way to read one."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import re
import shutil
import socket
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from checkpoints.bounds import OutOfBounds, check_archive, check_values
from tome_lightning.errors import UserError
from tome_lightning.trust import Untrusted, check_form

DAY = 24 * 60 * 60  # seconds
# Processes of a machine then share what they read, 10 GB of a ViT-H each otherwise. The mapping outlives
# the file's name, which the next save replaces; on Windows it would keep the name from being replaced.
MAPPED = os.name != "nt"
ZIP_MAGIC = b"PK\x03\x04"
WAYS_OUT = {
    errno.ENOSPC: "Free some space there.",
    errno.EDQUOT: "Free some of your quota.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f).",
    errno.EACCES: "Make the folder writable.",
    errno.EROFS: "Make the folder writable.",
}


class CheckpointFileError(UserError):
    """A file that cannot be loaded as a checkpoint; the message is the short reason."""


class MalformedRunError(CheckpointFileError):
    """A run's checkpoint whose parts are not of the types that ours have."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint in one step, or not at all, and loads safely.

    A file is written beside its final place, synced and renamed: whatever kills the process or the
    machine, the final name holds the old checkpoint or the new one. A save that fails costs a
    checkpoint, not the run: it warns, leaves the old one as it is, and training goes on.

    Attributes:
        failures: Why the latest save to a path failed, for each path where it did.
    """

    # Lightning's own builds the whole file in memory, then moves it over from /tmp: across file
    # systems that is a copy, which a kill cuts short.

    def __init__(self) -> None:
        self.failures: dict[Path, str] = {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; a failure is printed and kept in ``failures``, not raised."""
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO writes local files and takes no storage_options.")
        path = Path(path)
        handled = sys.exc_info()[1]  # Ctrl-C, where its handler saves
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(path.parent)
            _write(checkpoint, path)
        except Exception as error:
            # torch calls the file's write() from C++, and its own complaint hides what that raised.
            causes = list(_chain(error, handled))
            for cause in causes:
                if not isinstance(cause, Exception):  # Ctrl-C
                    raise cause from None
            os_error = next((c for c in causes if isinstance(c, OSError) and c.errno), None)
            self.failures[path] = _reason(os_error or error)
            rank_zero_warn(_describe_failure(path, self.failures[path], os_error))
        else:
            self.failures.pop(path, None)
            self._check_it_loads(path)

    def _check_it_loads(self, path: Path) -> None:
        """Say at the first save what would else be found when a run is to be resumed."""
        try:
            read_header(path)
        except CheckpointFileError as error:
            rank_zero_warn(
                f"{path} is written but cannot be loaded again: {error}. Resuming and testing refuse "
                "it. A callback or the config has put it there: it must be tensors and plain values."
            )

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, loc: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Load a checkpoint of tensors and plain values, which are read from the file as they are used.

        Raises:
            ValueError: If ``weights_only`` is False, which would run what the file says.
            CheckpointFileError: If the file is damaged, no checkpoint, or not safe.
        """
        if weights_only is False:
            raise ValueError(
                "Checkpoints are only loaded safely here: a file that cannot be can run "
                "any program as it loads. Leave weights_only out."
            )
        try:
            return _load(Path(path), map_location=map_location, mmap=MAPPED)
        except CheckpointFileError as error:
            raise CheckpointFileError(f"{path} cannot be loaded: {error}.") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file of a run; where that fails the run goes on without it, with a warning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode(errors="backslashreplace"))
    except OSError as error:
        rank_zero_warn(f"{path} could not be written: {error.strerror or error}")


def read_header(path: Path) -> dict[str, Any]:
    """The plain values of a checkpoint; its tensors are shapes without data (device ``meta``).

    Costs a few milliseconds whatever the size of the file, most of which is not read.

    Raises:
        CheckpointFileError: If the file is not there, truncated, no checkpoint, or not safe.
    """
    return _load(path, map_location="meta", mmap=True)


def _load(path: Path, **how: Any) -> dict[str, Any]:
    try:
        _check_form(path)
        check_archive(path)
        saved = torch.load(path, weights_only=True, **how)
        check_values(saved)
        if isinstance(saved, dict) and saved.keys() >= {"hyper_parameters", "state_dict"}:
            check_form(saved)
    except CheckpointFileError:
        raise
    except OutOfBounds as error:
        raise CheckpointFileError(f"it is refused: {error}") from error
    except Untrusted as error:
        raise MalformedRunError(f"it is refused: {error}") from error
    except OSError as error:
        raise CheckpointFileError(f"it cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (
            f"it holds objects that safe loading refuses ({name[1]}); nothing of it was run"
            if name
            else "it is damaged: its contents cannot be decoded"
        )
        raise CheckpointFileError(reason) from error
    except Exception as error:  # torch raises half a dozen kinds for files that are no checkpoints
        reason = f"it is damaged, or a zip file that is no checkpoint ({_reason(error)})"
        raise CheckpointFileError(reason) from error
    if not isinstance(saved, dict):
        raise CheckpointFileError(f"it holds a {type(saved).__name__}, not a checkpoint")
    return saved


def _check_form(path: Path) -> None:
    """Whether this is a whole zip file, which is what torch writes; torch's message is hard to read."""
    if path.is_dir():
        raise CheckpointFileError("it is a folder")
    if path.exists() and not path.is_file():
        raise CheckpointFileError("it is no regular file")  # a pipe would be waited for
    with path.open("rb") as file:
        start = file.read(16)
        if not start:
            raise CheckpointFileError("it is empty")
        if not start.startswith(ZIP_MAGIC[: len(start)]):
            raise CheckpointFileError(f"it is no PyTorch checkpoint (it starts with {start!r})")
        if not zipfile.is_zipfile(file):  # the table of contents is the last thing written
            raise CheckpointFileError("it is truncated")


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    # A file object, not a path: torch gives no reason when its own stream fails to write.
    with replacing(path) as file:
        torch.save(checkpoint, file)
    with contextlib.suppress(OSError):  # some systems and network file systems cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes a path's place in one step once it is whole.

    What is there before is not written through: a link, which somebody else may have put there, is
    replaced and its target stays as it is.

    Raises:
        OSError: It cannot be written; the path is as it was.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:  # exclusive: follows no link
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name without the contents
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left: those of this machine, and of others after a day."""
    for file in folder.glob(".*.*.tmp"):
        named = re.fullmatch(r"\..+\.(\d+)\.tmp", file.name)
        if named is None:
            continue
        here = file.name.endswith(f".{socket.gethostname()}.{named[1]}.tmp")
        with contextlib.suppress(OSError):  # another process removed it first
            if (here and not _runs(int(named[1]))) or time.time() - file.stat().st_mtime > DAY:
                file.unlink()


def _runs(pid: int) -> bool:
    if os.name == "nt":  # there signal 0 ends the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user; a number that is no pid
        return True
    return True


def _chain(error: BaseException | None, until: BaseException | None) -> Iterator[BaseException]:
    """An error and those it was raised from or while handling, the latest first."""
    while error is not None and error is not until:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    """What went wrong, in one short line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _describe_failure(path: Path, reason: str, error: OSError | None) -> str:
    free = ""
    with contextlib.suppress(OSError):
        free = f", {shutil.disk_usage(path.parent).free / 2**20:.0f} MiB free there"
    try:
        found = path.stat()
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.st_mtime))
        previous = f"The previous one, of {written}, {found.st_size / 2**20:.0f} MiB, is as it was"
    except OSError:
        previous = "There is no earlier one of that name"
    way_out = WAYS_OUT.get(error.errno or 0, "") if error else ""
    # The time of day, because Python shows a warning once for each text.
    line = (
        f"{time.strftime('%H:%M:%S')} CHECKPOINT NOT SAVED: {path} could not be written "
        f"({reason}{free}). {previous}; training goes on, and the next save tries again. {way_out}"
    )
    return line.rstrip()
