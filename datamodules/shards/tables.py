"""The rows of a table: what each is called and labelled, without reading the files that it holds."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.shards.member import cell
from datamodules.shards.row import Label, Row, Wanted
from datamodules.shards.table_columns import Columns, columns_of
from datamodules.shards.table_file import Table, bytes_child, explained, has_child, open_table

TITLES = "human_"  # before the name of the label column: agkphysics/AudioSet has human_labels


def table_rows(shard: Path, name: str, wanted: Wanted) -> Iterator[Row]:
    """All rows of a table, in order.

    Labels are class names where the table has them (`ClassLabel`), else what stands in the column,
    numbers or strings. A null and the number -1 are no label.

    Args:
        shard: A Parquet or Arrow file.
        name: Its path relative to the folder of the data set, for the rows' paths.
        wanted: What is looked for.

    Raises:
        DataError: The file is no whole table, or has no such columns.
        OSError: There is no such file.
    """
    with _opened(shard, wanted) as (table, columns):
        for group in range(len(table.rows)):
            names = _names(table, group, columns.content)
            labels = _labels(table, group, columns, shard)
            for row, (own_name, found) in enumerate(zip(names, labels, strict=True)):
                yield Row(cell(name, columns.content, own_name, group, row).path, found)


def class_names(shard: Path, wanted: Wanted) -> list[str] | None:
    """The names of the label numbers, in their order; None where the table does not say.

    Raises:
        DataError: As `table_rows`.
        OSError: There is no such file.
    """
    with _opened(shard, wanted) as (_, columns):
        return columns.classes


def label_titles(shard: Path, wanted: Wanted) -> dict[str, str]:
    """How each label reads where a second column says so, as `/m/09x0r` is Speech; else nothing.

    Raises:
        DataError: As `table_rows`.
        OSError: There is no such file.
    """
    titles: dict[str, str] = {}
    with _opened(shard, wanted) as (table, columns):
        beside = f"{TITLES}{columns.label}"
        if columns.label is None or beside not in table.schema.names:
            return titles
        for group in range(len(table.rows)):
            ids, words = (table.read(group, name).to_pylist() for name in (columns.label, beside))
            for one, other in zip(ids, words, strict=True):
                titles.update(zip(map(str, _listed(one)), map(str, _listed(other)), strict=False))
    return titles


def decoded_at_once(shard: Path, wanted: Wanted) -> int:
    """Bytes that are decoded to read one file of a table by itself; 0 where it is mapped.

    Raises:
        DataError: As `table_rows`.
        OSError: There is no such file.
    """
    with _opened(shard, wanted) as (table, columns):
        child = bytes_child(table.schema.field(columns.content).type)
        return table.decoded(columns.content, child)


@contextmanager
def _opened(shard: Path, wanted: Wanted) -> Iterator[tuple[Table, Columns]]:
    with explained(lambda reason: DataError(f"{shard} {reason}: fetch or write it again")):
        table = open_table(str(shard))
        yield table, columns_of(shard, table, wanted)


def _names(table: Table, group: int, content: str) -> Sequence[str]:
    """What the files of a group are called, without folders; empty where the table does not say."""
    if not has_child(table.schema.field(content).type, "path"):
        return [""] * table.rows[group]
    paths = table.read(group, content, "path").to_pylist()
    return [(path or "").replace("\\", "/").rpartition("/")[2] for path in paths]


def _labels(table: Table, group: int, columns: Columns, shard: Path) -> Sequence[tuple[Label, ...]]:
    if columns.label is None:
        return [()] * table.rows[group]
    cells = table.read(group, columns.label).to_pylist()
    return [tuple(_labels_of(_listed(found), columns, shard)) for found in cells]


def _listed(found: Any) -> list[Any]:
    """One label or many, as a list without nulls."""
    return [one for one in (found if isinstance(found, list) else [found]) if one is not None]


def _labels_of(found: Iterable[Any], columns: Columns, shard: Path) -> Iterator[Label]:
    for one in found:
        if isinstance(one, str):
            yield one
        elif one == -1:  # how `datasets` marks what is not labelled
            continue
        elif columns.classes is None:
            yield int(one)
        elif 0 <= one < len(columns.classes):
            yield columns.classes[one]
        else:
            raise DataError(
                f"column {columns.label!r} of {shard} holds the class {one}, but its features name "
                f"{len(columns.classes)} classes"
            )
