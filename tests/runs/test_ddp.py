"""Plain ``ddp``, on two and on four processes: what one process does, over all verbs and ragged ends."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from .every_verb import TRAIN, VAL, VERBS
from .processes import process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks"),
]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all processes have left what they found."""
    folder = tmp_path_factory.mktemp("ddp")
    log = folder / "log"
    with process([sys.executable, "-m", "tests.runs.every_verb", str(folder)], log) as child:
        assert child.wait(200) == 0, log.read_text()[-4000:]
    return folder


@pytest.fixture(scope="module")
def found(folder) -> dict[int, list[dict[str, Any]]]:
    """What each process measured, by the number of them."""
    return {n: [read(folder, f"{n}.{rank}") for rank in range(n)] for n in (1, 2, 4)}


@pytest.mark.parametrize("processes", [2, 4])
def test_training_and_measuring_on_several_processes_is_that_of_one(found, processes) -> None:
    (alone,) = found[1]
    assert alone["steps"] == 2 * (TRAIN // 8)
    assert alone["validate"]["val/samples"] == VAL
    for rank in found[processes]:
        assert rank["steps"] == alone["steps"]
        assert rank["weights"] == found[processes][0]["weights"]
        # float64, summed in another order
        assert rank["weights"] == pytest.approx(alone["weights"], rel=1e-9)
        for verb in ("fit", "validate", "test"):
            assert rank[verb] == pytest.approx(alone[verb], rel=1e-6)


@pytest.mark.parametrize("processes", [2, 4])
def test_every_sample_is_predicted_by_one_process_as_one_alone_does(found, processes) -> None:
    (alone,) = found[1]
    assert set(alone["predict"]) == {str(n) for n in range(VAL)}
    parts = [rank["predict"] for rank in found[processes]]
    assert sum(map(len, parts)) == VAL
    for part in parts:
        assert part  # each has some
        for sample, scores in part.items():
            assert scores == pytest.approx(alone["predict"][sample], rel=1e-6)


def test_nodes_with_other_files_end_before_they_begin_whatever_the_verb(folder) -> None:
    assert [read(folder, f"uneven.{rank}") for rank in range(2)] == [dict.fromkeys(VERBS, 2)] * 2
    first, second = ((folder / f"uneven.{rank}.log").read_text() for rank in range(2))
    errors = [line for line in first.splitlines() if line.startswith("error: ")]
    splits = [("train", TRAIN), ("val", VAL), ("test", VAL), ("test", VAL)]
    assert len(errors) == len(splits)
    for line, (split, count) in zip(errors, splits, strict=True):
        assert f"the {split} split is not the same on all processes: {count} samples (list " in line
        assert f"; {count - 1} samples (list " in line
        assert "on node 0 (" in line
        assert "on node 1 (" in line
    assert "error" not in second  # told once
    assert "Traceback" not in first + second
