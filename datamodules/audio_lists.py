"""AudioSet's lists: the classes, AudioMAE's JSON, the segment CSVs, and the clips of a folder."""

import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from datamodules.audio import AUDIO_EXTENSIONS
from datamodules.csv_lines import cells
from datamodules.errors import DataError
from datamodules.tagged import TaggedList
from datamodules.walking import LeftOut, files_below

HEADER = ["index", "mid", "display_name"]
PLAIN_HEADER = ["path", "labels"]


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


class Row(NamedTuple):
    """One row of a list.

    Attributes:
        number: Its place in the list, 1 the first: the line of a CSV, the entry of a JSON.
        clip: Path of the clip, or in a CSV its YouTube id.
        labels: Label ids with commas in between.
        segment: Start and end of the clip in its video in seconds, as a CSV has them.
    """

    number: int
    clip: str
    labels: str
    segment: tuple[str, str] | None = None


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


def classes_of(paths: Sequence[Path]) -> Classes:
    """The labels that lists of `path,labels` use, in alphabetical order, as classes.

    Raises:
        DataError: A list is of another kind, whose label ids have their names in a label CSV.
    """
    found: set[str] = set()
    for path in paths:
        if not _is_plain(path):
            raise DataError(
                f"{path} is no list with the header {','.join(PLAIN_HEADER)}, the only kind that names "
                "its classes itself; set data.label_csv to the CSV of its classes"
            )
        found.update(name for row in _read_plain(path) for name in split_labels(row.labels))
    names = sorted(found)
    return Classes(paths[0], names, {name: number for number, name in enumerate(names)})


def split_labels(labels: str) -> list[str]:
    """Label ids between commas or semicolons."""
    return [name for name in map(str.strip, labels.replace(";", ",").split(",")) if name]


class ClipFinder:
    """Looks for the clips of several lists and lists each folder once for all of them.

    Args:
        root: Folder that relative paths of lists start from.
        clips: Folder where, or below which, the clips of CSV lists lie.

    Attributes:
        left_out: What was passed over below `clips`.
    """

    def __init__(self, root: str, clips: str) -> None:
        self.root = root
        self.clips = clips
        self.left_out = LeftOut()
        self._names: dict[str, set[str]] = {}  # what is in a folder
        self._stems: dict[str, str] | None = None  # path of a clip below `clips`

    def find(self, rows: Sequence[Row]) -> list[str | None]:
        """Path of each row's clip, absolute or from root on; None for a clip that is not there."""
        ids = {row.clip for row in rows if row.segment is not None}
        return [
            self._by_path(row) if row.segment is None else self._by_id(row, ids) for row in rows
        ]

    def looked_for(self, row: Row) -> str:
        """Where a row's clip is looked for first, in words."""
        if row.segment is None:
            return (
                f"{os.path.join(self.root, row.clip)}; paths are absolute or start from root, "
                f"{self.root}"
            )
        name = os.path.join(self.clips, f"{row.clip}{AUDIO_EXTENSIONS[0]}")
        return (
            f"{name}; the name may start with Y, end with _START or _START_END, have any ending of "
            f"{' '.join(AUDIO_EXTENSIONS)} and lie in any folder below; set data.clips to theirs"
        )

    def _by_path(self, row: Row) -> str | None:
        folder, name = os.path.split(os.path.join(self.root, row.clip))
        if folder not in self._names:
            self._names[folder] = _names_in(folder)
        return row.clip if name in self._names[folder] else None

    def _by_id(self, row: Row, ids: set[str]) -> str | None:
        if self._stems is None:
            self._stems = self._walk()
        for stem in _stems(row):
            # a name that is an id of the list is that clip's alone
            if stem in self._stems and (stem == row.clip or stem not in ids):
                return self._stems[stem]
        return None

    def _walk(self) -> dict[str, str]:
        """Path of every clip below `clips` by its name without ending."""
        root = os.path.join(self.root, "")
        best: dict[str, tuple[int, str]] = {}
        for path in files_below(self.clips, AUDIO_EXTENSIONS, self.left_out):
            stem, ending = os.path.splitext(os.path.basename(path))
            choice = AUDIO_EXTENSIONS.index(ending.lower()), path.removeprefix(root)
            if stem not in best or choice < best[stem]:
                best[stem] = choice
        return {stem: path for stem, (_, path) in best.items()}


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
    found: list[str] = []
    missing: list[str] = []
    labels: list[Sequence[int]] = []
    first: Row | None = None
    for path in paths:
        rows = list(_rows(path, bare))
        if not rows:
            raise DataError(f"{path} lists no clip")
        first = first or rows[0]
        unlabelled = bare and not any(row.labels for row in rows)
        targets = [()] * len(rows) if unlabelled else _targets(path, rows, classes)
        for row, target, clip in zip(rows, targets, finder.find(rows), strict=True):
            if clip is None:
                missing.append(row.clip)
            else:
                found.append(clip)
                labels.append(target)
    if first is not None and not found:
        raise DataError(
            f"{paths[0]}: none of the {len(missing):,} clips listed is there, the first looked for "
            f"is {finder.looked_for(first)}"
        )
    repeated = len(found) - len(set(found))
    return Listed(TaggedList(found, labels, len(classes.names)), missing, repeated)


