"""Lists of labelled files in flat arrays, and the two ways to make one: a folder or a text file."""

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from datamodules.errors import DataError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_EXTENSIONS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv")


class FileList:
    """N paths and labels in three numpy arrays.

    A Python list of a million strings is copied page by page into every forked worker, because
    reading an item writes its reference count; arrays stay shared.

    Args:
        paths: N paths, absolute or relative to the root of the data set.
        labels: N class indices.
    """

    def __init__(self, paths: Iterable[str], labels: Iterable[int]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.labels = np.fromiter(labels, dtype=np.int64)  # [N]
        if len(encoded) != len(self.labels):
            raise ValueError(f"{len(encoded)} paths but {len(self.labels)} labels")
        self.offsets = np.zeros(len(encoded) + 1, dtype=np.int64)  # [N + 1]
        np.cumsum([len(path) for path in encoded], out=self.offsets[1:])
        self.blob = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[str, int]:
        """Path and label of one file."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} in a list of {len(self)} files")
        index %= len(self)
        start, stop = self.offsets[index], self.offsets[index + 1]
        return os.fsdecode(self.blob[start:stop].tobytes()), int(self.labels[index])

    def without(self, paths: Collection[str]) -> "FileList":
        """The same list, without the rows of these paths."""
        rows = [row for row in map(self.__getitem__, range(len(self))) if row[0] not in paths]
        return FileList((path for path, _ in rows), (label for _, label in rows))

    @property
    def nbytes(self) -> int:
        """Size of the three arrays in bytes."""
        return self.blob.nbytes + self.offsets.nbytes + self.labels.nbytes

    def digest(self) -> str:
        """Sixteen hexadecimal digits that name this list: its paths, their order, their labels."""
        digest = hashlib.sha256()
        for array in (self.offsets, self.labels, self.blob):
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in `folder` in alphabetical order, hidden ones left out.

    Raises:
        DataError: `folder` is missing or cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}; check the path") from None


def scan_folder(
    root: Path,
    split: str,
    labels: Mapping[str, int],
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS,
) -> FileList:
    """Every file below `root/split/<class>`, by class and then by path, hidden files left out.

    Args:
        root: Folder of the data set; the paths of the list are relative to it.
        split: Name of the split's folder.
        labels: Class index of each class folder.
        extensions: Endings of the files wanted, in lower case.

    Raises:
        DataError: A folder cannot be listed.
    """
    paths: list[str] = []
    indices: list[int] = []
    for name, label in sorted(labels.items(), key=lambda item: (item[1], item[0])):
        found = sorted(_files_below(root / split / name, extensions))
        paths += [os.path.relpath(path, root) for path in found]
        indices += [label] * len(found)
    return FileList(paths, indices)


def _files_below(folder: Path, extensions: tuple[str, ...]) -> Iterable[str]:
    def refuse(error: OSError) -> None:  # os.walk skips what it cannot list unless told otherwise
        raise DataError(f"cannot list {error.filename}: {error.strerror}") from None

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(extensions) and not name.startswith("."):
                yield os.path.join(parent, name)


def read_list(path: Path, classes: int | None = None) -> FileList:
    """Read a text file with one `path,label` or `path label` a line.

    Blank lines and lines that start with `#` are skipped. The label is what follows the last comma
    if that is a whole number, else what follows the last blank; so a path may hold either.

    Args:
        path: The text file.
        classes: Number of classes, if labels of that and more are to be refused.

    Raises:
        DataError: The file is missing or empty, or a line is malformed or its label too high (the
            line's number is named).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"cannot read the file list {path}: {error.strerror}") from None
    paths: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, label = _split_line(line)
        if not name or not label.isdecimal():
            raise DataError(
                f"{path}, line {number}: expected `path,label` or `path label` with a label of "
                f"0 or more, got {line[:80]!r}"
            )
        if classes is not None and int(label) >= classes:
            raise DataError(
                f"{path}, line {number}: label {label}, but there are {classes} classes, 0 the first"
            )
        paths.append(name)
        labels.append(int(label))
    if not paths:
        raise DataError(f"the file list {path} names no file; write one `path,label` a line")
    return FileList(paths, labels)


def read_names(path: Path) -> list[str]:
    """Read a text file with one class name a line.

    Raises:
        DataError: The file is missing or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"cannot read class_list {path}: {error.strerror}") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"class_list {path} is empty; write one class name a line")
    return names


def _split_line(line: str) -> tuple[str, str]:
    name, _, label = line.rpartition(",")
    if not label.strip().isdecimal() or not name:
        name, _, label = line.replace("\t", " ").rpartition(" ")
    return name.strip(), label.strip()
