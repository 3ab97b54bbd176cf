"""Millions of strings in arrays, and which of them one is."""

import numpy as np
import pytest

from datamodules import packed
from datamodules.packed import Finder, pack

NAMES = ["", "a", "ü", "odd\udcff", "a", "bb", "", "ab"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK", 3)


def test_strings_come_back_as_they_went_in() -> None:
    strings = pack(iter(NAMES))
    assert strings.strings() == NAMES
    assert strings.strings(np.array([1, 2, 5])) == ["a", "ü", "bb"]
    assert strings.take(np.array([7, 0, 3, 1, 5])).strings() == ["ab", "", "odd\udcff", "a", "bb"]
    assert strings.joined(strings).strings() == NAMES * 2
    assert strings.repeats() == 2
    assert pack(iter([])).strings() == []


@pytest.mark.parametrize("collide", [False, True])
def test_a_string_is_found_exactly(collide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if collide:  # as two strings in 2^64 do
        monkeypatch.setattr(packed, "hash", len, raising=False)
    finder = Finder(pack(iter(NAMES)))
    asked = ["bb", "b", "a", "", "ü", "u", "ab", "ba", "odd\udcff"]
    expected = [NAMES.index(name) if name in NAMES else -1 for name in asked]
    assert finder.find(packed.encoded(asked)).tolist() == expected
    assert finder.firsts().tolist() == [NAMES.index(name) for name in NAMES]
    assert Finder(pack(iter([]))).find([b"a"]).tolist() == [-1]
