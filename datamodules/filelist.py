"""Lists of labelled files in flat arrays, and the two ways to make one: a folder or a text file."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from datamodules.csv_lines import LABEL_HEADER, path_and_label, unquoted
from datamodules.errors import DataError
from datamodules.packed import Packed, Packer, pack
from datamodules.walking import LeftOut, above, batches_below, entries, is_data
from datamodules.witness import Witness

IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".jpe", ".mpo",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".apng", ".dib", ".gif", ".avif", ".avifs", ".pbm",
    ".pnm", ".pfm", ".tga", ".qoi", ".pcx", ".sgi", ".ras", ".dds", ".psd", ".ico", ".icns",
)  # fmt: skip
VIDEO_EXTENSIONS = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".f4v", ".mk3d",
    ".divx", ".mpe", ".m1v", ".m2v", ".mp2v", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".wmv", ".asf",
    ".3gp", ".3g2", ".ogv", ".ogm", ".rm", ".rmvb", ".mxf", ".dv", ".nut", ".ivf", ".y4m", ".mj2",
    ".mjpeg", ".mjpg", ".gif", ".h264", ".264", ".h265", ".265", ".hevc",
)  # fmt: skip
UNLABELLED = -2  # the label of a file whose list gives none


class LabelledFiles(ABC):
    """N files in flat numpy arrays: the paths, and in a subclass the label or labels of each.

    A Python list of a million strings is copied page by page into every forked worker, because
    reading an item writes its reference count; arrays stay shared.

    Args:
        paths: N paths, absolute or relative to the root of the data set.
    """

    _digest: str | None = None

    def __init__(self, paths: Iterable[str] | Packed) -> None:
        packed = paths if isinstance(paths, Packed) else pack(iter(paths))
        self.offsets, self.blob = packed  # [N + 1], bytes

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def paths(self) -> Packed:
        """All paths."""
        return Packed(self.offsets, self.blob)

    def path(self, index: int) -> str:
        """Path of one file, as the list has it."""
        start, stop = self._span(self.offsets, index)
        return os.fsdecode(self.blob[start:stop].tobytes())

    def __getitem__(self, index: int) -> tuple[str, Any]:
        """Path and label (or tuple of labels) of one file."""
        return self.path(index), self.label(index)

    @abstractmethod
    def label(self, index: int) -> Any:
        """Class index of one file, or a tuple of them."""

    @abstractmethod
    def target(self, index: int) -> int | Tensor:
        """What a model is to say of one file."""

    @property
    @abstractmethod
    def unread_target(self) -> int | Tensor:
        """The target of a file that could not be read: -1, wherever a target has a number."""

    @abstractmethod
    def peers(self, index: int) -> np.ndarray:
        """Which files may stand in for one, itself among them: bool `[N]`."""

    @abstractmethod
    def are_peers(self, index: int, rows: np.ndarray) -> np.ndarray:
        """Which of these rows (int64 `[n]`) may stand in for one file: bool `[n]`."""

    @abstractmethod
    def class_counts(self, num_classes: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Files of each class, int64 `[num_classes]`; only those of a mask `rows` (bool `[N]`)."""

    @abstractmethod
    def keep(self, rows: np.ndarray) -> Self:
        """The same list with the rows of a mask (bool `[N]`) only."""

    @abstractmethod
    def columns(self) -> dict[str, np.ndarray]:
        """All that the list holds, by names; checkpoints keep the digest of this order."""

    def without(self, paths: Collection[str]) -> Self:
        """The same list, without the rows of these paths."""
        out = {os.fsencode(path) for path in paths}
        kept = (path not in out for path in self.paths.raw())
        return self.keep(np.fromiter(kept, dtype=bool, count=len(self)))

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(array.nbytes for array in self.columns().values())

    def digest(self) -> str:
        """Sixteen hexadecimal digits that name this list: its paths, their order, their labels."""
        if self._digest is None:
            digest = hashlib.sha256()
            for array in self.columns().values():
                digest.update(array.data)
            self._digest = digest.hexdigest()[:16]
        return self._digest

    def _span(self, offsets: np.ndarray, index: int) -> tuple[int, int]:
        """Where row `index` starts and stops in values with these offsets."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} in a list of {len(self)} files")
        index %= len(self)
        return int(offsets[index]), int(offsets[index + 1])


Files = TypeVar("Files", bound=LabelledFiles)


class FileList(LabelledFiles):
    """N paths with one label each.

    Args:
        paths: N paths, absolute or relative to the root of the data set.
        labels: N class indices, or `UNLABELLED` for all.
    """

    unread_target = -1

    def __init__(self, paths: Iterable[str] | Packed, labels: Iterable[int] | np.ndarray) -> None:
        super().__init__(paths)
        given = labels if isinstance(labels, np.ndarray) else np.fromiter(labels, dtype=np.int64)
        self.labels = given.astype(np.int64, copy=False)  # [N]
        if len(self) != len(self.labels):
            raise ValueError(f"{len(self)} paths but {len(self.labels)} labels")

    @property
    def unlabelled(self) -> bool:
        """Whether no file has a label."""
        return bool((self.labels == UNLABELLED).all())

    def label(self, index: int) -> int:
        """Class index of one file."""
        return int(self.labels[index])

    target = label

    def peers(self, index: int) -> np.ndarray:
        """The files of its class: bool `[N]`."""
        return self.labels == self.labels[index]

    def are_peers(self, index: int, rows: np.ndarray) -> np.ndarray:
        """Which of these rows (int64 `[n]`) are of its class: bool `[n]`."""
        return self.labels[rows] == self.labels[index]

    def class_counts(self, num_classes: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Files of each class, int64 `[num_classes]`; only those of a mask `rows` (bool `[N]`)."""
        labels = self.labels if rows is None else self.labels[rows]
        return np.bincount(labels[labels >= 0], minlength=num_classes)

    def keep(self, rows: np.ndarray) -> Self:
        """The same list with the rows of a mask (bool `[N]`) only."""
        kept = copy(self)
        kept._digest = None
        kept.offsets, kept.blob = keep_rows(self.offsets, self.blob, rows)
        kept.labels = self.labels[rows]
        return kept

    def columns(self) -> dict[str, np.ndarray]:
        """All that the list holds, by names; checkpoints keep the digest of this order."""
        return {"offsets": self.offsets, "labels": self.labels, "blob": self.blob}

    @classmethod
    def of_columns(cls, columns: dict[str, np.ndarray]) -> Self:
        """The list of these `columns`."""
        return cls(Packed(columns["offsets"], columns["blob"]), columns["labels"])


