"""What `scan` asks of the files of a data set, whatever they are."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from datamodules.facts import FactTable

Facts = Mapping[str, Any]  # what one good file is: numbers and words, for a JSON file


class FileCheck(ABC):
    """Reads one file to see whether it can be, and sums up what all of them are; is pickled."""

    @abstractmethod
    def __call__(self, path: str) -> Facts:
        """The facts of a sound file.

        Raises:
            Exception: Whatever a broken one raises, or TimeoutError.
        """

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the facts depend on besides the file, in plain builtins."""

    @abstractmethod
    def summary(self, facts: FactTable) -> dict[str, Any]:
        """What good files are together, for the result of a scan."""

    @abstractmethod
    def tell(self, content: Mapping[str, Any]) -> list[str]:
        """Lines for the screen from the result of a scan, with `summary` in it."""


def most_common(values: Iterable[Any]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(Counter(map(str, values)).most_common())


def spread(values: Iterable[float]) -> dict[str, float]:
    """Least, median and greatest; nothing of nothing."""
    found = np.fromiter(values, dtype=np.float64)
    if not len(found):
        return {}
    least, middle, greatest = (float(f(found)) for f in (np.min, np.median, np.max))
    return {"min": _whole(least), "median": _whole(middle), "max": _whole(greatest)}


def _whole(value: float) -> float:
    """A number without its `.0`, for a file that people read."""
    return int(value) if value.is_integer() else value


def first_of(counts: Mapping[str, int], unit: str = "", shown: int = 3) -> str:
    """The most frequent values in words: `16000 Hz (1,204), 44100 Hz (3) and 2 more`."""
    words = ", ".join(f"{value}{unit} ({n:,})" for value, n in list(counts.items())[:shown])
    return f"{words} and {len(counts) - shown} more" if len(counts) > shown else words
