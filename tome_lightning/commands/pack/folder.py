"""The folder that shards are written to: what is done there already, and what may not be."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tome_lightning.commands.pack.shard import Whole
from tome_lightning.errors import UsageError
from tome_lightning.trainer.claim import LOCK
from tome_lightning.version import __version__

RECORD, BAD_FILES = "pack.json", "bad_files.json"
CLASSES, LABEL_CSV = "classes.txt", "class_labels_indices.csv"
_SHARD = re.compile(r"(train|val|test)-\d{6,}\.tar")
_OURS = re.compile(
    rf"{_SHARD.pattern}(\.partial)?|{re.escape(RECORD)}|{re.escape(BAD_FILES)}|"
    rf"{re.escape(CLASSES)}|{re.escape(LABEL_CSV)}|{re.escape(LOCK)}|\..*\.tmp"
)

_NO_LINE = re.compile("[\x00-\x08\n-\x1f\ud800-\udfff]")


class Bad(NamedTuple):
    """A file that is left out."""

    row: int  # in the list of its split
    path: str
    reason: str


@dataclass
class SplitRecord:
    """What is done of a split.

    Attributes:
        digest: Sixteen hexadecimal digits that name its list.
        files: Files in the list.
        shards: The shards that are whole, from the first on.
        bad: The files that were left out of them.
    """

    digest: str
    files: int
    shards: list[Whole] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of the list that are done."""
        return sum(shard.rows for shard in self.shards)

    @property
    def samples(self) -> int:
        """Samples in whole shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of whole shards."""
        return sum(shard.bytes for shard in self.shards)


class PackRecord:
    """`pack.json` of a folder: settings, and what is done of each split.

    Args:
        folder: Folder of the shards.
        settings: What their bytes depend on besides the lists.
        recipe: Name to write down.

    Raises:
        UsageError: The folder cannot be used, or holds something else.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], recipe: str | None) -> None:
        self.folder, self.settings, self.recipe = folder, dict(settings), recipe
        self.splits: dict[str, SplitRecord] = {}
        found = _read(folder)
        if found is None:
            self.write()
            return
        theirs, self.splits = found
        self._compare(theirs)

    def split(self, name: str, digest: str, files: int) -> SplitRecord:
        """The record of a split, whose shards that are gone are forgotten, and all after them.

        Raises:
            UsageError: What is done is of another list.
        """
        record = self.splits.setdefault(name, SplitRecord(digest, files))
        if record.digest != digest:
            raise UsageError(
                f"{self.folder} has shards of another list of {name} ({record.files:,} files, list "
                f"{record.digest}; now {files:,}, list {digest}). Name another folder, or empty it."
            )
        there = 0
        while there < len(record.shards) and self._is_there(record.shards[there]):
            there += 1
        del record.shards[there:]
        record.bad = [bad for bad in record.bad if bad.row < record.rows]
        return record

    def write(self) -> None:
        """Bring the record to the disk, in one step."""
        content = {
            "version": __version__,
            "recipe": self.recipe,
            "settings": self.settings,
            "splits": {
                name: {
                    "list": split.digest,
                    "files": split.files,
                    "samples": split.samples,
                    "bytes": split.bytes,
                    "shards": [shard._asdict() for shard in split.shards],
                    "bad": [bad._asdict() for bad in split.bad],
                }
                for name, split in self.splits.items()
            },
        }
        write_text(self.folder / RECORD, json.dumps(content, indent=1) + "\n")

    def write_bad(self) -> Path:
        """Write the bad files as `data.exclude` takes them."""
        rows = {bad.path: bad.reason for split in self.splits.values() for bad in split.bad}
        bad = [{"path": path, "reason": reason} for path, reason in sorted(rows.items())]
        path = self.folder / BAD_FILES
        write_text(path, json.dumps({"bad": bad}, indent=1) + "\n")
        return path

    def _is_there(self, shard: Whole) -> bool:
        try:
            return (self.folder / shard.name).stat().st_size == shard.bytes
        except OSError:
            return False

    def _compare(self, found: Mapping[str, Any]) -> None:
        for name in sorted(self.settings.keys() | found.keys()):
            ours, theirs = self.settings.get(name), found.get(name)
            if ours != theirs:
                raise UsageError(
                    f"{self.folder} was begun with {name} {theirs!r}, now it is {ours!r}. Go on with the "
                    "same, or name another folder."
                )


def check_folder(out: Path, root: str) -> None:
    """Refuse a folder that holds something else, or lies in the data set; makes nothing.

    Raises:
        UsageError: In one line, with the way out.
    """
    real, source = os.path.realpath(out), os.path.realpath(root)
    if os.path.join(real, "").startswith(os.path.join(source, "")):
        raise UsageError(f"{out} lies in the data set itself, {root}. Name a folder beside it.")
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is no folder. Name one for the shards; it is made.")
    names = sorted(os.listdir(out))
    if RECORD not in names and names and names != [LOCK]:
        raise UsageError(
            f"{out} holds {names[0]} and no {RECORD} of an earlier pack. Name a new or an empty folder."
        )
    foreign = [name for name in names if not _OURS.fullmatch(name)]
    if foreign:
        raise UsageError(f"{out} holds {foreign[0]}, which is no shard. Name a folder for shards.")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, SplitRecord]] | None:
    """Settings and splits of an earlier pack; None where there was none."""
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        splits = {name: _split(split) for name, split in content["splits"].items()}
        return dict(content["settings"]), splits
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is no record of a pack ({type(error).__name__}: {error}). Name another folder."
        ) from None


def _split(content: Mapping[str, Any]) -> SplitRecord:
    shards = [Whole(**shard) for shard in content["shards"]]
    for shard in shards:
        if not _SHARD.fullmatch(shard.name):  # it will be opened
            raise ValueError(f"{shard.name!r} is no name of a shard")
    bad = [Bad(**row) for row in content["bad"]]
    return SplitRecord(str(content["list"]), int(content["files"]), shards, bad)


def class_files(names: Sequence[str], ids: Sequence[str] | None) -> dict[str, str]:
    """The file that names the classes, and what is in it.

    Args:
        names: Class names in the order of the index.
        ids: Their label ids, where a sample has several labels.

    Raises:
        UsageError: A name that no line of text can hold.
    """
    for name in [*names, *(ids or [])]:
        if _NO_LINE.search(name):
            raise UsageError(
                f"the class name {name!r} cannot stand in a text file: it holds control characters or "
                "bytes that are no UTF-8. Rename it."
            )
    if ids is None:
        return {CLASSES: "".join(f"{_cell(name)}\n" for name in names)}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["index", "mid", "display_name"])
    rows.writerows(zip(range(len(names)), ids, names, strict=True))
    return {LABEL_CSV: text.getvalue()}


def _cell(name: str) -> str:
    """A class name as a line that `read_names` reads it from."""
    if name == name.strip() and not name.startswith('"'):
        return name
    return '"' + name.replace('"', '""') + '"'


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    from tome_lightning.trainer.checkpoint_file import replacing  # brings torch

    with replacing(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