def keep_rows(
    offsets: np.ndarray, values: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of values whose row n is `values[offsets[n] : offsets[n + 1]]`, the rows of a mask only."""
    lengths = np.diff(offsets)
    return np.append(0, np.cumsum(lengths[rows])), values[np.repeat(rows, lengths)]


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in `folder` in alphabetical order.

    Hidden folders, those of thumbnails, and links to where they lie in themselves are none.

    Raises:
        DataError: `folder` is missing or cannot be listed.
    """
    found = [entry for entry in entries(folder) if entry.is_dir() and is_data(entry.name)]
    links = [entry for entry in found if entry.is_symlink()]
    around = above(folder) | {os.path.realpath(folder)} if links else set()
    loops = {entry.name for entry in links if os.path.realpath(entry.path) in around}
    return sorted(entry.name for entry in found if entry.name not in loops)


def scan_folder(
    root: Path,
    split: str,
    labels: Mapping[str, int],
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS,
    left_out: LeftOut | None = None,
    seen: Witness | None = None,
) -> FileList:
    """Every file below `root/split/<class>`, by class and then by path; see `files_below`.

    Args:
        root: Folder of the data set; the paths of the list are relative to it.
        split: Name of the split's folder.
        labels: Class index of each class folder.
        extensions: Endings of the files wanted, in lower case.
        left_out: Takes note of what is passed over.
        seen: Takes note of the state of the folders that are listed.

    Raises:
        DataError: A folder cannot be listed.
    """
    left_out = LeftOut() if left_out is None else left_out
    seen = Witness() if seen is None else seen
    seen.note(str(root / split))
    left_out.note_beside(root / split, labels, extensions)
    places = {name: os.path.realpath(root / split / name) for name in labels}
    prefix = os.path.join(root, "")
    paths, counts = Packer(), dict[str, int]()
    taken: set[tuple[int, str]] = set()
    ordered = sorted(labels.items(), key=lambda item: (item[1], item[0]))
    for name, label in ordered:
        folder = root / split / name
        if (label, places[name]) in taken:  # another spelling of the same class, linked
            left_out.links.append(str(folder))
            continue
        taken.add((label, places[name]))
        found: list[str] = []
        for here, names in batches_below(folder, extensions, left_out, places.values(), seen):
            start = os.path.join(here, "").removeprefix(prefix)
            found += [start + file for file in names]
        found.sort()
        paths.add(found)
        counts[name] = len(found)
    sizes = [counts.get(name, 0) for name, _ in ordered]
    return FileList(paths.packed(), np.repeat([label for _, label in ordered], sizes))


def read_list(path: Path, classes: int | None = None, bare: bool = False) -> FileList:
    """Read a text file with one `path,label` or `path label` a line, see `csv_lines`.

    Blank lines and lines that start with `#` are skipped, and a header such as `path,label`.

    Args:
        path: The text file.
        classes: Number of classes, if labels of that and more are to be refused.
        bare: Whether the list may be one of paths alone; its labels are `UNLABELLED` then.

    Raises:
        DataError: The file is missing or empty, or a line is malformed or its label too high (the
            line's number is named).
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"the file list {path} names no file; write one `path,label` a line")
    unlabelled = all(label is None for _, _, label in rows)
    if not (bare and unlabelled):
        _check_labels(path, rows, classes)
    return FileList(
        (name for _, name, _ in rows),
        (UNLABELLED if label is None else label for _, _, label in rows),
    )


Row = tuple[int, str, int | None]  # number of a line, path, label


def _rows(path: Path) -> Iterator[Row]:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"cannot read the file list {path}: {error.strerror}") from None
    first = True
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        header, first = first and LABEL_HEADER.fullmatch(line), False
        if header:
            continue
        try:
            yield number, *path_and_label(line)
        except ValueError:
            raise _malformed(path, number, line) from None


def _check_labels(path: Path, rows: list[Row], classes: int | None) -> None:
    unlabelled = all(label is None for _, _, label in rows)
    for number, name, label in rows:
        if label is None:
            raise _malformed(path, number, name, unlabelled)
        if classes is not None and label >= classes:
            raise DataError(
                f"{path}, line {number}: label {label}, but there are {classes} classes, 0 the first"
            )


def _malformed(path: Path, number: int, line: str, unlabelled: bool = False) -> DataError:
    hint = "; a list without any labels is for predict" if unlabelled else ""
    return DataError(
        f"{path}, line {number}: expected `path,label` or `path label` with a label of 0 or more (in "
        f"double quotes a path may hold anything, quotes twice), got {line[:80]!r}{hint}"
    )


def read_bad_files(path: Path) -> set[str]:
    """The bad files of a scan, by the paths their lists give them.

    Raises:
        DataError: The file is missing, or no result of `scan`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(row["path"]) for row in content["bad"]}
    except OSError as error:
        raise DataError(f"cannot read data.exclude {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"data.exclude {path} is no result of `python -m tome_lightning scan` "
            f"({type(error).__name__}: {error}); it has `bad: [{{path, reason}}]`"
        ) from None


