"""Finds the clips that AudioSet's lists name, among millions of files, with a few arrays."""

import os
from array import array
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from datamodules.packed import CHUNK, Finder, Packed, Packer, encoded, offsets_of
from datamodules.sounds.reading import AUDIO_EXTENSIONS
from datamodules.sounds.rows import Segment
from datamodules.walking import LeftOut, batches_below, names_in
from datamodules.witness import Witness

WORST = np.iinfo(np.int32).max
TIMES = tuple(
    b"%c" % c for c in b"0123456789-ni"
)  # first characters of a time: digits, a sign, nan, inf
SEPARATOR = os.sep.encode()
_ENDINGS = {ending: place for place, ending in enumerate(AUDIO_EXTENSIONS)}


class Clips(NamedTuple):
    """The clips of a list.

    Attributes:
        names: Path of each clip, or its YouTube id: N.
        segments: The different segments of a CSV; none in a list of paths.
        segment: Which of them each clip is: int32 `[N]`.
    """

    names: Packed
    segments: list[Segment]
    segment: np.ndarray


class ClipFinder:
    """Looks for the clips of several lists and walks a folder once for all of them.

    Args:
        root: Folder that relative paths of lists start from.
        clips: Folder where, or below which, the clips of CSV lists lie.

    Attributes:
        left_out: What was passed over below `clips`.
        seen: The state of all folders that were listed.
    """

    def __init__(self, root: str, clips: str) -> None:
        self.root = root
        self.clips = clips
        self.left_out = LeftOut()
        self.seen = Witness()
        self._sounds: _Sounds | None = None  # below clips

    def find(self, clips: Clips) -> tuple[np.ndarray, Packed]:
        """Which clips are there, bool `[N]`, and the path of each of these, absolute or from root on."""
        if clips.segments:
            return self._by_id(clips)
        there = self._by_path(clips.names)
        whole = there.all()
        return there, clips.names if whole else clips.names.take(np.flatnonzero(there))

    def looked_for(self, clip: str, by_id: bool) -> str:
        """Where a clip is looked for first, in words."""
        if not by_id:
            return f"{os.path.join(self.root, clip)}; paths are absolute or start from root, {self.root}"
        name = os.path.join(self.clips, f"{clip}{AUDIO_EXTENSIONS[0]}")
        return (
            f"{name}; the name may start with Y, end with _START or _START_END, have any ending of "
            f"{' '.join(AUDIO_EXTENSIONS)} and lie in any folder below; set data.clips to theirs"
        )

    def _by_path(self, paths: Packed) -> np.ndarray:
        """Whether each path is there, by listing its folder: bool `[N]`."""
        folders: dict[str, list[str]] = {}  # folder, and what its paths begin with in the list
        for raw in sorted({path[: _last_separator(path) + 1] for path in paths.raw()}):
            text = os.fsdecode(raw)
            folder = os.path.split(os.path.join(self.root, f"{text}x"))[0]
            folders.setdefault(folder, []).append(text)
        finder, there = Finder(paths), np.zeros(paths.total, dtype=bool)
        for folder, starts in folders.items():
            self.seen.note(folder)
            for names in names_in(folder):
                for front in starts:
                    rows = finder.find(encoded([front + name for name in names]))
                    there[rows[rows >= 0]] = True
        return there[finder.firsts()]

    def _by_id(self, clips: Clips) -> tuple[np.ndarray, Packed]:
        finder = Finder(clips.names)
        ids = _Ids(finder.firsts())
        if self._sounds is None:
            self._sounds = _walk(self.clips, os.path.join(self.root, ""), self.left_out, self.seen)
        sounds = self._sounds
        # of each row the best file so far: place of its name among those it may have, then its ending
        merit = np.full(clips.names.total, WORST, dtype=np.int32)
        file = np.zeros(clips.names.total, dtype=np.int32)
        for some in _pieces(sounds.readings, CHUNK):
            row, theirs, number = _matches(some, sounds, finder, ids, clips)
            same = theirs == merit[row]
            for n in np.flatnonzero(same).tolist():  # equal but for their folders
                same[n] = sounds.path(int(number[n])) < sounds.path(int(file[row[n]]))
            better = same | (theirs < merit[row])
            merit[row[better]], file[row[better]] = theirs[better], number[better]
        there = merit < WORST
        return there, sounds.paths(file[there])


