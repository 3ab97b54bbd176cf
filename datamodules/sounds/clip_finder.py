"""Finds the clips that AudioSet's lists name, among millions of files, with a few arrays."""

import os
from array import array
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from datamodules.packed import CHUNK, Finder, Packed, Packer, Spans, offsets_of, pack, side_by_side
from datamodules.sounds.reading import AUDIO_EXTENSIONS
from datamodules.sounds.rows import Segment
from datamodules.walking import LeftOut, batches_below, names_in
from datamodules.witness import Witness

# first characters of a time: digits, a sign, nan, inf
TIMES = np.isin(np.arange(256), list(b"0123456789-ni"))
DOT = np.isin(np.arange(256), list(b"."))
SEPARATORS = np.isin(np.arange(256), list(f"/{os.sep}".encode()))
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
        for text in sorted(_folders(paths), key=os.fsencode):
            folder = os.path.split(os.path.join(self.root, f"{text}x"))[0]
            folders.setdefault(folder, []).append(text)
        finder, there = Finder(paths), np.zeros(paths.total, dtype=bool)
        for folder, starts in folders.items():
            self.seen.note(folder)
            for names in names_in(folder):
                for front in starts:
                    rows = finder.find(pack(front + name for name in names).spans)
                    there[rows[rows >= 0]] = True
        return there[finder.firsts()]

    def _by_id(self, clips: Clips) -> tuple[np.ndarray, Packed]:
        if self._sounds is None:
            self._sounds = _walk(self.clips, os.path.join(self.root, ""), self.left_out, self.seen)
        chosen = _choose(clips, self._sounds)
        there = chosen >= 0
        return there, self._sounds.paths(chosen[there])


class _Readings(NamedTuple):
    """M ways to read the names of n files as an id: without Y at the front, without a time at the end.

    Attributes:
        names: The names: n.
        stems: Where their endings begin: int64 `[n]`.
        ids: What is read, M; the first n are the names without their endings.
        of: Which of the n files each is of: int64 `[M]`.
        y: Whether a Y precedes each: bool `[M]`.
        first: The number of the first of these files.
    """

    names: Spans
    stems: np.ndarray
    ids: Spans
    of: np.ndarray
    y: np.ndarray
    first: int


class _Sounds(NamedTuple):
    """N files below a folder.

    Attributes:
        names: Their names.
        folder: Number of the folder of each: int32 `[N]`.
        starts: What the paths in a folder begin with.
    """

    names: Packed
    folder: np.ndarray
    starts: Packed

    def readings(self) -> Iterator[_Readings]:
        """All ways to read their names, of some files at a time; at least once."""
        for first in range(0, max(1, self.names.total), CHUNK):
            ends = self.names.offsets[first : first + CHUNK + 1]
            yield _read_names(Spans(self.names.blob, ends[:-1], ends[1:]), first)

    def path(self, file: int) -> str:
        """Path of one file."""
        return self.starts.at(self.folder[file]) + self.names.at(file)

    def paths(self, files: np.ndarray) -> Packed:
        """Paths of some files, in this order."""
        packer = Packer()
        for first in range(0, len(files), CHUNK):
            some = files[first : first + CHUNK]
            packer.extend(side_by_side(self.starts.take(self.folder[some]), self.names.take(some)))
        return packer.packed()


def _walk(folder: str, root: str, left_out: LeftOut, seen: Witness) -> _Sounds:
    names, folders, starts = Packer(), array("i"), dict[str, int]()
    for here, batch in batches_below(folder, AUDIO_EXTENSIONS, left_out, seen=seen):
        start = os.path.join(here, "").removeprefix(root)
        names.add(batch)
        folders.extend([starts.setdefault(start, len(starts))] * len(batch))
    return _Sounds(names.packed(), np.frombuffer(folders, dtype=np.int32), pack(starts))


def _read_names(names: Spans, first: int) -> _Readings:
    """All readings of names with endings, the first of which has number `first`."""
    stems, blob = names.last(DOT), names.blob
    low, high = (names.starts[0], names.stops[-1]) if len(stems) else (0, 0)
    cuts = np.flatnonzero(blob[low:high] == ord("_")) + low
    of = np.searchsorted(names.stops, cuts, "right")  # the name it lies in
    inside = cuts + 1 < stems[of]
    inside[inside] = TIMES[blob[cuts[inside] + 1]]
    of = np.concatenate([np.arange(len(stems)), of[inside]])
    starts, stops = names.starts[of], np.concatenate([stems, cuts[inside]])
    yes = np.flatnonzero(stops > starts)
    yes = yes[blob[starts[yes]] == ord("Y")]
    ids = Spans(
        blob, np.concatenate([starts, starts[yes] + 1]), np.concatenate([stops, stops[yes]])
    )
    y = np.arange(len(ids.starts)) >= len(of)
    return _Readings(names, stems, ids, np.concatenate([of, of[yes]]), y, first)


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


