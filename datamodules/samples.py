"""One split of a labelled data set: reads, replaces what cannot be read, transforms."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from datamodules.errors import DataError
from datamodules.failures import BadFiles
from datamodules.filelist import LabelledFiles

Key = tuple[int, ...]  # seeds the draws of one sample
NOTHING = nullcontext()
FEW, DRAWN, TRIES = (
    20_000,
    4096,
    8,
)  # files that are gone over as a whole; else rows drawn, and how often
MIN_BAD_FILES = 10  # fewer never stop a run: a share of few files says nothing


class Samples(Dataset[tuple[Tensor, int | Tensor, int]]):
    """Yields `(x, y, id)` with `id` the index asked for and `y` its target in `files`.

    What is random in `read`, in `transform` and in the choice of a replacement depends on (seed,
    epoch, id) alone: not on the number of workers, on the order of reading, or on where a run was
    resumed. A sampler that draws a sample more than once in an epoch asks for `id + k * len(samples)`
    the k-th time again, and gets other draws of the same sample.

    Args:
        name: What messages call this split.
        root: Folder that relative paths of `files` start from.
        files: Paths and labels, one each or several.
        read: Opens one path; whatever it raises marks the file as bad, `TimeoutError` as one that
            hangs, which is not tried again.
        transform: Turns what `read` returns into `x`; what it raises is raised.
        seed: Seed of the transforms, 0 or more.
        workers: Number of loader workers that will use this object.
        max_retries: Files of the same class that are tried in place of a bad one, and then as many
            of any class.
        max_corrupt_share: Stop when more than this share of the files seen is bad.
        max_hung: Stop when more reads than this have hung: each leaves a thread behind.
        evaluation: Give a sample whose file was replaced the target -1, so that nobody counts it.
        read_draws: Whether `read` draws random numbers; where it does not, none are seeded for it.
        transform_draws: The same of `transform`.
    """

    def __init__(
        self,
        name: str,
        root: str,
        files: LabelledFiles,
        read: Callable[[str], Any],
        transform: Callable[[Any], Tensor],
        *,
        seed: int = 0,
        workers: int = 0,
        max_retries: int = 10,
        max_corrupt_share: float = 0.05,
        max_hung: int = 16,
        evaluation: bool = False,
        read_draws: bool = True,
        transform_draws: bool = True,
    ) -> None:
        self.name = name
        self.root = root
        self.files = files
        self.read = read
        self.transform = transform
        self.seed = seed
        self.max_retries = max_retries
        self.max_corrupt_share = max_corrupt_share
        self.max_hung = max_hung
        self.evaluation = evaluation
        self.read_draws = read_draws
        self.transform_draws = transform_draws
        self.bad = BadFiles(len(files), workers)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers may outlive it
        self._reported = self._failures_reported = 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, int | Tensor, int]:
        index = number % len(self)
        return *self.make(index, (self.seed, self.epoch, number)), index

    def __iter__(self) -> Iterator[tuple[Tensor, int | Tensor, int]]:
        return map(self.__getitem__, range(len(self)))  # Python's own would go on to the repeats

    def make(self, index: int, key: Key) -> tuple[Tensor, int | Tensor]:
        """x and y of one sample, with the draws that `key` seeds."""
        content, used = self.load(index, key)
        with seeded(*key) if self.transform_draws else NOTHING:
            x = self.transform(content)
        counts = used == index or not self.evaluation
        return x, self.files.target(used) if counts else self.files.unread_target

    def stages(self) -> dict[str, str]:
        """What makes a sample, in order: the name of each stage, and the attribute that is called."""
        last = getattr(self.transform, "stage", "crop" if self.evaluation else "augment")
        return {"decode": "read", last: "transform"}

    def set_epoch(self, epoch: int) -> None:
        """Choose the random draws of the transforms, in this process and in living workers."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The epoch of the random draws."""
        return int(self._epoch)

    def path(self, index: int) -> str:
        """Full path of one file."""
        return os.path.join(self.root, self.files.path(index))

    def report(self) -> str | None:
        """One line on the reads that failed since the last report; None if there were none."""
        failures = self.bad.failures - self._failures_reported
        if not failures:
            return None
        self._failures_reported += failures
        errors = list(self.bad.errors().items())
        new = errors[self._reported :][:3] or errors[:3]
        self._reported = len(errors)
        shown = "; ".join(f"{self.path(index)} ({error})" for index, error in new)
        fate = "left out of the metrics" if self.evaluation else "replaced by others of their class"
        return (
            f"{self.name}, epoch {self.epoch}: {failures} reads failed; {self.bad.count} of "
            f"{self.bad.seen} files seen so far cannot be read and were {fate}, for example {shown}"
        )

    def load(self, index: int, key: Key) -> tuple[Any, int]:
        """What was read, and the index of the file it was read from: another if that one is bad."""
        for attempt, candidate in enumerate(self._candidates(index, key), start=1):
            if self.bad.hangs(candidate):
                continue
            try:
                with seeded(*key, attempt) if self.read_draws else NOTHING:
                    content = self.read(self.path(candidate))
            except MemoryError:  # says nothing about the file
                raise
            except Exception as error:  # decoders raise nearly anything on damaged files
                self.bad.failed(candidate, error)
                self._stop_if_too_many()
            else:
                self.bad.read(candidate)
                return content, candidate
        raise DataError(
            f"{self.name}: no readable file in place of {self.path(index)} after "
            f"max_retries={self.max_retries} others of its class and of any, {self._example(index)}"
        )

    def _candidates(self, index: int, key: Key) -> Iterator[int]:
        """The file itself, others of its class, and last others of any class, with their labels."""
        yield index
        draw, tried = np.random.default_rng(key), {index}
        for peers in (True, False):
            drawn = islice(self._drawn(index, peers, draw, tried), self.max_retries)
            for row in drawn:
                tried.add(row)
                yield row

    def _drawn(
        self, index: int, peers: bool, draw: np.random.Generator, tried: set[int]
    ) -> Iterator[int]:
        """Untried files in random order, of those that are peers of `index` or of those that are not."""
        for _ in range(TRIES if len(self) > FEW else 0):  # a pass over two million takes 66 ms
            some = draw.integers(len(self), size=DRAWN)
            fits = some[self.files.are_peers(index, some) == peers]
            yield from (row for row in fits.tolist() if row not in tried)
        group = np.flatnonzero(self.files.peers(index) == peers)  # few files, or a rare class
        group = group[~np.isin(group, list(tried))]
        yield from map(int, draw.permutation(group))

    def _stop_if_too_many(self) -> None:
        bad, seen = self.bad.count, self.bad.seen
        if bad >= MIN_BAD_FILES and bad > self.max_corrupt_share * seen:
            raise DataError(
                f"{self.name}: {bad} of {seen} files seen cannot be read, more than "
                f"max_corrupt_share={self.max_corrupt_share}, {self._example()}; repair or remove "
                "them, or raise max_corrupt_share"
            )
        if self.bad.hung > self.max_hung:
            raise DataError(
                f"{self.name}: {self.bad.hung} reads hung and left a thread behind, more than "
                f"max_hung={self.max_hung}, {self._example()}; check the storage, leave these files "
                "out, or raise read_timeout"
            )

    def _example(self, index: int | None = None) -> str:
        errors = self.bad.errors()
        if index not in errors:
            index = next(iter(errors))
        return f"for example {self.path(index)} ({errors[index]})"


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the CPU generators of random, numpy and torch; put back those of the main process."""
    keep = get_worker_info() is None  # numpy's state takes 0.3 ms to save: not in every worker
    states = (random.getstate(), np.random.get_state()) if keep else None
    with torch_seeded(*key) as words:
        random.seed(words.tobytes())
        np.random.seed(words)
        try:
            yield
        finally:
            if states is not None:
                random.setstate(states[0])
                np.random.set_state(states[1])


@contextmanager
def torch_seeded(*key: int) -> Iterator[np.ndarray]:
    """Seed torch's CPU generator alone, as `seeded` does; put back that of the main process."""
    state = torch.get_rng_state() if get_worker_info() is None else None
    words = np.random.SeedSequence(key).generate_state(4)
    # not torch.manual_seed: that would reseed the accelerators of the main process as well
    torch.default_generator.manual_seed(int(words[0]))
    try:
        yield words
    finally:
        if state is not None:
            torch.set_rng_state(state)
