"""Parts of a table, of any number of processes, become one in the order of the data."""

import csv
import tracemalloc
from pathlib import Path

import pytest

from tome_lightning.arguments import UsageError
from tome_lightning.run.prediction_parts import append_rows, blind, merge_parts, part_of

HEADER = ["id", "file", "class1", "score1"]


def write_parts(folder: Path, processes: int, samples: int) -> list[int]:
    """What so many processes write of so many samples, each every so many; their sizes."""
    sizes = []
    for rank in range(processes):
        part = part_of(folder / "predictions.csv", rank)
        append_rows(part, [HEADER])
        append_rows(part, (row_of(i) for i in range(rank, samples, processes)))
        sizes.append(part.stat().st_size)
    return sizes


def row_of(sample: int) -> list:
    return [sample, f'a "{sample}",\n \udcff.png', "ä, b", f"{1 / (1 + sample):.6f}"]


@pytest.mark.parametrize(("processes", "samples"), [(2, 7), (4, 3), (3, 0), (8, 100)])
def test_rows_stand_in_the_order_of_the_data_each_once(processes, samples, tmp_path):
    whole = tmp_path / "predictions.csv"
    merge_parts(whole, write_parts(tmp_path, processes, samples))
    alone = tmp_path / "alone.csv"
    append_rows(alone, [HEADER, *map(row_of, range(samples))])
    assert whole.read_bytes() == alone.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.csv", "alone.csv"}


def test_ids_that_are_not_unique_cost_no_row(tmp_path):
    """A loader of the user's own may number its samples as it likes."""
    for rank in range(2):
        append_rows(part_of(tmp_path / "p.csv", rank), [HEADER, *[[0, f"{rank}", "a", "1"]] * 3])
    sizes = [part_of(tmp_path / "p.csv", rank).stat().st_size for rank in range(2)]
    merge_parts(tmp_path / "p.csv", sizes)
    with (tmp_path / "p.csv").open() as file:
        assert sorted(row["file"] for row in csv.DictReader(file)) == ["0"] * 3 + ["1"] * 3


def test_the_table_is_never_in_memory_as_a_whole(tmp_path):
    sizes = write_parts(tmp_path, 2, 12_000)
    tracemalloc.start()
    merge_parts(tmp_path / "predictions.csv", sizes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sum(sizes) / 2


@pytest.mark.parametrize("fault", ["gone", "cut", "no room"])
def test_what_was_predicted_stays_where_parts_cannot_be_put_together(fault, tmp_path):
    sizes = write_parts(tmp_path, 2, 5)
    second = tmp_path / "predictions.1.csv"
    if fault == "gone":  # on a disk of another machine
        second.unlink()
    elif fault == "cut":
        second.write_bytes(second.read_bytes()[:-3])
    else:
        (tmp_path / "predictions.csv.partial").mkdir()
    with pytest.raises(UsageError, match=r"predictions\.0\.csv to predictions\.1\.csv beside it"):
        merge_parts(tmp_path / "predictions.csv", sizes)
    assert (tmp_path / "predictions.0.csv").stat().st_size == sizes[0]
    assert not (tmp_path / "predictions.csv").exists()


def test_a_machine_that_does_not_see_the_directory_is_named():
    assert blind([("a", True), ("b", True)]) is None
    assert blind([("a", True), ("b", False), ("c", False)]) == "process 1 on b"
