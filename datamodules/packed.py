"""Millions of strings in two numpy arrays: their bytes one after the other, and where each starts.

A Python string of 30 characters takes 80 bytes and 8 more in its list; here it takes 38, can be mapped
from a file by many processes at once, and is not copied by a forked worker that looks at it.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

CHUNK = 50_000  # strings that are Python's at once


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
        hashes = np.fromiter(map(hash, self.raw()), np.int64, self.total)
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

    def packed(self) -> Packed:
        """All of them; nothing may be added after that."""
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, np.int32)
        return Packed(offsets_of(lengths), np.frombuffer(self._bytes, dtype=np.uint8))


def pack(strings: Iterator[str]) -> Packed:
    """Pack strings as they come."""
    packer = Packer()
    while batch := list(islice(strings, CHUNK)):
        packer.add(batch)
    return packer.packed()


def encoded(strings: Sequence[str]) -> list[bytes]:
    """Strings as bytes."""
    plain = "".join(strings).isascii()
    return [string.encode() if plain else os.fsencode(string) for string in strings]


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
    """Says which of N packed strings some bytes are, with 12 bytes a string beside them.

    A dict of the same takes ten times as much. Exact: Python's hash of bytes (64 bits, sorted) leads to a
    string, which is then compared.

    Args:
        strings: The strings; of equal ones the first is found.
    """

    def __init__(self, strings: Packed) -> None:
        self.strings = strings
        hashes = np.fromiter(map(hash, strings.raw()), np.int64, strings.total)
        self._order = hashes.argsort(kind="stable").astype(np.int32)
        self._hashes = hashes[self._order]

    def find(self, names: Sequence[bytes]) -> np.ndarray:
        """Row of each name, -1 for one that is not there: int64 `[n]`."""
        hashes = np.fromiter(map(hash, names), np.int64, len(names))
        places = self._look_up(hashes)
        rows = np.full(len(names), -1, np.int64)
        asked = np.arange(len(names))
        while True:
            asked = asked[places[asked] < len(self._hashes)]
            asked = asked[self._hashes[places[asked]] == hashes[asked]]
            if not len(asked):
                return rows
            found = self._order[places[asked]].astype(np.int64)
            same = self._equal(found, [names[n] for n in asked.tolist()])
            rows[asked[same]] = found[same]
            asked = asked[~same]  # another string of the same hash
            places[asked] += 1

    def has(self, hashes: np.ndarray) -> np.ndarray:
        """Whether a string has one of these hashes (int64 `[n]`): bool `[n]`."""
        places = self._look_up(hashes)
        places[places == len(self._hashes)] = 0
        return self._hashes[places] == hashes if len(self._hashes) else np.zeros(len(hashes), bool)

    def _look_up(self, hashes: np.ndarray) -> np.ndarray:
        order = hashes.argsort()  # in order, so that the cache holds what is looked at
        places = np.empty(len(hashes), np.int64)
        places[order] = np.searchsorted(self._hashes, hashes[order])
        return places

    def firsts(self) -> np.ndarray:
        """The first row that has the same string, of each row: int64 `[N]`."""
        firsts = np.arange(self.strings.total)
        again = np.flatnonzero(np.diff(self._hashes) == 0)
        twice = np.unique(self._order[np.concatenate([again, again + 1])]).astype(np.int64)
        firsts[twice] = self.find(list(self.strings.raw(twice)))
        return firsts

    def _equal(self, rows: np.ndarray, names: Sequence[bytes]) -> np.ndarray:
        """Whether each of these rows is that name: bool `[n]`."""
        starts, ends = self.strings.offsets[rows], self.strings.offsets[rows + 1]
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        equal = ends - starts == lengths
        ours = b"".join(name for name, fits in zip(names, equal.tolist(), strict=True) if fits)
        where = places(starts[equal], offsets_of(lengths[equal]))
        differs = self.strings.blob[where] != np.frombuffer(ours, dtype=np.uint8)
        equal[np.repeat(np.flatnonzero(equal), lengths[equal])[differs]] = False
        return equal
