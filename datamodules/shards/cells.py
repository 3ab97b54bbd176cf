"""The bytes of one cell of a table: the column of its group of rows, read once for all its neighbours."""

import os
import threading
from collections import OrderedDict
from typing import Any

from datamodules.shards.place import Member, MemberError
from datamodules.shards.table_file import Table, bytes_child, explained, open_table

HELD = 64 << 20  # bytes of decoded columns that a process keeps
MOVED = "is not where its table had it when it was listed: start again"
File = tuple[
    str, int, int
]  # path, time of change in ns, size in bytes: another content, another file


class Cells:
    """Reads cells, and keeps tables open and columns decoded for those that follow; safe in threads.

    Args:
        held: Bytes of columns that are kept; the last one is, however large.
        columns: Columns that are kept, also of mapped files, where they take no memory.
        tables: Tables that are kept open.
    """

    def __init__(self, held: int = HELD, columns: int = 256, tables: int = 64) -> None:
        self._limits = (held, columns, tables)
        self.forget()

    def forget(self) -> None:
        """Start anew, as a forked process has to: another thread may hold the lock it was given."""
        self._lock = threading.Lock()
        self._tables: OrderedDict[File, Table] = OrderedDict()
        self._columns: OrderedDict[tuple[File, str, int], tuple[Any, int]] = OrderedDict()
        self._size = 0

    def read(self, place: Member) -> bytes:
        """As `read_cell`."""
        about = os.stat(place.shard)
        file = (place.shard, about.st_mtime_ns, about.st_size)
        with explained(lambda reason: MemberError(f"is in a table that {reason}")):
            with self._lock:
                column = self._column(file, place)
            if not 0 <= place.second < len(column):
                raise MemberError(MOVED)
            content = column[place.second].as_py()  # the one copy
        if not isinstance(content, bytes):
            raise MemberError(
                f"has no bytes in column {place.column}, whose cell is empty or names a file elsewhere: "
                "write the table with the files in it"
            )
        return content

    def _column(self, file: File, place: Member) -> Any:
        key = (file, place.column, place.first)
        if key not in self._columns:
            table = self._table(file)
            column = _bytes_of(table, place)
            self._columns[key] = (column, table.copied(column))
            self._size += self._columns[key][1]
        self._columns.move_to_end(key)
        held, columns, _ = self._limits
        while len(self._columns) > 1 and (self._size > held or len(self._columns) > columns):
            self._size -= self._columns.popitem(last=False)[1][1]
        return self._columns[key][0]

    def _table(self, file: File) -> Table:
        if file not in self._tables:
            self._tables[file] = open_table(file[0])
        self._tables.move_to_end(file)
        if len(self._tables) > self._limits[2]:
            self._tables.popitem(last=False)
        return self._tables[file]


def _bytes_of(table: Table, place: Member) -> Any:
    here = table.schema.get_field_index(place.column)
    if here < 0 or not 0 <= place.first < len(table.rows):
        raise MemberError(MOVED)
    child = bytes_child(table.schema.field(here).type)
    return table.read(place.first, place.column, child)


_cells = Cells()
if hasattr(os, "register_at_fork"):  # not on Windows, which forks no process
    os.register_at_fork(after_in_child=_cells.forget)


def read_cell(place: Member) -> bytes:
    """The bytes of a cell: a struct of `bytes` and `path`, as `datasets` writes files, or plain bytes.

    Raises:
        OSError: There is no such table.
        MemberError: The table holds something else at that place, or no bytes.
        DataError: pyarrow is missing.
    """
    return _cells.read(place)
