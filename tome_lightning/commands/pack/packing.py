"""Write a data set into tar shards, in the order of its lists, and say what they hold."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from datamodules.workers import usable_cores
from tome_lightning.arguments import nearest
from tome_lightning.commands.pack.convert import kind_of
from tome_lightning.commands.pack.folder import (
    Bad,
    PackRecord,
    SplitRecord,
    check_folder,
    class_files,
    write_text,
)
from tome_lightning.commands.pack.room import check_room
from tome_lightning.commands.pack.shard import read_size
from tome_lightning.commands.pack.split import How, SplitWriter
from tome_lightning.commands.scan.workers import Job
from tome_lightning.errors import UsageError
from tome_lightning.screen import say
from tome_lightning.trainer.claim import claim, release
from tome_lightning.trainer.signals import RunStopped

if TYPE_CHECKING:
    from datamodules.filelist import LabelledFiles

SPLITS = ("train", "val", "test")


class Packable(Protocol):
    """A data module whose files can be written into shards.

    One that may be elsewhere has a `folder` on this machine, and one of several labels their `class_ids`.

    Attributes:
        root: Folder that the paths of its lists start from, or what is fetched.
        multi_label: Whether a sample may be of several classes.
        max_corrupt_share: Share of bad files above which it stops.
    """

    root: str
    multi_label: bool
    max_corrupt_share: float

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of the class index."""

    def prepare_data(self) -> None:
        """Make the files of a data set that is made on first use."""

    def files(self, split: str) -> LabelledFiles:
        """The files of train, val or test."""


class Packed(NamedTuple):
    """What is in the shards.

    Attributes:
        folder: Folder of the shards.
        splits: What is done of each split.
        convert: What became of the files, in words; empty where their bytes are as they were.
    """

    folder: Path
    splits: dict[str, SplitRecord]
    convert: str = ""

    @property
    def bad(self) -> list[Bad]:
        """The files that were left out."""
        return [bad for split in self.splits.values() for bad in split.bad]


def pack(
    data: object,
    out: str | Path,
    splits: Sequence[str] | None = None,
    shard_size: int | str = "1GB",
    resize: int | None = None,
    flac: bool = False,
    workers: int | None = None,
    progress: bool = True,
    recipe: str | None = None,
) -> Packed:
    """Write the files of a data set into tar shards, in the order of its lists, with their labels.

    So a run on the shards has sample for sample the same indices as one on the files. A shard is
    written under another name, read back, and renamed when it is whole; the same call goes on after
    the last whole one. Files that cannot be read (or decoded, where they are to be converted) are left
    out and named in `bad_files.json`. A script calls this under `if __name__ == "__main__":`, because
    the processes import it.

    Args:
        data: A data module with `files`; see `Packable`.
        out: Folder of the shards, `train-000000.tar` and so on; made if it is not there.
        splits: Any of train, val and test; None is train and val, and test where it has other files.
        shard_size: Bytes that a shard has at most, as a number or such as `500MB`; a larger sample has
            one for itself.
        resize: Short side in pixels that larger pictures and videos get; None leaves bytes as they are.
        flac: Make sounds 16 kHz, one channel and FLAC.
        workers: Processes, by default one for each core. 0 works in this one.
        progress: Show a bar.
        recipe: Name to write down.

    Raises:
        UsageError: The data cannot be packed, the folder or the disk is no place for it, or more than
            `max_corrupt_share` of the files are bad.
        datamodules.DataError: A list, a folder or a decoder is missing.
        KeyboardInterrupt: Ctrl-C; whole shards are kept.
        RunStopped: SIGTERM; likewise.
    """
    out = Path(out).expanduser()
    packable = _checked(data, splits, workers)
    size = read_size(shard_size)
    kind = kind_of(packable)
    convert = kind.converter(resize, flac)
    check_folder(out, packable.root)
    packable.prepare_data()
    lists = _lists(packable, splits)
    names = packable.class_names
    ids = getattr(packable, "class_ids", names) if packable.multi_label else None
    classes = class_files(names, ids)
    root = str(getattr(packable, "folder", packable.root))
    settings = {
        "root": packable.root if "://" in packable.root else os.path.abspath(root),
        "shard_size": size,
        "classes": _digest(json.dumps(classes)),
        **convert.settings,
    }
    how = How(
        Job(root, convert),
        kind.endings,
        ids,
        size,
        len(usable_cores()) if workers is None else workers,
        packable.max_corrupt_share,
        progress,
    )
    with _claimed(out), _stopping(out):
        record = PackRecord(out, settings, recipe)
        done = {
            name: record.split(name, files.digest(), len(files)) for name, files in lists.items()
        }
        check_room(
            out,
            root,
            {name: (files, done[name].rows) for name, files in lists.items()},
            bool(convert.settings),
        )
        for file, text in classes.items():
            write_text(out / file, text)
        for name, files in lists.items():
            SplitWriter(how, record, name, files).write()
        if any(split.bad for split in done.values()):
            record.write_bad()
    return Packed(out, done, convert.words)


def _checked(data: object, splits: Sequence[str] | None, workers: int | None) -> Packable:
    """The data, if all arguments of `pack` make sense."""
    unknown = [split for split in splits or () if split not in SPLITS]
    if unknown or splits == []:
        raise UsageError(
            f"--splits are one or more of {', '.join(SPLITS)}, got {', '.join(splits or []) or 'none'}. "
            + (nearest(unknown[0], SPLITS) if unknown else "")
        )
    if workers is not None and workers < 0:
        raise UsageError(f"--num_workers is 1 or more, or 0 for this process alone; got {workers}.")
    if not (callable(getattr(type(data), "files", None)) and hasattr(data, "root")):
        raise UsageError(
            f"pack writes pictures, videos and sounds; {type(data).__name__} has no lists of files."
        )
    return cast(Packable, data)


def _lists(data: Packable, splits: Sequence[str] | None) -> dict[str, LabelledFiles]:
    """The files of each split; those of test only where they are not those of val, if none is named."""
    lists = {split: data.files(split) for split in dict.fromkeys(splits or SPLITS)}
    if splits is None and lists["test"].digest() == lists["val"].digest():
        del lists["test"]
    return lists


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """The folder, made if it is not there, for this process alone."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be made: {error.strerror}. Name another folder.") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise UsageError(f"{out} cannot be written: no permission. Name another folder.")
    try:
        claim(out)
    except UsageError as error:
        raise UsageError(
            f"Another process is going on in {out}. Wait for its end, or name another folder."
        ) from error
    try:
        yield
    finally:
        release()


@contextlib.contextmanager
def _stopping(out: Path) -> Iterator[None]:
    """Have SIGTERM interrupt as Ctrl-C does, and say how to go on after both and a full disk."""
    received: list[int] = []

    def stop(signum: int, frame: Any) -> None:
        received.append(signum)
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except KeyboardInterrupt:
        whole = len(list(out.glob("*.tar")))
        say(
            f"interrupted: {whole} shards are whole in {out}; the same command goes on after them",
            sys.stderr,
        )
        if received:
            raise RunStopped(signal.SIGTERM) from None
        raise
    except OSError as error:
        raise _not_written(out, error) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _not_written(out: Path, error: OSError) -> UsageError:
    free = f"{shutil.disk_usage(out).free / 1e9:.1f} GB free" if out.is_dir() else "it is gone"
    cure = "Make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Mend that"
    return UsageError(
        f"{out} cannot be written ({error.strerror or error}; {free}). {cure}; the same command goes on "
        "after the last whole shard."
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