def _rows(path: Path, bare: bool) -> Iterator[Row]:
    if path.suffix.lower() == ".json":
        return _read_json(path, bare)
    return _read_plain(path, bare) if _is_plain(path) else _read_segments(path)


def _is_plain(path: Path) -> bool:
    try:
        first = cells(_text(path).partition("\n")[0])
    except ValueError:
        return False
    return [name.strip().lower() for name in first] in (PLAIN_HEADER, PLAIN_HEADER[:1])


def _read_plain(path: Path, bare: bool = False) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if number == 1 or not line.strip():
            continue
        try:
            row = cells(line)
            clip, labels = (*row, "") if bare and len(row) == 1 else row
        except ValueError:
            raise DataError(
                f"{path}, line {number}: expected a path and its labels with ; in between, got "
                f"{line.strip()[:80]!r}"
            ) from None
        yield Row(number, clip.strip(), labels)


def _read_json(path: Path, bare: bool) -> Iterator[Row]:
    try:
        content = json.loads(_text(path))
        entries = content["data"]
        if not isinstance(entries, list):
            raise TypeError("data is no list")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f'{path} is not {{"data": [{{"wav": path, "labels": ids}}]}} '
            f"({type(error).__name__}: {error})"
        ) from None
    for number, entry in enumerate(entries, start=1):
        match entry:
            case {"wav": str(clip), "labels": str(labels)}:
                yield Row(number, clip, labels)
            case {"wav": str(clip)} if bare and "labels" not in entry:
                yield Row(number, clip, "")
            case _:
                raise DataError(
                    f'{path}, entry {number}: expected {{"wav": path, "labels": ids}}, got '
                    f"{str(entry)[:80]}"
                )


def _read_segments(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            clip, start, end, *labels = cells(line)
            float(start), float(end)
        except ValueError:
            raise DataError(
                f'{path}, line {number}: expected `YTID, start_seconds, end_seconds, "labels"`, got '
                f"{line[:80]!r}"
            ) from None
        yield Row(number, clip, ",".join(labels), (start, end))


def _targets(path: Path, rows: Sequence[Row], classes: Classes) -> list[tuple[int, ...]]:
    """Class indices of each row."""
    targets = []
    unknown: list[tuple[Row, str]] = []
    bare: list[Row] = []
    for row in rows:
        ids = split_labels(row.labels)
        unknown += [(row, name) for name in ids if name not in classes.ids]
        if not ids:
            bare.append(row)
        targets.append(tuple(classes.ids.get(name, 0) for name in ids))
    if unknown:
        row, name = unknown[0]
        raise DataError(
            f"{path}, {_place(path, row)}: label {name!r} is none of the {len(classes.names)} classes of "
            f"{classes.path}; {len({name for _, name in unknown})} such labels in "
            f"{len({row.number for row, _ in unknown})} of {len(rows)} rows"
        )
    if bare:
        raise DataError(
            f"{path}, {_place(path, bare[0])}: {bare[0].clip} has no label, like {len(bare)} of "
            f"{len(rows)} clips; remove them from the list"
        )
    return targets


def _place(path: Path, row: Row) -> str:
    return f"{'entry' if path.suffix.lower() == '.json' else 'line'} {row.number}"


def _stems(row: Row) -> Iterator[str]:
    """Names that the clip of a CSV's row may have, without ending."""
    names = (row.clip, f"Y{row.clip}")
    yield from names
    for suffix in _suffixes(*row.segment) if row.segment else ():
        yield from (name + suffix for name in names)


@lru_cache(maxsize=4096)  # AudioSet's two million rows start at some hundred different seconds
def _suffixes(start: str, end: str) -> tuple[str, ...]:
    """`_START`, `_START_END` and `_START-END`, in seconds as people write them, and milliseconds."""
    times = [_spellings(float(time)) for time in (start, end)]
    pairs = [first + mark + last for mark in "_-" for first, last in zip(*times, strict=True)]
    return tuple(dict.fromkeys(f"_{suffix}" for suffix in [*times[0], *pairs]))


def _spellings(seconds: float) -> list[str]:
    plain = f"{seconds:.3f}"
    return [plain, plain.rstrip("0").rstrip("."), f"{seconds:.1f}", f"{1000 * seconds:.0f}"]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _names_in(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from None
