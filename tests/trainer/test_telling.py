"""A mistake that every process of a launch finds is told once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tome_lightning
from tome_lightning.__main__ import exit_code
from tome_lightning.arguments import UsageError
from tome_lightning.trainer.telling import RANKS, first_to_tell

ROOT = Path(tome_lightning.__file__).parents[1]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    for name in (*RANKS, "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def told(monkeypatch, text="no such option", **variables):
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return first_to_tell(text)


def test_a_process_by_itself_tells_each_time_and_leaves_nothing(monkeypatch, tmp_path):
    assert told(monkeypatch)
    assert told(monkeypatch)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID", "PMI_RANK"])
def test_of_a_launch_s_processes_the_first_to_come_tells(monkeypatch, name):
    assert told(monkeypatch, **{name: "3"})
    assert not told(monkeypatch, **{name: "0"})
    assert not told(monkeypatch, **{name: "7"})
    assert told(monkeypatch, "another", **{name: "0"})
    assert told(monkeypatch, **{name: "3"})  # a script that tries again in the same task
    assert told(monkeypatch, **{name: "0", "TORCHELASTIC_RESTART_COUNT": "1"})


def test_processes_of_another_launch_tell_for_themselves(monkeypatch):
    assert told(monkeypatch, RANK="0")
    monkeypatch.setattr("os.getppid", lambda: 1)
    assert told(monkeypatch, RANK="1")


def test_the_first_process_and_those_it_has_started_are_one_launch(monkeypatch):
    assert told(monkeypatch, LOCAL_RANK="0")
    monkeypatch.setattr("os.getppid", os.getpid)
    assert not told(monkeypatch, LOCAL_RANK="1")


def test_where_no_sign_can_be_left_or_somebody_else_left_it_all_tell(monkeypatch, tmp_path):
    assert told(monkeypatch, RANK="0")
    with monkeypatch.context() as patch:
        patch.setattr("os.getuid", lambda: -1)
        assert told(monkeypatch, RANK="1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert told(monkeypatch, RANK="1")


def test_old_signs_go(monkeypatch, tmp_path):
    told(monkeypatch, RANK="0")
    (sign,) = tmp_path.iterdir()
    os.utime(sign, (0, 0))
    assert told(monkeypatch, RANK="1")  # another day, another launch
    assert len(list(tmp_path.iterdir())) == 1


def test_a_mistake_in_the_options_of_a_run_is_told_once(monkeypatch, capfd):
    def mistaken() -> None:
        raise UsageError("data.root is no folder")

    for number in "1023":
        monkeypatch.setenv("RANK", number)
        assert exit_code(mistaken) == 2
    assert capfd.readouterr().err == "error: data.root is no folder\n"


def test_a_wrong_verb_is_told_once_by_a_launch_s_processes(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-m", "tome_lightning", "fitt"]
    runs = [
        subprocess.Popen(words, env={**env, "RANK": str(n)}, stderr=subprocess.PIPE, text=True)
        for n in range(2)
    ]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [2, 2]
    assert sorted(error.count("unknown verb") for error in errors) == [0, 1]
