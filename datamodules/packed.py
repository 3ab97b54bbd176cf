"""Millions of strings in two numpy arrays: their bytes one after the other, and where each starts.

A Python string of 30 characters takes 80 bytes and 8 more in its list; here it takes 38, can be mapped
from a file by many processes at once, and is not copied by a forked worker that looks at it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice, pairwise
from typing import NamedTuple, Self

import numpy as np

CHUNK = 50_000  # strings that are Python's at once
STEP = 10_000  # strings that are hashed at once, or as many as lie in a window
WINDOW = 1 << 20  # bytes
# The hash of bytes b is the sum of CODES[b[n]] * BASE ** n, modulo 2 ** 64.
BASE = 0x9E3779B97F4A7C15
CODES = np.random.RandomState(0).randint(1, 1 << 62, 256, np.int64).astype(np.uint64)
SPACES = np.isin(np.arange(256), list(b" \t\n\r\v\f\x1c\x1d\x1e\x1f"))  # those of str.strip


class Spans(NamedTuple):
    """N strings anywhere in some bytes: the n-th is `blob[starts[n] : stops[n]]`.

    Attributes:
        blob: uint8.
        starts: int64 `[N]`.
        stops: int64 `[N]`.
    """

    blob: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Bytes of each: int64 `[N]`."""
        return self.stops - self.starts

    def take(self, rows: np.ndarray | slice) -> Self:
        """The strings of these rows (int64 `[n]`), of a mask (bool `[N]`) or of a slice."""
        return self._replace(starts=self.starts[rows], stops=self.stops[rows])

    def at(self, row: int) -> str:
        """The n-th string."""
        return os.fsdecode(self.blob[self.starts[row] : self.stops[row]].tobytes())

    def packed(self) -> "Packed":
        """The same strings, one after the other."""
        offsets = offsets_of(self.lengths)
        return Packed(offsets, self.blob[places(self.starts, offsets)])

    def stripped(self) -> Self:
        """The strings without ASCII white space at both ends."""
        starts, stops = self.starts.copy(), self.stops.copy()
        rows = np.flatnonzero(stops > starts)
        while len(rows := rows[SPACES[self.blob[starts[rows]]]]):
            starts[rows] += 1
            rows = rows[stops[rows] > starts[rows]]
        rows = np.flatnonzero(stops > starts)
        while len(rows := rows[SPACES[self.blob[stops[rows] - 1]]]):
            stops[rows] -= 1  # never past the start, where no space is
        return self._replace(starts=starts, stops=stops)

    def last(self, marks: np.ndarray) -> np.ndarray:
        """Where the last of some bytes is in each string, its start - 1 where there is none.

        Args:
            marks: Which bytes they are: bool `[256]`.

        Returns:
            Places in `blob`: int64 `[N]`.
        """
        if not len(self.starts):
            return self.starts
        low, high = int(self.starts.min()), int(self.stops.max())
        found = np.append(-1, np.flatnonzero(marks[self.blob[low:high]]) + low)
        places = found[np.searchsorted(found, self.stops) - 1]
        return np.maximum(places, self.starts - 1)

    def hashes(self) -> np.ndarray:
        """A number for each string, the same for equal ones: uint64 `[N]`."""
        count = len(self.starts)
        if count and self.stops.max() - self.starts.min() <= WINDOW:
            return self._hashes()
        hashes = np.empty(count, np.uint64)
        for first in range(0, count, STEP):
            part = self.take(slice(first, first + STEP))
            if part.stops.max() - part.starts.min() > WINDOW:
                part = part.packed().spans  # they may lie far from each other
            hashes[first : first + STEP] = part._hashes()
        return hashes

    def _hashes(self) -> np.ndarray:
        low, high = int(self.starts.min()), int(self.stops.max())
        powers, inverses = _powers(max(WINDOW, 1 << (high - low).bit_length()))
        sums = np.zeros(high - low + 1, np.uint64)
        np.cumsum(CODES[self.blob[low:high]] * powers[: high - low], out=sums[1:])
        starts = self.starts - low
        return (sums[self.stops - low] - sums[starts]) * inverses[starts]

    def equal(self, other: "Spans") -> np.ndarray:
        """Whether each string is the other's of the same row: bool `[N]`."""
        lengths = self.lengths
        equal = lengths == other.lengths
        lengths, ends = lengths[equal], offsets_of(lengths[equal])
        ours, theirs = places(self.starts[equal], ends), places(other.starts[equal], ends)
        differs = self.blob[ours] != other.blob[theirs]
        equal[np.repeat(np.flatnonzero(equal), lengths)[differs]] = False
        return equal

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of different strings, and which of them each row is: int64 `[D]` and `[N]`.

        Strings that have one hash by chance may be among the different ones twice.
        """
        _, rows, which = np.unique(self.hashes(), return_index=True, return_inverse=True)
        odd = np.flatnonzero(~self.equal(self.take(rows[which])))
        which[odd] = len(rows) + np.arange(len(odd))
        return np.concatenate([rows, odd]), which


@lru_cache(maxsize=1)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """`BASE ** n` and `BASE ** -n` modulo 2 ** 64: uint64 `[count]` each."""
    bases = np.array([[BASE], [pow(BASE, -1, 1 << 64)]], dtype=np.uint64)
    table = np.repeat(bases, count, axis=1)
    table[:, 0] = 1
    powers, inverses = np.cumprod(table, axis=1, dtype=np.uint64)
    return powers, inverses


class Packed(NamedTuple):
    """N strings: the n-th is `blob[offsets[n] : offsets[n + 1]]`, in the encoding of file names.

    Attributes:
        offsets: int64 `[N + 1]`.
        blob: uint8.
    """

    offsets: np.ndarray
    blob: np.ndarray

    @property
    def total(self) -> int:
        """N."""
        return len(self.offsets) - 1

    @property
    def spans(self) -> Spans:
        """The same strings, where they are."""
        return Spans(self.blob, self.offsets[:-1], self.offsets[1:])

    def raw(self, rows: np.ndarray | None = None) -> Iterator[bytes]:
        """All strings as bytes, or those of rising `rows` (int64 `[n]`)."""
        for start in range(0, self.total, CHUNK):
            ends = self.offsets[start : start + CHUNK + 1]
            text = self.blob[ends[0] : ends[-1]].tobytes()
            spots = (ends - ends[0]).tolist()
            if rows is None:
                yield from (text[a:b] for a, b in pairwise(spots))
                continue
            low, high = np.searchsorted(rows, (start, start + len(ends) - 1))
            for row in (rows[low:high] - start).tolist():
                yield text[spots[row] : spots[row + 1]]

    def at(self, row: int) -> str:
        """The n-th string."""
        return os.fsdecode(self.blob[self.offsets[row] : self.offsets[row + 1]].tobytes())

    def strings(self, rows: np.ndarray | None = None) -> list[str]:
        """All strings, or those of rising `rows` (int64 `[n]`)."""
        raw = list(self.raw(rows))
        plain = b"".join(raw).isascii()
        return [text.decode() if plain else os.fsdecode(text) for text in raw]

    def take(self, rows: np.ndarray) -> "Packed":
        """The strings of these rows (int64 `[n]`), in that order."""
        starts = self.offsets[rows]
        offsets = offsets_of(self.offsets[rows + 1] - starts)
        blob = np.empty(offsets[-1], dtype=np.uint8)
        for first in range(0, len(rows), CHUNK):  # eight bytes of index for each byte of text
            ends = offsets[first : first + CHUNK + 1]
            blob[ends[0] : ends[-1]] = self.blob[places(starts[first : first + CHUNK], ends)]
        return Packed(offsets, blob)

    def joined(self, other: "Packed") -> "Packed":
        """These strings and then the others."""
        offsets = np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Packed(offsets, np.concatenate([self.blob, other.blob]))

    def repeats(self) -> int:
        """How many of the strings came before."""
        hashes = self.spans.hashes()
        order = hashes.argsort(kind="stable")
        again = np.flatnonzero(np.diff(hashes[order]) == 0)
        twice = np.unique(order[np.concatenate([again, again + 1])])  # at least, by their hashes
        return len(twice) - len(set(self.raw(twice)))


class Packer:
    """Takes strings in batches and gives them back packed, with no Python string left over."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._lengths: list[np.ndarray] = []

    def add(self, strings: Sequence[str]) -> None:
        """Append some strings."""
        text = "".join(strings)
        if text.isascii():
            self._bytes += text.encode()
            lengths = map(len, strings)
        else:
            raw = [os.fsencode(string) for string in strings]
            self._bytes += b"".join(raw)
            lengths = map(len, raw)
        self._lengths.append(np.fromiter(lengths, np.int32, len(strings)))

    def extend(self, strings: Packed) -> None:
        """Append packed strings."""
        self._bytes += strings.blob.data
        self._lengths.append(np.diff(strings.offsets).astype(np.int32))

    def packed(self) -> Packed:
        """All of them; nothing may be added after that."""
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, np.int32)
        return Packed(offsets_of(lengths), np.frombuffer(self._bytes, dtype=np.uint8))