def _choose(clips: Clips, sounds: _Sounds) -> np.ndarray:
    """The file of each clip, -1 for none: int32 `[N]`. Of several the best name, then the first path."""
    finder = Finder(clips.names)
    ids = _Ids(finder.firsts())
    parts = [_matches(some, finder, ids, clips) for some in sounds.readings()]
    row, merit, file = map(np.concatenate, zip(*parts, strict=True))
    del finder, ids, parts
    order = np.lexsort((merit, row))
    row, merit, file = row[order], merit[order], file[order]
    chosen, least = np.full((2, clips.names.total), -1, dtype=np.int32)
    front = np.flatnonzero(np.diff(row, prepend=-1))
    chosen[row[front]], least[row[front]] = file[front], merit[front]
    equal = (np.diff(row) == 0) & (merit[1:] == least[row[1:]])  # but for their folders
    for n in np.flatnonzero(equal).tolist():
        chosen[row[n]] = min(int(chosen[row[n]]), int(file[n + 1]), key=sounds.path)
    return chosen


def _matches(
    some: _Readings, finder: Finder, ids: _Ids, clips: Clips
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that some readings are the clip of, how good a name it is, and the file: int32 `[n]` each.

    0 is the best name of a row.
    """
    first = finder.find(some.ids)
    hits = np.flatnonzero(first >= 0)
    row, which = ids.rows(first[hits])
    at = hits[which]
    of = some.of[at]
    tails = Spans(some.ids.blob, some.ids.stops[at], some.stems[of])
    rank = _ranks(clips, row, tails, some.y[at])
    # a name that is an id of the list is that clip's alone
    fits = (rank == 0) | ((rank > 0) & (first[: len(some.stems)][of] < 0))
    row, rank, of = row[fits], rank[fits], of[fits]
    merit = rank * len(AUDIO_EXTENSIONS) + _endings(some, of)
    return row.astype(np.int32), merit.astype(np.int32), (of + some.first).astype(np.int32)


def _endings(some: _Readings, of: np.ndarray) -> np.ndarray:
    """Place of the endings of these files among `AUDIO_EXTENSIONS`: int64."""
    endings = Spans(some.names.blob, some.stems[of], some.names.stops[of])
    rows, which = endings.distinct()
    return np.array([_ENDINGS[endings.at(row).lower()] for row in rows], dtype=np.int64)[which]


def _ranks(clips: Clips, rows: np.ndarray, tails: Spans, y: np.ndarray) -> np.ndarray:
    """Place of each name among those that the clip of its row may have, -1 for none of them."""
    places = np.zeros(len(rows), dtype=np.int64)
    timed = np.flatnonzero(tails.lengths)
    tails = tails.take(timed)
    different, which = tails.distinct()
    texts = [tails.at(row) for row in different]
    both = clips.segment[rows[timed]].astype(np.int64) * len(texts) + which
    pairs, pair = np.unique(both, return_inverse=True)  # some hundred different ones
    found = [_place(clips.segments[n // len(texts)], texts[n % len(texts)]) for n in pairs.tolist()]
    places[timed] = np.array(found, dtype=np.int64)[pair]
    return np.where(places < 0, -1, 2 * places + y)


def _place(segment: Segment, tail: str) -> int:
    ends = suffixes(*segment)
    return ends.index(tail) + 1 if tail in ends else -1


@lru_cache(maxsize=4096)  # AudioSet's two million rows start at some hundred different seconds
def suffixes(start: str, end: str) -> tuple[str, ...]:
    """`_START`, `_START_END` and `_START-END`, in seconds as people write them, and milliseconds."""
    times = [_spellings(float(time)) for time in (start, end)]
    pairs = [first + mark + last for mark in "_-" for first, last in zip(*times, strict=True)]
    return tuple(dict.fromkeys(f"_{suffix}" for suffix in [*times[0], *pairs]))


def _spellings(seconds: float) -> list[str]:
    plain = f"{seconds:.3f}"
    return [plain, plain.rstrip("0").rstrip("."), f"{seconds:.1f}", f"{1000 * seconds:.0f}"]


def _folders(paths: Packed) -> set[str]:
    """What the paths begin with, up to their last separator."""
    found = set[str]()
    for first in range(0, paths.total, CHUNK):
        some = paths.spans.take(slice(first, first + CHUNK))
        starts = some._replace(stops=some.last(SEPARATORS) + 1)
        found.update(starts.at(row) for row in starts.distinct()[0])
    return found
