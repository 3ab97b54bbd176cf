"""AudioSet's lists: the classes, and what lists name and is there."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.csv_lines import cells
from datamodules.errors import DataError
from datamodules.packed import Finder, Packed, Packer, Spans, offsets_of, pack
from datamodules.sounds.clip_finder import ClipFinder, Clips
from datamodules.sounds.rows import (
    PLAIN_HEADER,
    Rows,
    Segment,
    is_plain,
    place,
    plain_rows,
    read_rows,
)
from datamodules.sounds.tagged import TaggedList, Tags

HEADER = ["index", "mid", "display_name"]
SEPARATORS = np.isin(np.arange(256), list(b",;"))  # of labels


class Classes(NamedTuple):
    """The classes of a label CSV.

    Attributes:
        path: The CSV.
        names: Display names in the order of the index.
        ids: Class index of each label id, such as `/m/09x0r`.
    """

    path: Path
    names: list[str]
    ids: dict[str, int]


class Listed(NamedTuple):
    """What lists name.

    Attributes:
        files: The clips that are there.
        missing: Those that are not: path or YouTube id, as in the list.
        repeated: How many of `files` were in the lists before.
    """

    files: TaggedList
    missing: list[str]
    repeated: int


def read_classes(path: Path) -> Classes:
    """Read a label CSV, `index,mid,display_name`, with any number of classes in any order.

    Raises:
        DataError: The file is missing, its header another, a label id there twice, or the index not
            every number from 0 on once.
    """
    try:
        rows = [cells(line) for line in _text(path).split("\n") if line.strip()]
    except ValueError as error:
        raise DataError(f"{path} is no CSV of classes: {error}") from None
    if not rows or rows[0] != HEADER:
        raise DataError(
            f"{path}: expected the header {','.join(HEADER)}, got "
            f"{','.join(rows[0])[:80] if rows else 'an empty file'}"
        )
    names: dict[int, str] = {}
    index: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(HEADER) or not row[0].isdecimal():
            raise DataError(f"{path}, class {number}: expected {','.join(HEADER)}, got {row}")
        if row[1] in index or int(row[0]) in names:
            twice = f"label {row[1]}" if row[1] in index else f"index {row[0]}"
            raise DataError(f"{path}, class {number}: {twice} is there a second time")
        index[row[1]], names[int(row[0])] = int(row[0]), row[2]
    gaps = set(range(len(names))) - set(names)
    if gaps:
        raise DataError(
            f"{path}: {len(names)} classes must have the indices 0 to {len(names) - 1}, but none "
            f"has {min(gaps)}"
        )
    return Classes(path, [names[number] for number in range(len(names))], index)


def audioset527() -> list[str]:
    """Display names of AudioSet's classes in the order of their index (CC0, of its authors)."""
    file = Path(__file__).with_name("audioset527.txt")
    return file.read_text(encoding="utf-8").splitlines()


def classes_of(paths: Sequence[Path]) -> Classes:
    """The labels that lists of `path,labels` use, in alphabetical order, as classes.

    Raises:
        DataError: A list is of another kind, whose label ids have their names in a label CSV.
    """
    found: set[str] = set()
    for path in paths:
        if not is_plain(path):
            raise DataError(
                f"{path} is no list with the header {','.join(PLAIN_HEADER)}, the only kind that names "
                "its classes itself; set data.label_csv to the CSV of its classes"
            )
        for rows in plain_rows(path):
            found.update(
                name for labels in set(rows.labels.strings()) for name in split_labels(labels)
            )
    names = sorted(found)
    return Classes(paths[0], names, {name: number for number, name in enumerate(names)})


def split_labels(labels: str) -> list[str]:
    """Label ids between commas or semicolons."""
    return [name for name in map(str.strip, labels.replace(";", ",").split(",")) if name]


def read_lists(
    paths: Sequence[Path], classes: Classes, finder: ClipFinder, bare: bool = False
) -> Listed:
    """Read one list or several, JSON or CSV, one after the other, and look for their clips.

    A JSON, known by the ending of its name, is AudioMAE's `{"data": [{"wav": path, "labels": ids}]}`
    and has paths, as has a CSV with the header `path,labels`, whose ids are separated by `;` (or, in
    quotes, by commas); any other CSV is AudioSet's `YTID, start_seconds, end_seconds, "ids"`. It has
    YouTube ids, whose clips, already cut, are called `YTID` or `YYTID`, maybe with `_START` or
    `_START_END` in seconds or milliseconds, and an ending of `AUDIO_EXTENSIONS`. Of several such
    files an exact name wins, then the order of the endings.

    Args:
        paths: The lists.
        classes: The classes that their labels are of.
        finder: Where the clips are.
        bare: Whether a list may be one without any labels, in a CSV or JSON of paths.

    Raises:
        DataError: A list is missing, empty or malformed, has labels that are no class or clips
            without labels, or not a single clip is there.
    """
    lists: list[TaggedList] = []
    missing: list[str] = []
    first = ""
    for path in paths:
        clips, tags = _read(path, classes, bare)
        there, found = finder.find(clips)
        lost = np.flatnonzero(~there)
        missing += clips.names.strings(lost)
        first = first or finder.looked_for(clips.names.at(0), bool(clips.segments))
        files = TaggedList(clips.names, tags, len(classes.names))
        kept = files.keep(there) if len(lost) else files
        lists.append(TaggedList(found, kept.tags, len(classes.names)))
        del clips, files, kept  # the names of two million
    if paths and not any(map(len, lists)):
        raise DataError(
            f"{paths[0]}: none of the {len(missing):,} clips listed is there, the first looked for "
            f"is {first}"
        )
    files = reduce(TaggedList.joined, lists)
    lists.clear()
    return Listed(files, missing, files.paths.repeats())


