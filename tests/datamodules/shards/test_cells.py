"""Cells of tables that `datasets` wrote, against what it reads of them itself."""

import os
import pickle
import random
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import DataError
from datamodules.shards import cells
from datamodules.shards.cells import Cells, read_cell
from datamodules.shards.member import Content, Member, MemberError, member, own_name
from datamodules.shards.table_file import ParquetTable
from datamodules.shards.tables import table_rows

from .hf_tables import IMAGES, SOUNDS, arrow, parquet, pictures, png

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
WRITERS = {"parquet": lambda data, at: parquet(data, at / "train.parquet"), "arrow": arrow}


def paths_of(shard: Path) -> list[str]:
    return [row.path for row in table_rows(shard, str(shard), IMAGES)]


def place_of(path: str) -> Member:
    place = member(path)
    assert place is not None
    return place


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """The groups of rows and columns of Parquet files that are read from now on."""
    seen: list[tuple[int, str]] = []
    read = ParquetTable.read

    def noted(self: ParquetTable, group: int, column: str, child: str | None = None) -> Any:
        seen.append((group, f"{column}.{child}"))
        return read(self, group, column, child)

    monkeypatch.setattr(ParquetTable, "read", noted)
    return seen


@pytest.mark.parametrize("written", ["parquet", "arrow"])
def test_every_cell_in_random_order_is_what_datasets_decodes(tmp_path: Path, written: str):
    data = pictures(30)
    paths = paths_of(WRITERS[written](data, tmp_path))
    order = list(range(len(data)))
    random.Random(0).shuffle(order)
    assert len({place_of(path).first for path in paths}) == 8  # groups of four rows
    for number in order:
        content = read_cell(place_of(paths[number]))
        pixels = np.asarray(Image.open(Content(content, own_name(paths[number]))))
        assert np.array_equal(pixels, np.asarray(data[number]["image"]))
        assert own_name(paths[number]) == f"0-{number}.png"


class Cellwise(Dataset[bytes]):
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:
        return read_cell(place_of(self.paths[index]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="loader processes are forked")
@pytest.mark.parametrize("written", ["parquet", "arrow"])
def test_forked_loaders_read_what_their_parent_has_open(tmp_path: Path, written: str):
    paths = paths_of(WRITERS[written](pictures(40), tmp_path))
    read_cell(place_of(paths[0]))
    loader = DataLoader(
        Cellwise(paths), batch_size=5, num_workers=2, shuffle=False, collate_fn=list,
        multiprocessing_context="fork",
    )  # fmt: skip
    with cells._cells._lock:  # as another thread of the parent may hold it
        batches = list(loader)
    assert [content for batch in batches for content in batch] == [png(n) for n in range(40)]


def test_threads_wait_for_one_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = paths_of(parquet(pictures(4), tmp_path / "train.parquet"))
    reader = Cells()
    start = threading.Barrier(4)
    found: dict[int, bytes] = {}
    read, seen = ParquetTable.read, []

    def slow(self: ParquetTable, group: int, column: str, child: str | None = None) -> Any:
        seen.append(group)
        time.sleep(0.05)  # for the others to come in, were they let
        return read(self, group, column, child)

    def ask(number: int) -> None:
        start.wait()
        found[number] = reader.read(place_of(paths[number]))

    monkeypatch.setattr(ParquetTable, "read", slow)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: png(number) for number in range(4)}
    assert seen == [0]


def test_in_order_each_row_group_is_read_once(tmp_path: Path, reads: list[tuple[int, str]]):
    paths = paths_of(parquet(pictures(40), tmp_path / "train.parquet"))
    reads.clear()
    reader = Cells(held=1)
    for path in paths:
        reader.read(place_of(path))
    assert reads == [(group, "image.bytes") for group in range(10)]


def test_what_is_held_is_bounded_by_bytes(tmp_path: Path, reads: list[tuple[int, str]]):
    paths = paths_of(parquet(pictures(16, size=32), tmp_path / "train.parquet"))
    group = sum(len(png(number, 32)) for number in range(4))
    reader = Cells(held=3 * group)  # offsets beside the bytes: two groups fit, not three
    reads.clear()
    for number in (0, 4, 1, 5, 8, 0):
        reader.read(place_of(paths[number]))
    assert [group for group, _ in reads] == [0, 1, 2, 0]
    assert reader._size <= 3 * group
    assert len(reader._columns) == 2


def test_of_a_mapped_file_nothing_is_copied(tmp_path: Path):
    paths = paths_of(arrow(pictures(16, size=32), tmp_path))
    reader = Cells()
    for path in paths:
        reader.read(place_of(path))
    assert reader._size == 0