class _Readings(NamedTuple):
    """M ways to read names of files as an id: without a Y at the front, without a time at the end.

    Attributes:
        file: Number of the file: int32 `[M]`.
        y: Whether a Y precedes the id: bool `[M]`.
        stop: Where the id ends in the name: uint8 `[M]`.
        hash: Python's hash of the id: int64 `[M]`.
    """

    file: np.ndarray
    y: np.ndarray
    stop: np.ndarray
    hash: np.ndarray


class _Sounds(NamedTuple):
    """N files below a folder.

    Attributes:
        names: Their names.
        folder: Number of the folder of each: int32 `[N]`.
        starts: What the paths in a folder begin with.
        readings: All ways to read their names.
    """

    names: Packed
    folder: np.ndarray
    starts: list[str]
    readings: _Readings

    def path(self, file: int) -> str:
        """Path of one file."""
        return self.starts[self.folder[file]] + self.names.at(file)

    def paths(self, files: np.ndarray) -> Packed:
        """Paths of some files, in this order."""
        packer = Packer()
        for first in range(0, len(files), CHUNK):
            some = files[first : first + CHUNK]
            starts = map(self.starts.__getitem__, self.folder[some].tolist())
            names = self.names.take(some).strings()
            packer.add([start + name for start, name in zip(starts, names, strict=True)])
        return packer.packed()


def _walk(folder: str, root: str, left_out: LeftOut, seen: Witness) -> _Sounds:
    names, folders, starts = Packer(), array("i"), dict[str, int]()
    readings: list[_Readings] = []
    for here, batch in batches_below(folder, AUDIO_EXTENSIONS, left_out, seen=seen):
        start = os.path.join(here, "").removeprefix(root)
        readings.append(_read_names(encoded(batch), len(folders)))
        names.add(batch)
        folders.extend([starts.setdefault(start, len(starts))] * len(batch))
    columns = [np.concatenate(column) for column in zip(*readings, strict=True)]
    folder_of = np.frombuffer(folders, dtype=np.int32)
    return _Sounds(names.packed(), folder_of, list(starts), _Readings(*columns))


def _read_names(names: list[bytes], first: int) -> _Readings:
    """All readings of names with endings, the first of which has number `first`."""
    ids: list[bytes] = []
    files: list[int] = []
    for number, name in enumerate(names, start=first):
        stem = name[: name.rfind(b".")]
        ids.append(stem)
        files.append(number)
        cut = stem.find(b"_")
        while cut >= 0:
            if stem[cut + 1 : cut + 2] in TIMES:
                ids.append(stem[:cut])
                files.append(number)
            cut = stem.find(b"_", cut + 1)
    yes = [n for n, name in enumerate(ids) if name.startswith(b"Y")]
    file, stop = np.array(files, dtype=np.int32), np.array([*map(len, ids)], dtype=np.uint8)
    ids += [ids[n][1:] for n in yes]
    return _Readings(
        file=np.concatenate([file, file[yes]]),
        y=np.arange(len(ids)) >= len(files),
        stop=np.concatenate([stop, stop[yes]]),
        hash=np.fromiter(map(hash, ids), np.int64, len(ids)),
    )


