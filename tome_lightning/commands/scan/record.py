"""Outcomes of a scan on disk as they come, for one that goes on after a stop."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tome_lightning.commands.scan.workers import Outcome
from tome_lightning.errors import UsageError


class Record:
    """Outcomes as one JSON line each.

    Of earlier ones only where they stand is in memory, 16 bytes each.

    Args:
        path: The file; made, with its folder, if it is not there.
        settings: What the outcomes depend on besides the files. Only outcomes under the same
            settings are known; the others stay in the file.

    Raises:
        UsageError: The file cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, str | bool | None]) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            self._keys, self._places = _places(self._file, settings)
            if self._file.tell():
                self._file.write(b"\n")  # the last line may be half a one
            self._reader = path.open("rb")
        except OSError as error:
            raise UsageError(
                f"--out cannot be written: {path}: {error.strerror or error}. Name a file in a "
                "folder of yours."
            ) from error
        self._write({"settings": settings})

    def known(self, path: str) -> Outcome | None:
        """The latest of the earlier outcomes of a file, unless its read took too long."""
        key = hash(path)
        at = int(np.searchsorted(self._keys, key, side="right")) - 1
        if at < 0 or self._keys[at] != key:
            return None
        self._reader.seek(int(self._places[at]))
        outcome = Outcome(**json.loads(self._reader.readline()))
        return outcome if outcome.path == path else None  # else of the same hash

    def add(self, outcome: Outcome) -> None:
        """Keep one outcome."""
        self._write(outcome._asdict())

    def close(self) -> None:
        """Close the file; it stays for the next scan."""
        self._file.close()
        self._reader.close()

    def _write(self, row: Mapping[str, object]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()


def _places(file: BinaryIO, settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the paths that are known, sorted, and where the latest line of each begins."""
    keys, places, same, place = array("q"), array("q"), False, 0
    file.seek(0)
    for line in file:
        try:
            row = json.loads(line)
            if "settings" in row:
                same = row["settings"] == settings
            elif same and not row["hung"]:
                keys.append(hash(Outcome(**row).path))
                places.append(place)
        # half a line, where the scan was stopped in writing it
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        place += len(line)
    order = np.argsort(np.asarray(keys), kind="stable")  # of the same file the latest comes last
    return np.asarray(keys)[order], np.asarray(places)[order]
