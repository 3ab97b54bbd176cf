"""Long lists of files, made once a machine, and mapped by all that list the same, in later starts too.

A listing lies in `cache_folder("lists")`: an `.npy` file for each array, and `about.json`. It stands for
another listing where the folders prove that nothing has changed (`Witness`), or where another
process began it after this one asked: so the ranks of a start share one list on any file system. Where
neither holds, files are listed anew.
"""

import gc
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from datamodules.cache import cache_folder
from datamodules.filelist import FileList, Files, LabelledFiles, read_list, scan_folder
from datamodules.walking import LeftOut
from datamodules.witness import Witness, state

try:
    import fcntl
except ImportError:  # Windows, where every process lists for itself
    fcntl = None  # type: ignore[assignment]

WORTH = 20_000  # files from which a listing is kept
UNUSED_DAYS = 30  # after which it is removed
SOURCES = (
    "csv_lines", "filelist", "kept", "packed", "shards/index", "shards/member", "shards/place",
    "shards/table_columns", "shards/table_file", "shards/tables", "shards/tar", "sounds/clip_finder",
    "sounds/lists", "sounds/reading", "sounds/rows", "sounds/tagged", "walking", "witness",
)  # fmt: skip  # whoever changes how files are listed makes all that is kept void


class Listing(NamedTuple, Generic[Files]):
    """Files, and what there is to say of them.

    Attributes:
        files: The list.
        notes: Whatever JSON holds.
    """

    files: Files
    notes: dict[str, Any]


def listed_once(
    what: Sequence[object],
    make: Callable[[Witness], Listing[Files]],
    build: Callable[[dict[str, np.ndarray]], Files],
    asked: float,
    worth: int | None = None,
) -> Listing[Files]:
    """What `make` lists, or an equal list that is kept already.

    Args:
        what: All that the list depends on besides the content of folders: the root first, options,
            digests of lists that are read.
        make: Lists the files; the witness is to note each folder before it is listed.
        build: Turns the list's `columns` back into a list.
        asked: When this process came to want the list, as `time.time()` tells. What another process
            began to list later is as good as one's own.
        worth: Files from which a listing is kept; `WORTH` by default.

    Raises:
        DataError: From `make`.
    """
    place = cache_folder("lists") / _name(what)
    with _locked(place):
        if found := _load(place, build, asked):
            return found
        seen = Witness()
        with _uncollected():
            made = make(seen)
        if len(made.files) < (WORTH if worth is None else worth):
            return made
        doubt = seen.doubt()
        if doubt:
            rank_zero_info(
                f"{what[0]}: {len(made.files):,} files are listed anew at each start: {doubt}"
            )
        about = {
            "started": seen.started, "process": os.getpid(), "doubt": doubt, "folders": seen.folders,
            "digest": made.files.digest(), "notes": made.notes,
        }  # fmt: skip
        try:
            _save(place, made.files, about)
        except OSError as error:
            rank_zero_info(f"{place} cannot be written ({error.strerror}): the list is not kept")
            return made
        # no memory of this process, but of all that map the same file
        return _read(place, build, about) or made


def folder_listed_once(
    root: Path, split: str, labels: Mapping[str, int], extensions: tuple[str, ...], asked: float
) -> tuple[FileList, str]:
    """`scan_folder` by `listed_once`, and what was left out, in words."""

    def make(seen: Witness) -> Listing[FileList]:
        left_out = LeftOut()
        files = scan_folder(root, split, labels, extensions, left_out, seen)
        return Listing(files, {"told": left_out.describe()})

    # links among class folders and above the root decide what is followed
    real = [os.path.realpath(root / split / name) for name in labels]
    what = (root / split, os.path.realpath(root), sorted(labels.items()), real, extensions)
    files, notes = listed_once(what, make, FileList.of_columns, asked)
    return files, notes["told"]


def list_read_once(
    path: Path, asked: float, classes: int | None = None, bare: bool = False
) -> FileList:
    """`read_list` by `listed_once`."""
    what = (path, digest_of(path), classes, bare)

    def make(seen: Witness) -> Listing[FileList]:
        return Listing(read_list(path, classes, bare), {})

    return listed_once(what, make, FileList.of_columns, asked).files


def digest_of(path: Path) -> str:
    """SHA-256 of a file, for `what` of `listed_once`; empty for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _name(what: Sequence[object]) -> str:
    here = Path(__file__).parent
    sources = [(here / f"{name}.py").read_bytes() for name in SOURCES]
    user = os.getuid() if hasattr(os, "getuid") else 0
    # the node: a cache in a home folder is that of many machines, whose disks differ
    words = json.dumps([platform.node(), user, np.__version__, *map(str, what)])
    return hashlib.sha256(b"\0".join([*sources, words.encode()])).hexdigest()[:32]


def _load(
    place: Path, build: Callable[[dict[str, np.ndarray]], Files], asked: float
) -> Listing[Files] | None:
    try:
        about = json.loads((place / "about.json").read_text(encoding="utf-8"))
        others = about["process"] != os.getpid() and about["started"] >= asked
        if not others and (about["doubt"] or not _unchanged(about["folders"])):
            return None
        found = _read(place, build, about)
        os.utime(place)  # that it was used
    except (OSError, ValueError, KeyError, TypeError):  # half removed, or another's
        return None
    return found


def _unchanged(folders: dict[str, list[int] | None]) -> bool:
    return all(
        state(path) == (None if known is None else tuple(known)) for path, known in folders.items()
    )


def _read(
    place: Path, build: Callable[[dict[str, np.ndarray]], Files], about: dict[str, Any]
) -> Listing[Files] | None:
    """The list of a folder, mapped; None if it is not what was written."""
    try:
        # plain arrays over the maps: numpy's memmap is slow to cut
        arrays = {p.stem: np.asarray(np.load(p, mmap_mode="r")) for p in place.glob("*.npy")}
        files = build(arrays)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Listing(files, about["notes"]) if files.digest() == about["digest"] else None


def _save(place: Path, files: LabelledFiles, about: dict[str, Any]) -> None:
    """Write a listing whole or not at all, in place of an older one."""
    _remove_unused(place.parent)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=place.parent))
    try:
        for name, array in files.columns().items():
            np.save(draft / f"{name}.npy", array, allow_pickle=False)
        (draft / "about.json").write_text(json.dumps(about), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)  # who has it mapped keeps it
        os.rename(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_unused(folder: Path) -> None:
    limits = {"draft-": 3600, "": UNUSED_DAYS * 86_400}
    for path in folder.iterdir():
        limit = next(limits[start] for start in limits if path.name.startswith(start))
        with suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > limit:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for cycles, of which rows have none: it would go through millions of them many times."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One process of this user and machine at a time; the system opens the lock of one that is gone."""
    file = None
    if fcntl is not None:
        with suppress(OSError):  # nowhere to write, or a file system without locks: each for itself
            place.parent.mkdir(parents=True, exist_ok=True)
            file = (place.parent / f"lock-{place.name[0]}").open("a")
            fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if file is not None:
            file.close()
