"""Lists of files that have several labels each, in flat arrays."""

from collections.abc import Iterable, Sequence
from copy import copy
from itertools import chain
from typing import Self

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.filelist import LabelledFiles, keep_rows


class TaggedList(LabelledFiles):
    """N paths with any number of labels each.

    Args:
        paths: N paths, absolute or relative to the root of the data set.
        labels: N sequences of class indices; a class named twice counts once.
        num_classes: Number of classes K.

    Raises:
        DataError: A class index is not in 0 to K - 1.
    """

    def __init__(
        self, paths: Iterable[str], labels: Iterable[Sequence[int]], num_classes: int
    ) -> None:
        super().__init__(paths)
        tags = [sorted(set(row)) for row in labels]
        if len(self) != len(tags):
            raise ValueError(f"{len(self)} paths but {len(tags)} rows of labels")
        self.num_classes = num_classes
        self.label_offsets = np.zeros(len(tags) + 1, dtype=np.int64)  # [N + 1]
        np.cumsum([len(row) for row in tags], out=self.label_offsets[1:])
        count = int(self.label_offsets[-1])
        self.classes = np.fromiter(chain.from_iterable(tags), np.int32, count)  # [labels]
        if count and not 0 <= self.classes.min() <= self.classes.max() < num_classes:
            wrong = next(c for c in self.classes if not 0 <= c < num_classes)
            raise DataError(f"label {wrong}, but there are {num_classes} classes, 0 the first")

    def label(self, index: int) -> tuple[int, ...]:
        """Class indices of one file, rising."""
        start, stop = self._span(self.label_offsets, index)
        return tuple(self.classes[start:stop].tolist())

    def target(self, index: int) -> Tensor:
        """Multi-hot: float32 `[K]`."""
        target = torch.zeros(self.num_classes)
        target[list(self.label(index))] = 1.0
        return target

    @property
    def unread_target(self) -> Tensor:
        """-1 for every class: float32 `[K]`."""
        return torch.full((self.num_classes,), -1.0)

    def peers(self, index: int) -> np.ndarray:
        """The files that share a label with it: bool `[N]`."""
        rows, classes = self.pairs()
        peers = np.zeros(len(self), dtype=bool)
        peers[rows[np.isin(classes, self.label(index))]] = True
        return peers

    def class_counts(self, num_classes: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Files of each class, int64 `[num_classes]`; only those of a mask `rows` (bool `[N]`)."""
        classes = self.classes
        if rows is not None:
            classes = classes[np.repeat(rows, np.diff(self.label_offsets))]
        return np.bincount(classes, minlength=num_classes)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and class of every label, int64 and int32 `[labels]`."""
        return np.repeat(np.arange(len(self)), np.diff(self.label_offsets)), self.classes

    def keep(self, rows: np.ndarray) -> Self:
        """The same list with the rows of a mask (bool `[N]`) only."""
        kept = copy(self)
        kept.offsets, kept.blob = keep_rows(self.offsets, self.blob, rows)
        kept.label_offsets, kept.classes = keep_rows(self.label_offsets, self.classes, rows)
        return kept

    def _arrays(self) -> tuple[np.ndarray, ...]:
        """All that the list holds; checkpoints keep the digest of this order."""
        return self.offsets, self.label_offsets, self.classes, self.blob