class _Ids:
    """The rows of a list by the first row of their id.

    Args:
        firsts: The first row with the same id, of each row: int64 `[N]`.
    """

    def __init__(self, firsts: np.ndarray) -> None:
        self._order = firsts.argsort(kind="stable").astype(np.int32)  # rows of one id side by side
        self._sorted = firsts[self._order].astype(np.int32)

    def rows(self, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All rows of these ids, and which of the ids each is of: int64 `[n]`."""
        firsts = firsts.astype(np.int32)
        low = np.searchsorted(self._sorted, firsts)
        count = np.searchsorted(self._sorted, firsts, "right") - low
        of = np.repeat(np.arange(len(firsts)), count)
        rows = self._order[np.arange(len(of)) + np.repeat(low - offsets_of(count)[:-1], count)]
        return rows.astype(np.int64), of


def _matches(
    some: _Readings, sounds: _Sounds, finder: Finder, ids: _Ids, clips: Clips
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that some readings are the clip of, how good a name it is, and the file: `[n]`, rows once."""
    maybe = _Readings(*(column[finder.has(some.hash)] for column in some))
    names = list(sounds.names.take(maybe.file).raw())
    readings = list(zip(names, maybe.y.tolist(), maybe.stop.tolist(), strict=True))
    first = finder.find([name[y:stop] for name, y, stop in readings])
    hits = np.flatnonzero(first >= 0)
    row, of = ids.rows(first[hits])
    at = hits[of]
    endings = [name[name.rfind(b".") :] for name in names]
    tails = [
        name[stop:].removesuffix(end)
        for (name, _, stop), end in zip(readings, endings, strict=True)
    ]
    rank = _ranks(clips, row, [tails[n] for n in at.tolist()], maybe.y[at])
    # a name that is an id of the list is that clip's alone
    whole = finder.find([name.removesuffix(end) for name, end in zip(names, endings, strict=True)])
    fits = (rank == 0) | ((rank > 0) & (whole[at] < 0))
    row, at, rank = row[fits], at[fits], rank[fits]
    ending = [_ENDINGS[os.fsdecode(endings[n]).lower()] for n in at.tolist()]
    merit = rank * len(AUDIO_EXTENSIONS) + np.array(ending, dtype=np.int64)
    return _best(row, merit.astype(np.int32), maybe.file[at], sounds)


def _best(
    row: np.ndarray, merit: np.ndarray, file: np.ndarray, sounds: _Sounds
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each row once, with the least merit, and of equal ones the first path."""
    order = np.lexsort((merit, row))
    row, merit, file = row[order], merit[order], file[order]
    first = np.flatnonzero(np.diff(row, prepend=-1))
    chosen, stops = file[first], np.append(first[1:], len(row))
    for n in np.flatnonzero(stops - first > 1).tolist():
        theirs = slice(first[n], stops[n])
        equal = file[theirs][merit[theirs] == merit[first[n]]].tolist()
        chosen[n] = min(equal, key=sounds.path)
    return row[first], merit[first], chosen


def _pieces(readings: _Readings, size: int) -> Iterator[_Readings]:
    for first in range(0, len(readings.file), size):
        yield _Readings(*(column[first : first + size] for column in readings))


def _ranks(clips: Clips, rows: np.ndarray, tails: list[bytes], y: np.ndarray) -> np.ndarray:
    """Place of each name among those that the clip of its row may have, -1 for none of them."""
    places = np.zeros(len(rows), dtype=np.int64)
    for n, tail in enumerate(tails):
        if tail:
            ends = suffixes(*clips.segments[clips.segment[rows[n]]])
            text = os.fsdecode(tail)
            places[n] = ends.index(text) + 1 if text in ends else -1
    return np.where(places < 0, -1, 2 * places + y)


@lru_cache(maxsize=4096)  # AudioSet's two million rows start at some hundred different seconds
def suffixes(start: str, end: str) -> tuple[str, ...]:
    """`_START`, `_START_END` and `_START-END`, in seconds as people write them, and milliseconds."""
    times = [_spellings(float(time)) for time in (start, end)]
    pairs = [first + mark + last for mark in "_-" for first, last in zip(*times, strict=True)]
    return tuple(dict.fromkeys(f"_{suffix}" for suffix in [*times[0], *pairs]))


def _spellings(seconds: float) -> list[str]:
    plain = f"{seconds:.3f}"
    return [plain, plain.rstrip("0").rstrip("."), f"{seconds:.1f}", f"{1000 * seconds:.0f}"]


def _last_separator(path: bytes) -> int:
    return path.replace(b"/", SEPARATOR).rfind(SEPARATOR)
