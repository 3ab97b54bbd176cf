"""The shards of one split, written one after the other."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from tome_lightning.commands.pack.folder import Bad, PackRecord
from tome_lightning.commands.pack.keys import Endings, sample_keys
from tome_lightning.commands.pack.ordered import in_order
from tome_lightning.commands.pack.shard import Member, ShardWriter
from tome_lightning.commands.scan.workers import Job, Outcome
from tome_lightning.errors import UsageError

if TYPE_CHECKING:
    from datamodules.filelist import LabelledFiles

MIN_BAD_FILES = 10  # fewer never stop it: a share of few files says nothing


class How(NamedTuple):
    """What is the same for all splits.

    Attributes:
        job: What becomes of each file, and the folder that relative paths start from.
        endings: Endings that are kept.
        ids: Label ids in the order of the index, where a sample has several labels.
        size: Bytes that a shard has at most.
        workers: Processes.
        max_corrupt_share: Share of bad files above which it stops.
        progress: Whether a bar is shown.
    """

    job: Job
    endings: Endings
    ids: Sequence[str] | None
    size: int
    workers: int
    max_corrupt_share: float
    progress: bool


class SplitWriter:
    """Writes the shards of one split, from the first that is not whole.

    Args:
        how: What is the same for all splits.
        record: What is done.
        split: Name of the split.
        files: Its files.
    """

    def __init__(self, how: How, record: PackRecord, split: str, files: LabelledFiles) -> None:
        self.how, self.record, self.split, self.files = how, record, split, files
        self.done = record.splits[split]
        self.number = len(self.done.shards)
        self.shard: ShardWriter | None = None
        self.first = self.row = self.done.rows  # of the shard, and the next one
        self.bad: list[Bad] = []  # since the last whole shard

    def write(self) -> None:
        """Write what is left of it.

        Raises:
            UsageError: Too many files are bad, or all.
            OSError: A shard cannot be written.
        """
        total, first = len(self.files), self.first
        if first == total:
            return
        try:
            self._walk()
            self._finish()
        finally:
            if self.shard is not None:
                self.shard.abandon()
        if not self.done.samples:
            raise UsageError(
                f"none of the {total:,} files of {self.split} can be read, for example "
                f"{self.done.bad[0].path} ({self.done.bad[0].reason})"
            )

    def _walk(self) -> None:
        how, total, first = self.how, len(self.files), self.first
        keys = sample_keys(self.files, self.split, how.job.root, how.endings)
        paths = (self.files.path(row) for row in range(first, total))
        interval = 0.5 if sys.stderr.isatty() else 30  # seconds; a log file takes no more
        bar = tqdm(
            total=total, initial=first, desc=f"pack {self.split}", unit="file", mininterval=interval,
            disable=not how.progress,
        )  # fmt: skip
        found = in_order(how.job, paths, min(how.workers, total - first))
        with bar, contextlib.closing(found):
            for key, ending in islice(keys, first, None):
                self._take(next(found), key, ending)
                self.row += 1
                bar.set_postfix(shard=self.number, bad=self._bad_count, refresh=False)
                bar.update()

    def _take(self, outcome: Outcome, key: str, ending: str) -> None:
        """Put the next file into a shard, or among the bad ones."""
        if outcome.reason is None:
            name = f"{key}{outcome.facts['ending'] or ending}"
            self._add([Member(name, outcome.facts["content"]), self._label(key)])
        else:
            self.bad.append(Bad(self.row, outcome.path, outcome.reason))
            self._stop_if_too_many(self.row + 1)

    @property
    def _bad_count(self) -> int:
        return len(self.done.bad) + len(self.bad)

    def _add(self, members: list[Member]) -> None:
        if self.shard is not None and not self.shard.fits(members, self.how.size):
            self._finish()
        if self.shard is None:
            self.shard = ShardWriter(self.record.folder / f"{self.split}-{self.number:06}.tar")
        self.shard.add(members)

    def _finish(self) -> None:
        """Make what is written a whole shard; bad files after the last sample count with it."""
        if self.shard is not None:
            self.done.shards.append(self.shard.finish(self.row - self.first))
            self.shard = None
            self.number += 1
        elif self.done.shards and self.row > self.first:  # nothing but bad files after it
            last = self.done.shards[-1]
            self.done.shards[-1] = last._replace(rows=last.rows + self.row - self.first)
        self.first = self.row
        self.done.bad += self.bad
        self.bad = []
        self.record.write()

    def _label(self, key: str) -> Member:
        label, ids = self.files.label(self.row), self.how.ids
        if ids is None and label >= 0:
            return Member(f"{key}.cls", str(label).encode())
        ids = [] if ids is None else [ids[index] for index in label]
        return Member(f"{key}.json", json.dumps({"labels": ids}).encode())

    def _stop_if_too_many(self, seen: int) -> None:
        bad, share = self._bad_count, self.how.max_corrupt_share
        if bad < MIN_BAD_FILES or bad <= share * seen:
            return
        last = self.bad[-1]
        self.done.bad += self.bad
        raise UsageError(
            f"{self.split}: {bad} of {seen} files cannot be read, more than max_corrupt_share={share}, "
            f"for example {last.path} ({last.reason}); all are named in {self.record.write_bad()}. "
            "Repair or remove them, pack into another folder with --data.exclude and that file, or raise "
            "--data.max_corrupt_share."
        )
