"""Data sets that are made on first use: where they lie, and how they come into being whole."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from datamodules.errors import DataError

_STALE_SECONDS = 3600


def cache_folder(name: str) -> Path:
    """`$TOME_LIGHTNING_CACHE/name`; without the variable below `~/.cache/tome_lightning`."""
    cache = os.environ.get("TOME_LIGHTNING_CACHE", "~/.cache/tome_lightning")
    return Path(cache).expanduser() / name


def is_given(root: Path) -> bool:
    """Whether a folder holds files of the user's own, to predict: nothing is to be made there."""
    # in this order: another process may put the whole data set there at any moment
    return root.is_dir() and any(root.iterdir()) and not (root / "train").is_dir()


def write_once(root: Path, write: Callable[[Path], None], what: str) -> None:
    """Let `write` fill `root`, all or nothing; do nothing if root has `train`.

    The files are made in a folder beside `root` which is then renamed: a run that is interrupted
    leaves `root` absent, and of several processes that start at once one wins.

    Args:
        root: Folder of the data set.
        write: Writes the data set into the empty folder it is given.
        what: What messages call the data set.

    Raises:
        DataError: `root` holds something else or cannot be written.
    """
    if (root / "train").is_dir():
        return
    try:
        if is_given(root):  # before the work
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        root.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        draft = Path(tempfile.mkdtemp(prefix=f"{root.name}.draft-", dir=root.parent))
        try:
            write(draft)
            draft.chmod(0o755)  # mkdtemp's folders are private
            os.rename(draft, root)  # fails if root exists and is not empty
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if (root / "train").is_dir():  # another process was faster
            return
        raise DataError(
            f"cannot write {what} to {root}: {error.strerror or error}; set root or "
            "TOME_LIGHTNING_CACHE to a folder that can be written"
        ) from None


def _remove_stale(root: Path) -> None:
    for draft in root.parent.glob(f"{root.name}.draft-*"):
        if time.time() - draft.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(draft, ignore_errors=True)
