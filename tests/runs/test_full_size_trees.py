"""The script that measures full-size trees makes and measures small ones."""

from pathlib import Path

import pytest

from .full_size_trees import PARTS, main


@pytest.mark.slow
def test_small_trees_are_made_and_a_part_is_measured(tmp_path: Path, capsys) -> None:
    words = "--images 3000 --clips 800 --sounds 900".split()
    parts = ["sounds, CSV"]
    main([str(tmp_path), *words, "--parts", *parts])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].removeprefix("| ") for row in rows] == [part for part in parts for _ in range(4)]
    assert {row[2] for row in rows} == {"set-up", "an epoch's begin"}
    assert all(float(row[4]) >= 0 for row in rows)
    assert set(parts) < set(PARTS)