def leave_out(split: str, files: Files, exclude: str | None, what: str) -> Files:
    """The files of a split without the bad ones of a scan.

    Args:
        split: What messages call the split.
        files: Its files.
        exclude: JSON file that `scan` or a run has written; None for none.
        what: What messages call the files, such as `videos`.

    Raises:
        DataError: `exclude` cannot be read, or leaves nothing.
    """
    if exclude is None:
        return files
    bad = read_bad_files(Path(exclude).expanduser())
    kept = files.without(bad)
    message = f"{exclude} leaves out {len(files) - len(kept)} of {len(files)} {what} of {split}"
    if split == "train" and bad and len(kept) == len(files):
        rank_zero_warn(f"{message}, though it names {len(bad)} files: was it made for this root?")
    else:
        rank_zero_info(message)
    if not len(kept):
        raise DataError(f"{exclude} leaves out all {len(files)} {what} of {split}")
    return kept


def read_names(path: Path) -> list[str]:
    """Read a text file with one class name a line.

    Raises:
        DataError: The file is missing or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"cannot read class_list {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"cannot read class_list {path}: it is no UTF-8 text ({error.reason})"
        ) from None
    names = [unquoted(line.strip()) for line in lines if line.strip()]
    if not names:
        raise DataError(f"class_list {path} is empty; write one class name a line")
    return names
