"""What a run says of files that could not be read."""

from types import SimpleNamespace
from typing import Any

from tome_lightning.run import record
from tome_lightning.run.record import _bad_files


def trainer(rows: list[dict[str, str]]) -> Any:
    data = SimpleNamespace(bad_files=lambda: rows)
    return SimpleNamespace(datamodule=data, world_size=2)


def row(path: str, split: str = "train") -> dict[str, str]:
    return {"split": split, "path": path, "reason": "empty"}


def test_bad_files_of_all_processes_are_listed_once(monkeypatch):
    theirs = [row("b"), row("c"), row("a", "val")]
    monkeypatch.setattr(record, "of_all", lambda rows: [rows, theirs])
    mine = [row("a"), row("b")]
    together = _bad_files(trainer(mine), together=True)
    assert together == [row("a"), row("b"), row("c"), row("a", "val")]
    assert (
        _bad_files(trainer(mine), together=False) == mine
    )  # after an error: no waiting for others


def test_data_that_keeps_no_list_has_no_bad_files():
    assert _bad_files(SimpleNamespace(datamodule=None), together=True) == []
