"""The verb: what it says, what it refuses in one line, and how it ends where it is stopped."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tome_lightning.commands.pack.shard import ShardWriter, read_size

from .conftest import all_members

ROOT = Path(__file__).parents[3]
WORDS = ["--recipe", "imagenet_vitb", "--num_workers", "0", "--shard_size", "30KB"]


def test_what_was_written_is_said(run, photos):
    code, out, err = run("shards", *WORDS, "--data.root", photos, "--measure", "3")
    assert code == 0, err
    assert "train: 10 samples, " in out
    assert "val: 4 samples, " in out
    assert "written and read back: shards" in out
    assert "reading: 3 random samples of val" in out
    assert "this machine's cache" in out
    assert json.loads(Path("shards/pack.json").read_text())["recipe"] == "imagenet_vitb"


def test_smaller_pictures_are_said_to_be(run, photos):
    code, out, _ = run("s", *WORDS, "--data.root", photos, "--resize", "32", "--splits", "val")
    assert code == 0
    assert "every file: larger ones are 32 pixels on the short side (Lanczos), JPEG" in out
    assert "(of smaller files)" in out
    assert not Path("s/train-000000.tar").exists()


def test_bad_files_are_told_with_what_follows_from_them(run, photos, tmp_path):
    (photos / "train/ant/1.jpg").write_bytes(b"no picture")
    words = [*WORDS, "--data.root", photos, "--resize", "32", "--measure", "0"]
    code, out, _ = run("shards", *words)
    assert code == 0
    assert "left out: 1 files that cannot be read, e.g. train/ant/1.jpg: Unidentified" in out
    assert "--data.exclude shards/bad_files.json" in out
    assert "reading:" not in out
    code, out, _ = run("again", *words, "--data.exclude", "shards/bad_files.json")
    assert (code, "left out" in out) == (0, False)
    assert all_members(Path("again")) == all_members(Path("shards"))


def foreign(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/pack.json").write_text("{}")
    (tmp_path / "a_file").touch()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/train-000000.tar").touch()


MISTAKES = {
    "no folder": ([], ["--measure", "1"], "pack needs a folder"),
    "in the data": (["photos/shards"], [], "lies in the data set itself"),
    "the data itself": (["photos"], [], "lies in the data set itself"),
    "somebody's files": (["mine"], [], "mine holds notes.txt and no pack.json"),
    "somebody's shards": (["shards"], [], "shards holds train-000000.tar and no pack.json"),
    "another record": (["begun"], [], "begun/pack.json is no record of a pack"),
    "a file": (["a_file"], [], "a_file is no folder"),
    "below a file": (["a_file/x"], [], "a_file/x cannot be made"),
    "unknown split": (["s"], ["--splits", "train", "vaal"], "Nearest: val"),
    "size": (["s"], ["--shard_size", "big"], "got 'big'"),
    "workers": (["s"], ["--num_workers", "-1"], "got -1"),
    "measure": (["s"], ["--measure", "-1"], "got -1"),
    "sound": (["s"], ["--flac"], "--flac is for sounds; these are images"),
    "misspelt": (["s"], ["--shards_size", "1GB"], "shard_size"),
    "misspelt data option": (["s"], ["--data.exlude", "x"], "data.exclude"),
    "model option": (["s"], ["--model.r", "4"], "pack only takes data options"),
    "missing data": (["s"], ["--data.root", "gone"], "gone"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(run, photos, tmp_path, mistake):
    foreign(tmp_path)
    out, words, expected = MISTAKES[mistake]
    code, _, err = run(*out, *WORDS, "--data.root", "photos", *words)
    assert code == 2
    assert expected in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in err
    assert not list(tmp_path.glob("s/*.tar*"))


def test_other_settings_are_refused(run, photos):
    words = [*WORDS, "--data.root", photos, "--measure", "0"]
    assert run("shards", *words)[0] == 0
    for more, expected in (
        (["--shard_size", "40KB"], "begun with shard_size 30000, now it is 40000"),
        (["--resize", "32"], "begun with channels None, now it is 3"),
    ):
        code, _, err = run("shards", *words, *more)
        assert (code, expected in err) == (2, True), err
    (photos / "train/ant/new.jpg").write_bytes((photos / "val/ant/0.jpg").read_bytes())
    code, _, err = run("shards", *words)
    assert (code, "another list of train (10 files" in err) == (2, True), err


def test_another_process_in_the_folder_is_refused(run, photos, tmp_path):
    import fcntl

    (tmp_path / "shards").mkdir()
    with (tmp_path / "shards/.running").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = run("shards", *WORDS, "--data.root", photos)
    assert (code, "Another process is going on in shards" in err) == (2, True), err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_a_line_and_its_code(run, photos, monkeypatch, number, code):
    usual = ShardWriter.finish

    def finish(self, rows):
        whole = usual(self, rows)
        signal.raise_signal(number)
        return whole

    monkeypatch.setattr(ShardWriter, "finish", finish)
    found, _, err = run("shards", *WORDS, "--data.root", photos)
    assert found == code
    assert "interrupted: 1 shards are whole in shards; the same command goes on" in err
    assert "Traceback" not in err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.undo()


@pytest.mark.slow
def test_a_killed_pack_goes_on(photos, tmp_path):
    command = [
        sys.executable, "-m", "tome_lightning", "pack", str(tmp_path / "shards"), *WORDS, "--num_workers",
        "1", "--data.root", str(photos), "--measure", "0",
    ]  # fmt: skip
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("shards/train-*.tar")) and first.poll() is None:
        time.sleep(0.001)
    first.kill()
    first.wait()
    assert subprocess.run(command, cwd=ROOT, timeout=120, check=False).returncode == 0
    command[4] = str(tmp_path / "whole")
    assert subprocess.run(command, cwd=ROOT, timeout=120, check=False).returncode == 0
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob("shards/*.partial"))


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GB", 10**9), ("1.5 mb", 1_500_000), ("64MiB", 2**26), ("7", 7), (12, 12), ("2k", 2000)],
)
def test_sizes_are_read(text, size):
    assert read_size(text) == size