def pack(strings: Iterable[str]) -> Packed:
    """Pack strings as they come."""
    packer, strings = Packer(), iter(strings)
    while batch := list(islice(strings, CHUNK)):
        packer.add(batch)
    return packer.packed()


def side_by_side(fronts: Packed, ends: Packed) -> Packed:
    """Each of N strings and that of the same row behind it."""
    rows = np.arange(2 * fronts.total).reshape(2, -1).T.ravel()
    both = fronts.joined(ends).take(rows)
    return Packed(both.offsets[::2], both.blob)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where rows of these lengths start, and the last one ends: int64 `[N + 1]`."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def places(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Index of each value of the rows that start there and, put together, end at `ends[1:]`."""
    lengths = np.diff(ends)
    return np.repeat(starts - (ends[:-1] - ends[0]), lengths) + np.arange(ends[-1] - ends[0])


class Finder:
    """Says which of N packed strings another is, with 12 bytes a string beside them.

    A dict of the same takes ten times as much. Exact: a hash of 64 bits, sorted, leads to a string,
    which is then compared.

    Args:
        strings: The strings; of equal ones the first is found.
    """

    def __init__(self, strings: Packed) -> None:
        self.strings = strings
        hashes = strings.spans.hashes()
        self._order = hashes.argsort(kind="stable").astype(np.int32)
        self._hashes = hashes[self._order]

    def find(self, names: Spans) -> np.ndarray:
        """Row of each name, -1 for one that is not there: int64 `[n]`."""
        hashes = names.hashes()
        places = self._look_up(hashes)
        rows = np.full(len(hashes), -1, np.int64)
        asked = np.arange(len(hashes))
        while True:
            asked = asked[places[asked] < len(self._hashes)]
            asked = asked[self._hashes[places[asked]] == hashes[asked]]
            if not len(asked):
                return rows
            found = self._order[places[asked]].astype(np.int64)
            same = self.strings.spans.take(found).equal(names.take(asked))
            rows[asked[same]] = found[same]
            asked = asked[~same]  # another string of the same hash
            places[asked] += 1

    def firsts(self) -> np.ndarray:
        """The first row that has the same string, of each row: int64 `[N]`."""
        firsts = np.arange(self.strings.total)
        again = np.flatnonzero(np.diff(self._hashes) == 0)
        twice = np.unique(self._order[np.concatenate([again, again + 1])]).astype(np.int64)
        firsts[twice] = self.find(self.strings.spans.take(twice))
        return firsts

    def _look_up(self, hashes: np.ndarray) -> np.ndarray:
        order = hashes.argsort()  # in order, so that the cache holds what is looked at
        places = np.empty(len(hashes), np.int64)
        places[order] = np.searchsorted(self._hashes, hashes[order])
        return places
