"""Facts of millions of files, column by column: a number takes eight bytes, a dictionary hundreds."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class FactTable:
    """What a check says of each of N good files; every file has the same facts.

    Args:
        rows: The facts of each, taken one by one.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._columns: dict[str, array[Any]] = {}
        self._words: dict[str, dict[Any, int]] = {}  # of columns that hold no numbers, by number
        self._count = 0
        for row in rows:
            self.add(row)

    def __len__(self) -> int:
        return self._count

    def add(self, row: Mapping[str, Any]) -> None:
        """Take the facts of one more file."""
        for name, value in row.items():
            self._add(name, value)
        self._count += 1

    def __getitem__(self, name: str) -> Iterator[Any]:
        """One fact of each file, in the order in which they came; none of no file."""
        column = self._columns.get(name, array("q"))
        if name not in self._words:
            return iter(column)
        words = list(self._words[name])
        return (words[number] for number in column)

    def _add(self, name: str, value: Any) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in self._columns:
            self._columns[name] = array("d" if isinstance(value, float) else "q")
            if not number:
                self._words[name] = {}
        if name in self._words:
            words = self._words[name]
            value = words.setdefault(value, len(words))
        try:
            self._columns[name].append(value)
        except TypeError:  # whole numbers before a fraction
            self._columns[name] = array("d", self._columns[name])
            self._columns[name].append(value)
