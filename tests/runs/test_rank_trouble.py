"""One process's trouble ends or spares all of them, and never leaves one waiting for ever."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from .kill_and_resume import Job, Session, write_data
from .recorder import POISON

pytestmark = pytest.mark.slow
BOUND = 60  # seconds after which a process that waits for a dead one must have ended


@pytest.fixture
def job(tmp_path) -> Job:
    """A long run of two processes, with loader processes."""
    data = write_data("quickstart", tmp_path)
    folder = tmp_path / "job"
    return Job(
        "quickstart", data, folder, devices=2, workers=1, extra=("--trainer.max_epochs=500",)
    )


def still_alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in state(pid)]


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def causes(session: Session) -> list[str]:
    """The lines that tell what went wrong."""
    return [line for line in session.log().splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_one_process_ends_the_other_with_the_cause_and_the_run_goes_on(job, rank):
    with job.session() as session:
        assert session.wait_for(8, rank=0), session.log()
        assert session.wait_for(6, rank=1), session.log()
        pids = [session.pid(0), session.pid(1)]
        os.kill(pids[rank], signal.SIGKILL)
        if rank == 1:
            assert session.wait(BOUND) not in (0, 2, None), session.log()
        else:
            session.child.wait(10)
            wait_until_gone(pids[1], session)
        assert still_alive(pids) == []
        log = session.log()
    # of Lightning's watcher, or of the process that lost the other one
    told = [
        line for line in log.splitlines() if "terminated with code" in line or "is gone" in line
    ]
    assert len(told) == 1, log
    assert "cli.py" not in log, log  # no traceback of ours
    if rank == 1:  # the checkpoint there is, is whole
        with replace(job, forked=True).session("--trainer.max_epochs=1") as session:
            assert session.wait() == 0, session.log()
            started = next(line for line in session.records()[0] if line["phase"] == "train")
            assert started["batch"] > 0


def wait_until_gone(pid: int, session: Session) -> None:
    deadline = time.monotonic() + BOUND
    while still_alive([pid]):
        assert time.monotonic() < deadline, f"still running after {BOUND} s\n{session.log()}"
        time.sleep(0.1)


def test_unreadable_files_end_all_processes_with_one_message(job):
    images = sorted(job.data.rglob("train/*/*.png"))
    for image in images[::3]:
        image.write_text("no image")
    with job.session() as session:
        assert session.wait(BOUND + 60) in (1, 2), session.log()  # whose data it was comes first
        assert sum("cannot be read" in cause for cause in causes(session)) == 1, session.log()
        assert "Traceback" not in session.log()


def test_a_loss_that_is_no_number_on_one_process_stops_all(job):
    with job.session(**{POISON: "1:0:5"}) as session:
        assert session.wait(BOUND + 60) == 2, session.log()
        assert len(causes(session)) == 1, session.log()
        cause = causes(session)[0]
        assert "Traceback" not in session.log()
        ranks = session.records()
    seen = {i for line in ranks[1] if line["phase"] == "train" for i in line["ids"]}
    for lines in ranks.values():
        assert [line["batch"] for line in lines if line["phase"] == "train"] == [0, 1, 2, 3, 4]
    report = json.loads((job.run_dir / "non_finite.json").read_text())
    for part in ("optimizer step 5", "r=", "learning rate", "process 1", "--resume"):
        assert part in cause
    (batch,) = report["batches"]
    assert batch["process"] == 1
    assert len(batch["ids"]) == 8
    assert seen.isdisjoint(batch["ids"])
    assert str(batch["ids"][0]) in cause
    assert report["step"] == 5


def test_a_loss_that_is_no_number_may_be_left_out(job):
    words = ("--model.non_finite=skip", "--trainer.max_epochs=1")
    with replace(job, forked=True).session(*words, **{POISON: "1:0:5"}) as session:
        assert session.wait() == 0, session.log()
        assert session.log().count("left out") == 1, session.log()
        ends = [lines[-1] for lines in session.records().values()]
    assert [end["phase"] for end in ends] == ["end", "end"]
    assert all(end["finite"] for end in ends)
    assert ends[0]["weights"] == ends[1]["weights"]
    assert (job.run_dir / "non_finite.json").is_file()
