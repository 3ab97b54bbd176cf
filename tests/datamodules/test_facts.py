"""Facts in columns are what dictionaries would be, in a few bytes each."""

import tracemalloc

from datamodules.facts import FactTable

ROWS = [
    {"rate": 16000, "seconds": 1.5, "codec": "flac"},
    {"rate": 44100, "seconds": 2.0, "codec": None},
    {"rate": 16000, "seconds": 10.0, "codec": "mp3"},
]


def test_columns_hold_what_rows_had() -> None:
    table = FactTable(ROWS)
    assert len(table) == 3
    for name in ROWS[0]:
        assert list(table[name]) == [row[name] for row in ROWS]
    assert list(table["nothing"]) == list(FactTable()["rate"]) == []


def test_a_fraction_after_whole_numbers_is_kept() -> None:
    assert list(FactTable([{"fps": 30}, {"fps": 29.97}])["fps"]) == [30, 29.97]


def test_a_row_takes_a_few_bytes() -> None:
    tracemalloc.start()
    table = FactTable({"rate": i, "seconds": i / 3, "codec": "mp3"} for i in range(5000))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(table) == 5000
    assert size < 5000 * 40
