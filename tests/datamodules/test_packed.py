"""Millions of strings in arrays, and which of them one is."""

import numpy as np
import pytest

from datamodules import packed
from datamodules.packed import Finder, Spans, pack, side_by_side

NAMES = ["", "a", "ü", "odd\udcff", "a", "bb", "", "ab"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK", 3)


def test_strings_come_back_as_they_went_in() -> None:
    strings = pack(NAMES)
    assert strings.strings() == NAMES
    assert strings.strings(np.array([1, 2, 5])) == ["a", "ü", "bb"]
    assert strings.take(np.array([7, 0, 3, 1, 5])).strings() == ["ab", "", "odd\udcff", "a", "bb"]
    assert strings.joined(strings).strings() == NAMES * 2
    assert strings.repeats() == 2
    assert pack([]).strings() == []


@pytest.mark.parametrize("collide", [False, True])
def test_a_string_is_found_exactly(collide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if collide:  # as two strings in 2^64 do
        monkeypatch.setattr(packed, "CODES", np.zeros(256, np.uint64))
    finder = Finder(pack(NAMES))
    asked = ["bb", "b", "a", "", "ü", "u", "ab", "ba", "odd\udcff"]
    expected = [NAMES.index(name) if name in NAMES else -1 for name in asked]
    assert finder.find(pack(asked).spans).tolist() == expected
    assert finder.firsts().tolist() == [NAMES.index(name) for name in NAMES]
    assert Finder(pack([])).find(pack(["a"]).spans).tolist() == [-1]


@pytest.mark.parametrize("collide", [False, True])
def test_different_strings_are_told_apart(collide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if collide:
        monkeypatch.setattr(packed, "CODES", np.zeros(256, np.uint64))
    rows, which = pack(NAMES).spans.distinct()
    assert [NAMES[row] for row in rows[which]] == NAMES
    assert collide or len(rows) == len(set(NAMES))


def test_equal_strings_have_one_hash_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "STEP", 2)
    monkeypatch.setattr(packed, "WINDOW", 1 << 18)
    text = np.frombuffer(b"abcab" + bytes(300_000) + b"abc", np.uint8)
    starts, stops = np.array([0, 3, 1, 300_005, 5]), np.array([2, 5, 3, 300_007, 300_005])
    ab, again, bc, far, long = Spans(text, starts, stops).hashes().tolist()
    assert ab == again == far
    assert len({ab, bc, long}) == 3


def test_spans_are_stripped_and_searched() -> None:
    strings = pack([" a b", "\t", "", "c,d, ", "e"])
    assert strings.spans.stripped().packed().strings() == ["a b", "", "", "c,d,", "e"]
    comma = np.arange(256) == ord(",")
    places = strings.spans.last(comma) - strings.spans.starts
    assert places.tolist() == [-1, -1, -1, 3, -1]


def test_strings_are_put_side_by_side() -> None:
    assert side_by_side(pack(["a/", "", "b/"]), pack(["x", "ü", ""])).strings() == [
        "a/x",
        "ü",
        "b/",
    ]