def test_few_columns_and_tables_are_held(tmp_path: Path):
    shards = [arrow(pictures(16, seed), tmp_path / str(seed)) for seed in range(3)]
    reader = Cells(columns=5, tables=2)
    for path in [path for shard in shards for path in paths_of(shard)]:
        reader.read(place_of(path))
    assert len(reader._columns) == 5  # of twelve
    assert [file for file, _, _ in reader._tables] == [str(shard) for shard in shards[1:]]


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("format", ["file", "stream"])
def test_arrow_files_and_streams_of_others(tmp_path: Path, format: str, compression: str | None):
    shard = tmp_path / "clips.arrow"
    table = pa.table({"jpg": [b"one" * 50, b"two" * 50, b"", None], "cls": [3, 1, 4, 1]})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_file if format == "file" else pa.ipc.new_stream
    with pa.OSFile(str(shard), "wb") as file, new(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=3)
    rows = list(table_rows(shard, str(shard), IMAGES))
    assert [row.path.partition("::")[2] for row in rows] == [
        "jpg/0-0@0+0", "jpg/0-1@0+1", "jpg/0-2@0+2", "jpg/1-0@1+0",
    ]  # fmt: skip
    assert [read_cell(place_of(row.path)) for row in rows[:3]] == [b"one" * 50, b"two" * 50, b""]
    with pytest.raises(MemberError, match="has no bytes in column jpg"):
        read_cell(place_of(rows[3].path))


@pytest.mark.parametrize("binary", ["binary", "large_binary", "binary_view"])
def test_any_kind_of_bytes_in_parquet(tmp_path: Path, binary: str):
    shard = tmp_path / "a.parquet"
    column = pa.array([b"x" * 40, None], getattr(pa, binary)())
    packed = pa.StructArray.from_arrays([column, pa.array(["d/x.wav", None])], ["bytes", "path"])
    pq.write_table(pa.table({"plain": column, "an audio/file": packed}), shard)
    wanted = SOUNDS._replace(content="an audio/file")
    (path, _), (empty, _) = table_rows(shard, str(shard), wanted)
    assert path == f"{shard}::an%20audio%2Ffile/x.wav@0+0"
    assert read_cell(place_of(path)) == b"x" * 40
    assert read_cell(Member(str(shard), "plain/0-0", 0, 0)) == b"x" * 40
    with pytest.raises(MemberError, match="names a file elsewhere"):
        read_cell(place_of(empty))


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path):
    shard = parquet(pictures(8), tmp_path / "train.parquet")
    place = place_of(paths_of(shard)[5])
    assert read_cell(place) == png(5)
    parquet(pictures(8, seed=1, size=9), tmp_path / "other.parquet").replace(shard)
    assert read_cell(place) == png(1005, 9)


@pytest.mark.parametrize("where", [("other/0-0", 0, 0), ("image/0-0", 9, 0), ("image/0-0", 0, 4)])
@pytest.mark.parametrize("written", ["parquet", "arrow"])
def test_a_place_that_is_not_there_is_told(
    tmp_path: Path, written: str, where: tuple[str, int, int]
):
    shard = WRITERS[written](pictures(8), tmp_path)
    with pytest.raises(MemberError, match="is not where its table had it"):
        read_cell(Member(str(shard), *where))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_table_that_is_none_is_told(tmp_path: Path, name: str):
    place = Member(str(tmp_path / name), "image/x.png", 0, 0)
    with pytest.raises(FileNotFoundError):
        read_cell(place)
    (tmp_path / name).write_bytes(b"PAR1 and no more")
    with pytest.raises(MemberError, match=r"^is in a table that cannot be read") as refusal:
        read_cell(place)
    assert "\n" not in str(refusal.value)


def test_a_damaged_row_group_is_told(tmp_path: Path):
    shard = parquet(pictures(8), tmp_path / "train.parquet")
    content = bytearray(shard.read_bytes())
    content[4:40] = b"\xff" * 36  # the first page's header; the footer is whole
    shard.write_bytes(content)
    with pytest.raises(MemberError, match="cannot be read as a table"):
        read_cell(Member(str(shard), "image/x.png", 0, 0))


def test_offsets_that_point_out_of_an_arrow_file_are_told(tmp_path: Path):
    shard = tmp_path / "a.arrow"
    table = pa.table({"image": [b"content"]})
    with pa.ipc.new_stream(str(shard), table.schema) as writer:
        writer.write_table(table)
    right, wrong = (struct.pack("<ii", 0, end) for end in (7, 1 << 30))
    before, _, after = shard.read_bytes().rpartition(right)
    place = Member(str(shard), "image/0-0", 0, 0)
    assert read_cell(place) == b"content"
    shard.write_bytes(before + wrong + after)
    with pytest.raises(MemberError, match="cannot be read as a table"):
        Cells().read(place)


def test_without_pyarrow_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shard = parquet(pictures(4), tmp_path / "train.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'pip install "tome_lightning\[hub\]"'):
        Cells().read(Member(str(shard), "image/x.png", 0, 0))


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("the file's pickle was loaded",)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_no_type_of_a_file_is_loaded(tmp_path: Path, kind: str):
    # pyarrow before 14.0.1 unpickled the types of files (CVE-2023-47248)
    notes = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Trap()),
    }
    schema = pa.schema([pa.field("image", pa.binary(), metadata=notes)])
    table = pa.table([[b"content"]], schema=schema)
    shard = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, shard)
    else:
        with pa.ipc.new_stream(str(shard), schema) as writer:
            writer.write_table(table)
    (row,) = table_rows(shard, str(shard), IMAGES)
    assert read_cell(place_of(row.path)) == b"content"