def _read(path: Path, classes: Classes, bare: bool) -> tuple[Clips, Tags]:
    """All rows of a list."""
    names, targets = Packer(), _Targets(path, classes)
    segments: dict[Segment, int] = {}
    segment = [np.empty(0, dtype=np.int32)]
    for rows in read_rows(path, bare):
        names.extend(rows.clips)
        targets.add(rows)
        numbers = [segments.setdefault(pair, len(segments)) for pair in rows.segments]
        segment.append(np.array(numbers, dtype=np.int32)[rows.segment])
    packed = names.packed()
    if not packed.total:
        raise DataError(f"{path} lists no clip")
    return Clips(packed, list(segments), np.concatenate(segment)), targets.tags(bare)


class _Targets:
    """Class indices of the rows of a list as they come, and what is wrong with their labels."""

    def __init__(self, path: Path, classes: Classes) -> None:
        self.path, self.classes = path, classes
        ids = {name: index for name, index in classes.ids.items() if name == name.strip()}
        self._ids = Finder(pack(ids))
        self._class = np.array([*ids.values(), -1], dtype=np.int32)  # -1 of what is not found
        self._flat, self._lengths = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
        self._rows = 0
        self._any = False  # whether a row has labels
        self._unknown: list[tuple[int, str]] = []  # number of a row, label
        self._bare: list[tuple[int, str]] = []  # number of a row, clip

    def add(self, rows: Rows) -> None:
        """Take the labels of some rows."""
        of, labels = _split(rows.labels)
        found = self._class[self._ids.find(labels)]
        plain = np.bincount(of, minlength=rows.labels.total) > 0
        plain[of[found < 0]] = False
        known = plain[of]
        of, found = of[known], found[known]
        odd = np.flatnonzero(~plain).tolist()  # with no label, one that is no class, or odd spaces
        looked_up = [self._look_up(rows, n) for n in odd]
        of = np.append(of, np.repeat(np.array(odd, np.int64), [*map(len, looked_up)]))
        found = np.append(found, np.array([c for row in looked_up for c in row], np.int32))
        each = np.sort(of * len(self._class) + found, kind="stable")  # by row, then class
        each = each[np.diff(each, prepend=-1) > 0]  # once; np.unique takes five times as long
        of, found = np.divmod(each, len(self._class))
        self._flat.append(found.astype(np.int32))
        self._lengths.append(np.bincount(of, minlength=rows.clips.total).astype(np.int32))
        self._rows += rows.clips.total
        self._any |= bool(rows.labels.blob.size)

    def tags(self, bare: bool) -> Tags:
        """All of them; rows without any label only where no row has one and `bare` is true."""
        if self._unknown:
            number, name = self._unknown[0]
            raise DataError(
                f"{self.path}, {place(self.path, number)}: label {name!r} is none of the "
                f"{len(self.classes.names)} classes of {self.classes.path}; "
                f"{len({name for _, name in self._unknown})} such labels in "
                f"{len({number for number, _ in self._unknown})} of {self._rows} rows"
            )
        if self._bare and (self._any or not bare):
            number, clip = self._bare[0]
            raise DataError(
                f"{self.path}, {place(self.path, number)}: {clip} has no label, like "
                f"{len(self._bare)} of {self._rows} clips; remove them from the list"
            )
        return Tags(offsets_of(np.concatenate(self._lengths)), np.concatenate(self._flat))

    def _look_up(self, rows: Rows, row: int) -> list[int]:
        number, names = int(rows.numbers[row]), split_labels(rows.labels.at(row))
        self._unknown += [(number, name) for name in names if name not in self.classes.ids]
        if not names:
            self._bare.append((number, rows.clips.at(row)))
        return [self.classes.ids[name] for name in names if name in self.classes.ids]


def _split(labels: Packed) -> tuple[np.ndarray, Spans]:
    """`split_labels` of many rows, but for white space that is not ASCII: row of each, and the ids."""
    marks = np.flatnonzero(SEPARATORS[labels.blob])
    starts = np.sort(np.append(labels.offsets[:-1], marks + 1))
    stops = np.sort(np.append(labels.offsets[1:], marks))
    count = np.diff(np.searchsorted(marks, labels.offsets)) + 1
    of, ids = np.repeat(np.arange(labels.total), count), Spans(labels.blob, starts, stops)
    ids = ids.stripped()
    some = ids.lengths > 0
    return of[some], ids.take(some)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
