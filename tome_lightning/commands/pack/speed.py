"""How long a sample takes to read from its file and from its shard, one after the other."""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datamodules.shards.member import Member
from tome_lightning.commands.pack.folder import SplitRecord

if TYPE_CHECKING:
    from tome_lightning.commands.pack.packing import Packed

SHARDS = 4  # that are looked into: to list the members of one takes a moment
LONGEST = 30.0  # seconds


class Reading(NamedTuple):
    """Seconds that reading a sample took, decoding included; medians.

    Attributes:
        split: Split of the samples.
        samples: How many were read from both.
        files: From its file.
        shards: From its shard.
    """

    split: str
    samples: int
    files: float
    shards: float


def compare_reading(data: Any, packed: Packed, samples: int) -> Reading | None:
    """Read random samples from files and shards in turn, as a loader process does.

    Args:
        data: The data module that was packed.
        packed: What is in the shards.
        samples: Samples at most; fewer where they take more than half a minute.

    Returns:
        None if nothing could be read.
    """
    from datamodules.samples import seeded

    split = "val" if "val" in packed.splits else next(iter(packed.splits))
    made = data.build(split)
    files: list[float] = []
    shards: list[float] = []
    started = time.monotonic()
    for number, (row, place) in enumerate(_drawn(packed.folder, packed.splits[split], samples)):
        both = [(made.path(row), files), (place.path, shards)]
        times = []
        for path, _ in both if number % 2 else both[::-1]:
            with seeded(row):  # the same clip of both
                times.append(_timed(made.read, path))
        if number and None not in times:  # the first one imports decoders
            for (_, found), seconds in zip(both if number % 2 else both[::-1], times, strict=True):
                found.append(seconds or 0.0)
        if time.monotonic() - started > LONGEST:
            break
    return Reading(split, len(files), median(files), median(shards)) if files else None


def _timed(read: Any, path: str) -> float | None:
    """Seconds of a read; None for a file that cannot be decoded, as packing does not do."""
    start = time.perf_counter()
    try:
        read(path)
    except Exception:  # decoders raise nearly anything on damaged files
        return None
    return time.perf_counter() - start


def _drawn(folder: Path, split: SplitRecord, count: int) -> Iterator[tuple[int, Member]]:
    """Row and member of random samples in some shards, the same ones each time."""
    draw = np.random.default_rng(0)
    rows = np.setdiff1d(np.arange(split.rows), [bad.row for bad in split.bad])  # of each sample
    starts = np.cumsum([0, *(shard.samples for shard in split.shards)])
    which = draw.choice(len(split.shards), min(SHARDS, len(split.shards)), replace=False)
    places: dict[int, Member] = {}
    for shard in which.tolist():
        found = _members(folder / split.shards[shard].name)
        places |= {int(rows[starts[shard] + n]): place for n, place in enumerate(found)}
    some = draw.permutation(sorted(places))[: count + 1].tolist()  # the first is not timed
    return ((row, places[row]) for row in some)


def _members(shard: Path) -> list[Member]:
    """The files in a shard, without their labels, which stand behind them."""
    path = os.path.abspath(shard)
    with tarfile.open(shard, "r:") as tar:
        found = [Member(path, info.name, info.offset_data, info.size) for info in tar]
    return found[::2]


def format_reading(reading: Reading, converted: bool) -> str:
    """A line for the screen: both times, and what they are worth."""
    files, shards = 1e3 * reading.files, 1e3 * reading.shards
    smaller = " (of smaller files)" if converted else ""
    return (
        f"reading: {reading.samples} random samples of {reading.split}, one after the other, decoded: "
        f"{files:.2f} ms from its file and {shards:.2f} ms from its shard{smaller}, medians: "
        f"{files / shards:.2f} times as fast. Both were read a moment ago, so that much of it comes from "
        "this machine's cache: on a cold disk or a network the ratio is another one"
    )
