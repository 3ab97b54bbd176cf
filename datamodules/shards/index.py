"""The shards of a data set: which samples each split has, where they lie, and what their labels are.

An index is made once for shards of the same names, sizes and times, kept with the other lists of
`datamodules.kept`, and mapped from there: flat arrays, whatever the number of samples.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from datamodules.errors import DataError
from datamodules.filelist import UNLABELLED, FileList, read_names
from datamodules.kept import Listing, listed_once
from datamodules.packed import CHUNK, Packer, offsets_of
from datamodules.shards import hub
from datamodules.shards.cells import HELD
from datamodules.shards.layout import splits
from datamodules.shards.member import TABLES
from datamodules.shards.row import Label, Row, Wanted
from datamodules.shards.tables import class_names, decoded_at_once, label_titles, table_rows
from datamodules.shards.tar import tar_rows
from datamodules.sounds.tagged import TaggedList, Tags
from datamodules.witness import Witness

LARGE = (
    8 << 20
)  # bytes of a row group: milliseconds for each sample, as long as a picture's decoding
KEPT = 500  # samples from which an index is kept: each is a read of its shard, maybe over a network
CLASSES = "classes.txt"  # beside tar files: one class name a line, in the order of the index


class Contents(NamedTuple):
    """The samples of one split.

    Attributes:
        files: Their members, each with the places of its labels in `labels`.
        labels: The distinct labels, in the order in which they occur.
    """

    files: TaggedList
    labels: list[Label]


class Shards:
    """A data set in shards.

    Args:
        root: Folder of the data set, or `hf://datasets/OWNER/NAME`.
        wanted: What its samples are.
        config: Which of the configurations of its README; None for the usual one.
        asked: When this process came to want a list, see `listed_once`.
    """

    def __init__(self, root: str, wanted: Wanted, config: str | None, asked: float) -> None:
        self.root = root
        self.wanted = wanted
        self.config = config
        self.asked = asked
        self._contents: dict[str, Contents] = {}
        self._folder = None if hub.is_hub(root) else Path(root)
        self._fetched: set[str] = set()

    def fetch(self, splits: Collection[str]) -> Path:
        """Bring what these splits need to this machine; the folder of the data set."""
        if hub.is_hub(self.root) and not self._fetched.issuperset(splits):
            self._fetched.update(splits)
            self._folder = hub.fetch(self.root, self.config, self._fetched)
            self.__dict__.pop("splits", None)  # there are more of them now
        return self.folder

    @property
    def folder(self) -> Path:
        """The folder on this machine; of the Hub with all splits, unless some were asked for."""
        return self.fetch(("train", "val", "test")) if self._folder is None else self._folder

    @cached_property
    def splits(self) -> dict[str, list[Path]]:
        """The shards of train, val and test; nothing where the folder has none."""
        return splits(self.folder, self.config)

    @cached_property
    def names(self) -> list[str] | None:
        """What class indices mean, where the shards or `classes.txt` say so."""
        listed = self.folder / CLASSES
        if listed.is_file():
            return read_names(listed)
        tables = (shards[0] for shards in self.splits.values() if shards[0].suffix in TABLES)
        return next(filter(None, (class_names(table, self.wanted) for table in tables)), None)

    def split_of(self, split: str) -> str:
        """The split that serves as this one: test is val where there is none, and the other way round.

        Raises:
            DataError: There is neither.
        """
        instead = {"test": "val", "val": "test"}
        for name in (split, instead.get(split, split)):
            if name in self.splits:
                return name
        raise DataError(
            f"{self.root} has shards of {', '.join(self.splits)}, but none of {split}: name them "
            f"{split}-000000.tar or {split}-00000-of-00001.parquet, or say in data.config_name which "
            "configuration has it"
        )

    def contents(self, split: str) -> Contents:
        """The samples of a split.

        Raises:
            DataError: A shard is damaged, holds nothing of the kind or a key twice.
        """
        if split not in self._contents:
            self._contents[split] = self._list(split)
        return self._contents[split]

    def single(
        self, split: str, classes: Sequence[str], key: Callable[[str], str] = str
    ) -> FileList:
        """The samples of a split with one label each.

        Args:
            split: train, val or test.
            classes: All class names, in the order of the index.
            key: What class names are compared by.

        Raises:
            DataError: A sample has several labels or none (unless all have none: `UNLABELLED`), or a
                label is no class.
        """
        files, labels = self.contents(split)
        if not len(files.classes):
            return FileList(files.paths, np.full(len(files), UNLABELLED))
        wrong = np.flatnonzero(np.diff(files.label_offsets) != 1)
        if len(wrong):
            row = int(wrong[0])
            count = len(files.label(row))
            raise DataError(
                f"{self.root}: {len(wrong):,} of {len(files):,} samples of {split} have not one label, "
                f"for example {files.path(row)} {count or 'none'}; choose another data.label_column, or "
                "data of several labels each (AudioSet)"
            )
        numbers = {key(name): number for number, name in enumerate(classes)}
        same = self.names is None or list(self.names) == list(classes)  # of which two may be alike
        index = np.array(
            [
                _within(label, len(classes))
                if same and isinstance(label, int)
                else numbers.get(key(self.name(label)), -1)
                for label in labels
            ]
        )
        self._refuse_unknown(
            split, [label for label, at in zip(labels, index, strict=True) if at < 0], classes
        )
        return FileList(files.paths, index[files.classes])

    def tagged(
        self, split: str, names: Sequence[str], ids: Mapping[str, int], bare: bool = False
    ) -> TaggedList:
        """The samples of a split with any number of labels each.

        Args:
            split: train, val or test.
            names: Class names, in the order of the index.
            ids: Class index of each label id.
            bare: Whether samples may be without labels, if all are.

        Raises:
            DataError: A sample has no label, or a label is no class.
        """
        files, labels = self.contents(split)
        if len(without := np.flatnonzero(np.diff(files.label_offsets) == 0)) and not (
            bare and len(without) == len(files)
        ):
            raise DataError(
                f"{self.root}: {len(without):,} of {len(files):,} samples of {split} have no label, for "
                f"example {files.path(int(without[0]))}; set data.label_column to their column"
            )
        known = {name: number for number, name in enumerate(names)} | dict(ids)
        titles = {} if all(self.name(label) in known for label in labels) else self.titles(split)
        index = np.array(
            [
                known.get(name, known.get(titles.get(name, ""), -1))
                for name in map(self.name, labels)
            ],
            dtype=np.int32,
        )
        self._refuse_unknown(
            split, [label for label, at in zip(labels, index, strict=True) if at < 0], names
        )
        tags = _rising(files.label_offsets, index[files.classes])
        return TaggedList(files.paths, tags, len(names))

    def name(self, label: Label) -> str:
        """The class name of a label."""
        known = self.names
        if isinstance(label, int) and known is not None and 0 <= label < len(known):
            return known[label]
        return str(label)

    def class_names(self, split: str) -> list[str]:
        """Class names by what the shards say, else by the labels of a split: in order, or numbers.

        Raises:
            DataError: The split has no labels.
        """
        if self.names is not None:
            return self.names
        labels = self.contents(split).labels
        if not labels:
            raise DataError(
                f"{self.root}: the samples of {split} have no labels; set data.label_column to the "
                "column (or the field of the json member) that holds them"
            )
        numbers = [label for label in labels if isinstance(label, int)]
        if len(numbers) == len(labels):
            return [str(number) for number in range(max(numbers) + 1)]
        return sorted({str(label) for label in labels})

    def titles(self, split: str) -> dict[str, str]:
        """Display names of label ids, where a table has them beside the ids."""
        tables = [path for path in self.splits[split] if path.suffix in TABLES]
        found: dict[str, str] = {}
        for path in tables:
            found |= label_titles(path, self.wanted)
        return found

    def _refuse_unknown(self, split: str, unknown: list[Label], classes: Sequence[str]) -> None:
        if unknown:
            raise DataError(
                f"{self.root}: {len(unknown)} labels of {split} are none of the {len(classes)} classes, "
                f"for example {self.name(unknown[0])!r}; the classes are {', '.join(classes[:3])}, ..."
            )

    def _list(self, split: str) -> Contents:
        shards = self.splits[split]
        stamps = [(str(path), *_stamp(path)) for path in shards]
        what = (self.root, split, stamps, self.wanted)

        def make(seen: Witness) -> Listing[TaggedList]:
            return _listing(self._rows(shards))

        files, notes = listed_once(what, make, _of_columns, self.asked, KEPT)
        if not len(files):
            raise DataError(
                f"{self.root}: the shards of {split} ({shards[0].name}, ...) hold no {self.wanted.what}"
            )
        plural = "shard" if len(shards) == 1 else "shards"
        rank_zero_info(f"{split}: {len(files):,} {self.wanted.what} in {len(shards)} {plural}")
        if split == "train":
            self._tell_of_large_groups(shards)
        return Contents(files, notes["labels"])

    def _tell_of_large_groups(self, shards: list[Path]) -> None:
        """Say where each sample in random order costs the decoding of many."""
        size = decoded_at_once(shards[0], self.wanted) if shards[0].suffix in TABLES else 0
        if size > LARGE and sum(path.stat().st_size for path in shards) > HELD:
            rank_zero_info(
                f"{self.root}: a row group holds {size / 2**20:.0f} MB, and each training sample needs "
                "one of them read: python -m tome_lightning pack writes tar files, of which only the "
                "sample itself is read"
            )

    def _rows(self, shards: list[Path]) -> Iterator[Row]:
        for path in shards:
            rows = table_rows if path.suffix in TABLES else tar_rows
            yield from rows(path, os.path.relpath(path, self.folder), self.wanted)


def _within(label: int, classes: int) -> int:
    """A class index; -1 for one that there is not."""
    return label if 0 <= label < classes else -1


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _listing(rows: Iterator[Row]) -> Listing[TaggedList]:
    places: dict[Label, int] = {}
    paths, flat, counts = Packer(), list[np.ndarray](), list[np.ndarray]()
    while batch := list(islice(rows, CHUNK)):
        paths.add([row.path for row in batch])
        found = [
            sorted({places.setdefault(each, len(places)) for each in row.labels}) for row in batch
        ]
        counts.append(np.fromiter(map(len, found), np.int64, len(found)))
        flat.append(np.fromiter((at for row in found for at in row), np.int32))
    tags = Tags(
        offsets_of(np.concatenate(counts) if counts else np.empty(0, np.int64)),
        np.concatenate(flat) if flat else np.empty(0, np.int32),
    )
    return Listing(TaggedList(paths.packed(), tags, len(places)), {"labels": list(places)})


def _of_columns(columns: dict[str, np.ndarray]) -> TaggedList:
    return TaggedList.of_columns(columns, int(columns["classes"].max(initial=-1)) + 1)


def _rising(offsets: np.ndarray, classes: np.ndarray) -> Tags:
    """Labels with the classes of each row in order, as `Tags` have them, and each once."""
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((classes, rows))
    rows, classes = rows[order], classes[order]
    first = np.append(True, (np.diff(rows) != 0) | (np.diff(classes) != 0))[: len(rows)]
    counts = np.bincount(rows[first], minlength=len(offsets) - 1)
    return Tags(offsets_of(counts), classes[first].astype(np.int32))
