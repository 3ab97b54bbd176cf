"""A shard that is a table, Parquet or Arrow, opened for reading a column of a group of rows at a time.

Arrow's stream and file formats are mapped, so nothing of them is copied; of Parquet one column of one
row group is decoded. A type that a file brings along is read as its storage: nothing of a file is run.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from datamodules.errors import DataError

_ARROW_FILE = b"ARROW1"  # first bytes of Arrow's file format; a stream has none
_LFS_POINTER = b"version https://git-lfs"


def arrow() -> ModuleType:
    """pyarrow.

    Raises:
        DataError: It is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise DataError(
            'Parquet and Arrow files are read by pyarrow: pip install "tome_lightning[hub]"'
        ) from None
    return pyarrow


@contextmanager
def explained(say: Callable[[str], Exception]) -> Iterator[None]:
    """Raise what `say` makes of a line where pyarrow cannot read a table."""
    pyarrow = arrow()
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the file system, not of the content
            raise
        raise say(f"cannot be read as a table ({(str(error).splitlines() or [''])[0]})") from error


class Table(ABC):
    """An open table.

    Attributes:
        schema: pyarrow's, with the metadata that `datasets` writes.
        rows: Number of rows of each group: Parquet's row groups, Arrow's batches.
    """

    schema: Any
    rows: list[int]

    @abstractmethod
    def read(self, group: int, column: str, child: str | None = None) -> Any:
        """A column of a group, or a child of one that is a struct: an array of pyarrow."""

    @abstractmethod
    def decoded(self, column: str, child: str | None = None) -> int:
        """Bytes of a column, or its child, that are decoded to read one cell, in the largest group."""

    @abstractmethod
    def copied(self, column: Any) -> int:
        """Bytes of memory that a column which was read takes besides the mapped file."""


class ParquetTable(Table):
    """A Parquet file."""

    def __init__(self, path: str) -> None:
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(
            path, memory_map=True, pre_buffer=False, arrow_extensions_enabled=False
        )
        about = self._file.metadata
        self.schema = self._file.schema_arrow
        self.rows = [about.row_group(group).num_rows for group in range(about.num_row_groups)]

    def read(self, group: int, column: str, child: str | None = None) -> Any:
        # no threads: loader processes are the threads, and a forked one has none
        name = column if child is None else f"{column}.{child}"
        found = self._file.read_row_group(group, columns=[name], use_threads=False)
        return _child(found.column(column), child)

    def decoded(self, column: str, child: str | None = None) -> int:
        about = self._file.metadata
        name = column if child is None else f"{column}.{child}"
        chunks = [
            about.row_group(group).column(at)
            for at in range(about.num_columns)
            if self._file.schema.column(at).path == name
            for group in range(about.num_row_groups)
        ]
        return max((int(chunk.total_uncompressed_size) for chunk in chunks), default=0)

    def copied(self, column: Any) -> int:
        return int(column.nbytes)


class ArrowTable(Table):
    """A file in Arrow's stream format, which `datasets` writes, or in its file format."""

    def __init__(self, path: str) -> None:
        from pyarrow import ipc

        self._map = arrow().memory_map(path).read_buffer()  # no copy
        options = ipc.IpcReadOptions(use_threads=False)
        if self._map[: len(_ARROW_FILE)].to_pybytes() == _ARROW_FILE:
            file = ipc.open_file(self._map, options=options)
            self.schema = file.schema
            self._batch: Callable[[int], Any] = file.get_batch
            self.rows = [self._batch(group).num_rows for group in range(file.num_record_batches)]
        else:
            stream = ipc.open_stream(self._map, options=options)
            self.schema = stream.schema
            batches = list(stream)
            self._batch = batches.__getitem__
            self.rows = [batch.num_rows for batch in batches]

    def read(self, group: int, column: str, child: str | None = None) -> Any:
        found = self._batch(group).column(column)
        found.validate(full=True)  # Arrow trusts its files: offsets may point anywhere
        return _child(found, child)

    def decoded(self, column: str, child: str | None = None) -> int:
        return 0  # mapped, save what others have compressed

    def copied(self, column: Any) -> int:
        end = self._map.address + self._map.size
        return sum(
            buffer.size
            for buffer in column.buffers()
            if buffer is not None and not self._map.address <= buffer.address < end
        )


def open_table(path: str) -> Table:
    """Open a table by its ending; to be called within `explained`.

    Raises:
        OSError: There is no such file.
        DataError: pyarrow is missing, or the file stands for one that was not fetched.
    """
    with open(path, "rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise DataError(f"{path} only names a file that git did not fetch: run git lfs pull")
    return (ParquetTable if path.endswith(".parquet") else ArrowTable)(os.fspath(path))


def _child(column: Any, child: str | None) -> Any:
    """A child of a struct, null where the struct is."""
    if child is None:
        return column
    import pyarrow.compute

    return pyarrow.compute.struct_field(column, child)


def has_child(kind: Any, name: str) -> bool:
    """Whether a type of pyarrow is a struct with a child of that name."""
    return bool(arrow().types.is_struct(kind)) and kind.get_field_index(name) >= 0


def bytes_child(kind: Any) -> str | None:
    """The child of a column of such a type that holds the bytes of files; None for the column itself."""
    return "bytes" if has_child(kind, "bytes") else None


def holds_bytes(kind: Any) -> bool:
    """Whether a column of such a type holds bytes: a struct with `bytes`, or binary."""
    types = arrow().types
    inner = kind.field("bytes").type if has_child(kind, "bytes") else kind
    return any(
        is_kind(inner) for is_kind in (types.is_binary, types.is_large_binary, types.is_binary_view)
    )
