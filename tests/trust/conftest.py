"""A run of somebody else, and a working folder that its files must not change."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from tome_lightning.__main__ import main

from ..kill_and_resume import write_some_digits
from .forging import EVIL, QUICK


@pytest.fixture(scope="package")
def trained(tmp_path_factory) -> Path:
    """A folder with digits and the run directory of one step."""
    folder = tmp_path_factory.mktemp("trained")
    write_some_digits(folder / "digits", {"train": 1, "val": 1})
    words = ["fit", *QUICK, f"--data.root={folder / 'digits'}", f"--run_dir={folder / 'run'}"]
    assert main(words) == 0
    return folder


@pytest.fixture
def stranger(tmp_path, monkeypatch, trained, capfd) -> Path:
    """A working folder with data, a run of somebody else in `theirs`, and what would leave a mark."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(work))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    shutil.copytree(trained / "digits", "digits")
    shutil.copytree(trained / "run", "theirs")
    Path("evil.py").write_text(EVIL)
    Image.new("L", (28, 28), 90).save("digit.png")
    capfd.readouterr()
    return work
