"""Files come back in the order of their list, whatever each takes, and few of them wait."""

import importlib
from contextlib import closing
from pathlib import Path

import pytest

from tome_lightning.commands.pack import ordered
from tome_lightning.commands.pack.ordered import in_order
from tome_lightning.commands.pack.packing import pack
from tome_lightning.commands.scan.workers import Job


@pytest.fixture
def stub(monkeypatch):
    """Converters that do what a file's name says; processes find their module on the path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("stub_converters")


def contents(job, paths, workers):
    with closing(in_order(job, paths, workers)) as found:
        return [outcome.facts.get("content") for outcome in found]


@pytest.mark.parametrize("workers", [0, 3])
def test_a_slow_file_keeps_its_place(tmp_path, stub, workers):
    paths = ["slow-0", "1", "2", "slow-3", "4", "1", "slow-0"]
    job = Job(str(tmp_path), stub.Name())
    assert contents(job, paths, workers) == [path.encode() for path in paths]


def test_no_more_than_a_limit_waits_for_a_slow_file(tmp_path, stub, monkeypatch):
    monkeypatch.setattr(ordered, "AHEAD", 10)
    given = []

    def paths():
        for name in ["slow-0", *map(str, range(1, 60))]:
            given.append(name)
            yield name

    with closing(in_order(Job(str(tmp_path), stub.Name()), paths(), 2)) as found:
        assert next(found).path == "slow-0"
        assert len(given) < 20  # 10 bytes, and what was on its way
        assert [outcome.path for outcome in found] == [str(number) for number in range(1, 60)]


def test_a_file_whose_decoder_crashes_is_a_bad_one(photos, tmp_path, stub, monkeypatch):
    (photos / "train/ant/crash.jpg").write_bytes(b"x")
    monkeypatch.setattr(
        "tome_lightning.commands.pack.convert.Kind.converter", lambda *given: stub.Name()
    )
    data = stub.images(photos)
    done = pack(data, tmp_path / "shards", ["train"], workers=2, progress=False)
    assert [bad.path for bad in done.bad] == ["train/ant/crash.jpg"]
    assert "ended its process" in done.bad[0].reason
    assert done.splits["train"].samples == 10
