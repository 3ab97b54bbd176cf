"""A run of somebody else, and a working folder that its files must not change."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tome_lightning.__main__ import main
from tome_lightning.commands.benchmark import end_to_end

from ..runs.kill_and_resume import write_some_digits
from .forging import EVIL, QUICK, TOUCH


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
    monkeypatch.setattr(end_to_end, "DATA_S", 0.1)
    monkeypatch.setattr(subprocess.Popen, "__init__", _waiting(subprocess.Popen.__init__))
    Image.new("L", (28, 28), 90).save("digit.png")
    capfd.readouterr()
    return work


def _waiting(start: Any) -> Any:
    """Popen that has left the mark when it is made, so that a test need not wait for it."""

    @functools.wraps(start)
    def started(self: Any, args: Any, *others: Any, **options: Any) -> None:
        start(self, args, *others, **options)
        if args == TOUCH["init_args"]["args"]:
            self.wait()

    return started
