"""Where a run may be, and that it is alone there."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tome_lightning.arguments import UsageError
from tome_lightning.run.leftovers import held, remove_unused
from tome_lightning.run.record import RUN_DIR_VARIABLE, make_run_dir
from tome_lightning.trainer.claim import LOCK, claim, release

pytestmark = pytest.mark.skipif(os.name == "nt", reason="locks files in another way")
HOLD = """
import sys, time
from pathlib import Path
from typing import Any
from tome_lightning.trainer.claim import claim
claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN_DIR_VARIABLE, "")
    yield
    release()


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that runs in a folder."""
    words = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_in_a_directory_is_refused_until_the_first_is_gone_however_it_went(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    other = hold(folder)
    with pytest.raises(UsageError, match=f"Another run .process {other.pid} on .* is going on"):
        make_run_dir(str(folder), None, resuming=True)
    other.kill()
    other.wait()
    assert make_run_dir(str(folder), None, resuming=True) == folder
    assert make_run_dir(str(folder), None, resuming=True) == folder  # this process's own
    release()
    assert not (folder / LOCK).exists()


def test_a_worker_that_outlives_its_run_does_not_hold_the_directory(tmp_path):
    claim(tmp_path)
    context = multiprocessing.get_context("fork")
    event = context.Event()
    worker = context.Process(target=event.wait)
    worker.start()
    release()
    other = hold(tmp_path)  # the worker was forked while it was held
    other.kill()
    other.wait()
    event.set()
    worker.join()


def test_the_lock_of_a_strangers_folder_is_no_link_that_is_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "target")
    claim(tmp_path / "run")
    assert not (tmp_path / "target").exists()


def test_a_directory_that_holds_a_lock_alone_is_empty_and_goes_when_it_is_unused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).touch()
    assert make_run_dir("run", None, resuming=False) == Path("run")
    remove_unused(Path("run"), held(Path("run")))
    assert not Path("run").exists()


def test_evaluations_take_no_numbers_of_runs():
    assert make_run_dir(None, "quickstart", False) == Path("runs/quickstart/0")
    for number in range(2):
        where = make_run_dir(None, "quickstart", False, verb="test")
        assert where == Path(f"runs/quickstart/test/{number}")
    assert make_run_dir(None, "quickstart", False) == Path("runs/quickstart/1")


@pytest.mark.parametrize(
    ("place", "why"),
    [("runs", "is a link to nowhere, which is not there"), ("runs/x", "is a file")],
)
def test_a_place_that_is_no_folder_is_said_not_tried_for_ever(place, why):
    Path(place).parent.mkdir(exist_ok=True)
    if "link" in why:
        Path(place).symlink_to("nowhere")
    else:
        Path(place).touch()
    with pytest.raises(UsageError, match=f"{place} {why}"):
        make_run_dir(None, "x", False)


def take(start: Any, found: Any) -> None:
    start.wait()
    found.put(str(make_run_dir(None, "x", False)))


def test_the_runs_of_a_job_array_get_a_directory_each(monkeypatch):
    """As many as start at once, each a task of its own of SLURM."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    context = multiprocessing.get_context("fork")
    start, found = context.Barrier(8), context.Queue()
    runs = [context.Process(target=take, args=(start, found)) for _ in range(8)]
    for run in runs:
        run.start()
    taken = {found.get(timeout=60) for _ in runs}
    for run in runs:
        run.join()
    assert taken == {f"runs/x/{number}" for number in range(8)}
