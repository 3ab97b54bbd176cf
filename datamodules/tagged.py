"""Lists of files that have several labels each, in flat arrays."""

from collections.abc import Iterable, Sequence
from copy import copy
from itertools import chain
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.filelist import LabelledFiles, keep_rows
from datamodules.packed import Packed, offsets_of, places


class Tags(NamedTuple):
    """The labels of N rows in two arrays.

    Attributes:
        offsets: Where each row starts in `classes`: int64 `[N + 1]`.
        classes: Class indices, rising within a row: int32.
    """

    offsets: np.ndarray
    classes: np.ndarray


class TaggedList(LabelledFiles):
    """N paths with any number of labels each.

    Args:
        paths: N paths, absolute or relative to the root of the data set.
        labels: N sequences of class indices, where a class named twice counts once; or `Tags`.
        num_classes: Number of classes K.

    Raises:
        DataError: A class index is not in 0 to K - 1.
    """

    def __init__(
        self,
        paths: Iterable[str] | Packed,
        labels: Iterable[Sequence[int]] | Tags,
        num_classes: int,
    ) -> None:
        super().__init__(paths)
        tags = labels if isinstance(labels, Tags) else _flat(labels)
        self.label_offsets, self.classes = tags
        if len(self) != len(self.label_offsets) - 1:
            raise ValueError(f"{len(self)} paths but {len(self.label_offsets) - 1} rows of labels")
        self.num_classes = num_classes
        count = len(self.classes)
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

    def are_peers(self, index: int, rows: np.ndarray) -> np.ndarray:
        """Which of these rows (int64 `[n]`) share a label with it: bool `[n]`."""
        starts = self.label_offsets[rows]
        ends = offsets_of(self.label_offsets[rows + 1] - starts)
        hits = np.isin(self.classes[places(starts, ends)], self.label(index))
        return np.diff(np.append(0, np.cumsum(hits))[ends]) > 0

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
        kept._digest = None
        kept.offsets, kept.blob = keep_rows(self.offsets, self.blob, rows)
        kept.label_offsets, kept.classes = keep_rows(self.label_offsets, self.classes, rows)
        return kept

    def columns(self) -> dict[str, np.ndarray]:
        """All that the list holds, by names; checkpoints keep the digest of this order."""
        return {
            "offsets": self.offsets,
            "label_offsets": self.label_offsets,
            "classes": self.classes,
            "blob": self.blob,
        }

    @classmethod
    def of_columns(cls, columns: dict[str, np.ndarray], num_classes: int) -> Self:
        """The list of these `columns`."""
        tags = Tags(columns["label_offsets"], columns["classes"])
        return cls(Packed(columns["offsets"], columns["blob"]), tags, num_classes)

    def joined(self, other: Self) -> Self:
        """The rows of this list and then those of another, of the same classes."""
        offsets = self.label_offsets, other.label_offsets[1:] + self.label_offsets[-1]
        tags = Tags(np.concatenate(offsets), np.concatenate([self.classes, other.classes]))
        return type(self)(self.paths.joined(other.paths), tags, self.num_classes)

    @property
    def tags(self) -> Tags:
        """The labels of all rows."""
        return Tags(self.label_offsets, self.classes)


def _flat(labels: Iterable[Sequence[int]]) -> Tags:
    tags = [sorted(set(row)) for row in labels]
    offsets = offsets_of(np.fromiter(map(len, tags), np.int64, len(tags)))
    return Tags(offsets, np.fromiter(chain.from_iterable(tags), np.int32, int(offsets[-1])))
