"""The files that a scan has to see, each once, and what it has seen of each: bytes, not objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datamodules.filelist import LabelledFiles

UNSEEN, GOOD, BAD = range(3)


class Manifest:
    """The distinct files of several lists, numbered in the order in which these name them first.

    Args:
        lists: The files of each split.

    Attributes:
        state: What is known of each: uint8 `[N]`, one of `UNSEEN`, `GOOD` and `BAD`.
    """

    def __init__(self, lists: Mapping[str, LabelledFiles]) -> None:
        self._lists = lists
        keys = [_keys(files) for files in lists.values()]
        starts = np.cumsum([0, *map(len, keys)])
        # 64 bits of SipHash: two of two million paths share theirs once in ten million scans
        _, first, same = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
        order = np.argsort(first)  # unique sorts by key
        self._first = first[order]  # [N], places in all lists, one after the other
        number = np.empty_like(order)
        number[order] = np.arange(len(order))
        rows = number[same.reshape(-1)]
        self._rows = {
            split: rows[start : start + len(lists[split])]
            for split, start in zip(lists, starts, strict=False)
        }
        self._starts = starts
        self.state = np.zeros(len(first), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.state)

    def __iter__(self) -> Iterator[str]:
        """The path of each file, made when it is asked for."""
        splits = list(self._lists.values())
        which = np.searchsorted(self._starts, self._first, side="right") - 1
        for place, at in zip(self._first, which, strict=True):
            yield splits[at].path(int(place - self._starts[at]))

    def good(self, split: str) -> np.ndarray:
        """Of each row of a split, whether its file is good: bool `[rows]`."""
        return self.state[self._rows[split]] == GOOD


def _keys(files: LabelledFiles) -> np.ndarray:
    paths = (hash(files.path(row)) for row in range(len(files)))
    return np.fromiter(paths, dtype=np.int64, count=len(files))
