"""Files below a folder: each real file once, and an account of all that is left out."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path

from datamodules.errors import DataError
from datamodules.witness import Witness

# Folders that systems and viewers make beside the data: Synology, QNAP, Windows, macOS, Linux.
NOT_DATA = (
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin",
    "system volume information", "thumbs", "thumbnails", "__macosx", "lost+found",
)  # fmt: skip
SHOWN = 3  # paths that a message names
BATCH = 50_000  # names that are held at once


@dataclass
class LeftOut:
    """What walks have passed over.

    Attributes:
        endings: Files with an ending that was not asked for, by that ending.
        hidden: Files whose name starts with a dot.
        folders: Hidden folders and those of `NOT_DATA`, with all that is in them.
        links: Links to what was found already, or to a folder that they lie in.
        loose: Files beside class folders.
    """

    endings: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)

    def note(self, name: str) -> None:
        """Note a file that is not wanted."""
        if name.startswith("."):
            self.hidden += 1
        else:
            self.endings[os.path.splitext(name)[1].lower() or "none"] += 1

    def note_beside(
        self, folder: str | Path, classes: Collection[str], extensions: tuple[str, ...]
    ) -> None:
        """Note what lies in a folder of class folders besides these."""
        for entry in entries(folder):
            if not entry.is_dir():
                self.loose += [entry.path] if _wanted(entry.name, frozenset(extensions)) else []
            elif not is_data(entry.name):
                self.folders.append(entry.path)
            elif entry.is_symlink() and entry.name not in classes:
                self.links.append(entry.path)

    def describe(self) -> str:
        """All of it in one line; empty for nothing."""
        kinds = ", ".join(f"{ending} {count:,}" for ending, count in self.endings.most_common())
        parts = [
            (self.endings.total(), "files with other endings", kinds),
            (len(self.loose), "files in no class folder", _some(self.loose)),
            (self.hidden, "hidden files", ""),
            (len(self.folders), "hidden, thumbnail or system folders", _some(self.folders)),
            (len(self.links), "links to what is listed already", _some(self.links)),
        ]
        reasons = [
            f"{count:,} {what}{names and f' ({names})'}" for count, what, names in parts if count
        ]
        return f"left out: {'; '.join(reasons)}" if reasons else ""


def is_data(name: str) -> bool:
    """Whether a folder of that name may hold data: neither hidden nor one of `NOT_DATA`."""
    return not name.startswith(".") and name.lower() not in NOT_DATA


def above(folder: str | Path) -> set[str]:
    """The real paths of the folders that a folder lies in, along its path and along its real path."""
    path = Path(folder).absolute()
    return {
        os.path.realpath(parent) for place in (path, path.resolve()) for parent in place.parents
    }


def entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, in any order.

    Raises:
        DataError: It cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}; check the path") from None


def names_in(folder: str) -> Iterator[list[str]]:
    """Names of all that is in a folder, in batches; none where there is no such folder.

    Raises:
        DataError: It cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            while names := [entry.name for entry in islice(found, BATCH)]:
                yield names
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from None


def files_below(
    folder: str | Path,
    extensions: tuple[str, ...],
    left_out: LeftOut | None = None,
    taken: Collection[str] = (),
    seen: Witness | None = None,
) -> Iterator[str]:
    """Paths of all files below a folder with these endings, each real file once.

    As `batches_below`, one path at a time.
    """
    for here, names in batches_below(folder, extensions, left_out, taken, seen):
        prefix = os.path.join(here, "")
        yield from (prefix + name for name in names)


def batches_below(
    folder: str | Path,
    extensions: tuple[str, ...],
    left_out: LeftOut | None = None,
    taken: Collection[str] = (),
    seen: Witness | None = None,
) -> Iterator[tuple[str, list[str]]]:
    """Folder and names of all files below a folder with these endings, each real file once.

    In any order and in batches of at most `BATCH`, since millions need not be sorted or held twice;
    but links are followed after all else, and by name, so that what has a path without one is found by
    that.

    Args:
        folder: Where to look.
        extensions: Endings in lower case, from their one dot on.
        left_out: Takes note of what is passed over.
        taken: Real paths of folders that links are not followed to, besides those that `folder` lies in.
        seen: Takes note of the state of each folder before it is listed, and of links.

    Raises:
        DataError: A folder cannot be listed.
    """
    left_out = LeftOut() if left_out is None else left_out
    seen = Witness() if seen is None else seen
    endings, closed = frozenset(extensions), {*taken, *above(folder)}
    walked: set[str] = set()
    folders, linked_folders = [str(folder)], list[str]()
    linked_files: list[str] = []
    while folders or linked_folders:
        here = folders.pop() if folders else heappop(linked_folders)
        seen.note(here)
        real = os.path.realpath(here)
        if real in walked or (real in closed and walked):  # the first one is never passed over
            left_out.links.append(here)
            continue
        walked.add(real)
        found = entries(here)
        while batch := list(islice(found, BATCH)):
            names: list[str] = []
            for entry in batch:
                name = entry.name
                if entry.is_dir():
                    if not is_data(name):
                        left_out.folders.append(entry.path)
                    elif entry.is_symlink():
                        heappush(linked_folders, entry.path)
                    else:
                        folders.append(entry.path)
                    continue
                link = entry.is_symlink()
                if link:
                    seen.links = True  # of which nothing tells when what it leads to is another
                # `_wanted`, without the call, and most endings without a search: a million times
                wanted = name[-4:] in endings or name[name.rfind(".") :].lower() in endings
                if not wanted or name[0] == ".":
                    left_out.note(name)
                elif link:
                    linked_files.append(entry.path)
                else:
                    names.append(name)
            yield here, names
    for path in _resolved(sorted(linked_files), endings, walked, left_out):
        yield os.path.dirname(path), [os.path.basename(path)]


def _resolved(
    links: list[str], endings: Set[str], walked: set[str], left_out: LeftOut
) -> Iterator[str]:
    """The links among files whose real file neither lies in a folder walked nor came before."""
    found: set[str] = set()
    for link in links:
        real = os.path.realpath(link)
        parent, name = os.path.split(real)
        there = parent in walked and _wanted(name, endings) and os.path.exists(real)
        if there or real in found:
            left_out.links.append(link)
        else:
            found.add(real)
            yield link


def _wanted(name: str, endings: Set[str]) -> bool:
    # not str.endswith of forty endings, which takes four times as long
    return name[name.rfind(".") :].lower() in endings and name[0] != "."


def _some(paths: list[str]) -> str:
    return f"{', '.join(sorted(paths)[:SHOWN])}{', ...' if len(paths) > SHOWN else ''}"
