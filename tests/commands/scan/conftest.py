"""Data of which a file's name says how it behaves; see `stub_checks`."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`stub(train=[...], val=[...])`: data with these files, made in a folder of their own."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # processes inherit it
    module = importlib.import_module("stub_checks")

    def make(**lists: list[str]) -> Any:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        for names in lists.values():
            for name in names:
                (root / name).write_text(name)
        return module.Data(str(root), lists)

    return make
