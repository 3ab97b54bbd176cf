"""One split of a labelled data set: reads, replaces what cannot be read, transforms."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from datamodules.errors import DataError
from datamodules.failures import BadFiles
from datamodules.filelist import FileList

MIN_BAD_FILES = 10  # fewer never stop a run: a share of few files says nothing


class Samples(Dataset[tuple[Tensor, int, int]]):
    """Yields `(x, y, id)` with `id` the index asked for.

    What is random in `transform` depends on (seed, epoch, id) alone: not on the number of workers,
    on the order of reading, or on where a run was resumed.

    Args:
        name: What messages call this split.
        root: Folder that relative paths of `files` start from.
        files: Paths and labels.
        read: Opens one path; whatever it raises marks the file as bad.
        transform: Turns what `read` returns into `x`; what it raises is raised.
        seed: Seed of the transforms, 0 or more.
        workers: Number of loader workers that will use this object.
        max_retries: Files of the same class that are tried in place of a bad one.
        max_corrupt_share: Stop when more than this share of the files seen is bad.
    """

    def __init__(
        self,
        name: str,
        root: str,
        files: FileList,
        read: Callable[[str], Any],
        transform: Callable[[Any], Tensor],
        *,
        seed: int = 0,
        workers: int = 0,
        max_retries: int = 10,
        max_corrupt_share: float = 0.05,
    ) -> None:
        self.name = name
        self.root = root
        self.files = files
        self.read = read
        self.transform = transform
        self.seed = seed
        self.max_retries = max_retries
        self.max_corrupt_share = max_corrupt_share
        self.bad = BadFiles(len(files), workers)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers may outlive it
        self._reported = 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        content = self._load(index)
        with seeded(self.seed, int(self._epoch), index):
            x = self.transform(content)
        return x, int(self.files.labels[index]), index

    def set_epoch(self, epoch: int) -> None:
        """Choose the random draws of the transforms, in this process and in living workers."""
        self._epoch.fill_(epoch)

    def path(self, index: int) -> str:
        """Full path of one file."""
        return os.path.join(self.root, self.files[index][0])

    def report(self) -> str | None:
        """One line on the bad files found since the last report; None if there are none."""
        count = self.bad.count
        if count <= self._reported:
            return None
        new = list(self.bad.errors().items())[:3]
        self._reported = count
        shown = "; ".join(f"{self.path(index)} ({error})" for index, error in new)
        return (
            f"{self.name}: {count} of {self.bad.seen} files seen so far cannot be read and were "
            f"replaced by others of their class, for example {shown}"
        )

    def _load(self, index: int) -> Any:
        for candidate in self._candidates(index):
            try:
                content = self.read(self.path(candidate))
            except MemoryError:  # says nothing about the file
                raise
            except Exception as error:  # decoders raise nearly anything on damaged files
                self.bad.failed(candidate, error)
                self._stop_if_too_many()
            else:
                self.bad.read(candidate)
                return content
        raise DataError(
            f"{self.name}: no readable file for class index {self.files[index][1]} after "
            f"{min(self.max_retries, self._class_size(index) - 1)} retries, {self._example(index)}"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        peers = np.flatnonzero(self.files.labels == self.files.labels[index])
        here = int(np.searchsorted(peers, index))
        for step in range(1, min(self.max_retries, len(peers) - 1) + 1):
            yield int(peers[(here + step) % len(peers)])

    def _class_size(self, index: int) -> int:
        return int((self.files.labels == self.files.labels[index]).sum())

    def _stop_if_too_many(self) -> None:
        bad, seen = self.bad.count, self.bad.seen
        if bad >= MIN_BAD_FILES and bad > self.max_corrupt_share * seen:
            raise DataError(
                f"{self.name}: {bad} of {seen} files seen cannot be read, more than "
                f"max_corrupt_share={self.max_corrupt_share}, {self._example()}; repair or remove "
                "them, or raise max_corrupt_share"
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
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state()) if keep else None
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    # not torch.manual_seed: that would reseed the accelerators of the main process as well
    torch.default_generator.manual_seed(int(words[0]))
    try:
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
