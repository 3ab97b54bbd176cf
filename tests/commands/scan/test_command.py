"""`scan` lists exactly the broken files, goes on where it was stopped, and outlives a crash."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import LightningDataModule
from PIL import Image

from datamodules import ImageNet, Kinetics400
from datamodules.filelist import FileList
from datamodules.videos.check import VideoCheck
from datamodules.videos.clip_reader import Decoding
from tome_lightning.__main__ import main
from tome_lightning.arguments import UsageError
from tome_lightning.commands.scan import command as verb
from tome_lightning.commands.scan import walk as scanning
from tome_lightning.commands.scan.command import scan
from tome_lightning.commands.scan.manifest import Manifest
from tome_lightning.commands.scan.record import Record
from tome_lightning.commands.scan.workers import Job, Outcome

from ...datamodules.clip_files import write_clip, write_sound

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Lists of good and broken videos: the folder, and the broken ones' paths."""
    root = tmp_path_factory.mktemp("videos")
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            for number in range(2):
                size = (48, 64) if number else (64, 48)
                path = root / split / label / f"{number} x.mp4"
                write_clip(path, frames=12, size=size, container={"movflags": "faststart"})
    write_clip(root / "val/bee/2.avi", frames=12, codec="mpeg4")
    whole = (root / "train/ant/0 x.mp4").read_bytes()
    (root / "train/ant/truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "train/ant/empty.mp4").touch()
    (root / "train/bee/text.mp4").write_text("404: not found")
    write_sound(root / "train/bee/sound.mp4")
    write_clip(root / "val/ant/no_frames.mp4", frames=0)
    os.mkfifo(root / "val/bee/pipe.mp4")
    broken = {
        "train/ant/truncated.mp4", "train/ant/empty.mp4", "train/ant/missing.mp4",
        "train/bee/text.mp4", "train/bee/sound.mp4", "val/ant/no_frames.mp4", "val/bee/pipe.mp4",
    }  # fmt: skip
    for split in ("train", "val"):
        paths = {str(path.relative_to(root)) for path in (root / split).rglob("*.*")} | broken
        rows = [f"{path},{int('bee' in path)}" for path in sorted(paths) if path.startswith(split)]
        (root / f"{split}.csv").write_text("\n".join(rows))
    yield root, broken
    os.close(os.open(root / "val/bee/pipe.mp4", os.O_RDWR | os.O_NONBLOCK))  # lets readers go


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """`run("--out", ...)` in an empty working folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        capfd.readouterr()
        code = main(["scan", *map(str, words)])
        return code, *capfd.readouterr()

    return call


GOOD = {"frames": 60, "fps": 30.0, "height": 256, "width": 340}


def recipe(path, **init_args):
    """A recipe file of Kinetics400 with a part that scan has no use for."""
    data = {"class_path": "datamodules.Kinetics400", "init_args": init_args}
    Path(path).write_text(yaml.safe_dump({"model": {"r": 4}, "data": data}))
    return path


def names(content):
    return [row["path"] for row in content["bad"]]


def test_exactly_the_broken_videos_are_listed_and_then_left_out(run, tree):
    root, broken = tree
    settings = {"class_list": None, "decoder": "pyav", "read_timeout": 2.0, "num_workers": 0}
    first = recipe("first.yaml", root="elsewhere", exclude="scan.json", **settings)
    Path("second.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"root": str(root)}}}))
    words = ["--recipe", first, "--recipe", "second.yaml", "--workers", 1]
    code, out, err = run(*words, "--out", "made/scan.json")
    assert code == 0, err
    content = json.loads(Path("made/scan.json").read_text())
    assert names(content) == sorted(broken)
    assert [path.name for path in Path("made").iterdir()] == ["scan.json"]

    assert content["files"] == 9 + len(broken)
    assert content["sizes"] == {"48x64": 4, "64x48": 4, "64x64": 1}
    assert content["frames"] == {"min": 12, "median": 12, "max": 12}
    assert content["fps"] == {"30": 9}
    assert content["counts"]["val"]["per_class"] == {"0": 2, "1": 3}
    assert content["counts"]["test"] == content["counts"]["val"]  # no test list: val's
    assert (content["recipe"], content["decoder"]) == ("second", "pyav")
    reasons = {row["path"]: row["reason"] for row in content["bad"]}
    assert reasons["train/bee/sound.mp4"].startswith("VideoError: ")
    assert reasons["val/bee/pipe.mp4"].startswith("ReadTimeout: ")
    assert "bad: 7\n" in out
    assert "--data.exclude made/scan.json" in out

    data = Kinetics400(str(root), exclude="made/scan.json", **settings)
    data.setup("fit")
    kept = [
        data.files(split)[i][0] for split in ("train", "val") for i in range(len(data.files(split)))
    ]
    assert len(kept) == 9
    assert not broken & set(kept)


def test_a_file_of_several_splits_is_checked_once_and_counted_in_each(stub, tmp_path):
    data = stub(train=["a", "b", "bad"], val=["c", "bad"], test=["c", "bad"])
    content = scan(data, tmp_path / "scan.json", workers=0, progress=False)
    assert content == json.loads((tmp_path / "scan.json").read_text())
    assert Counter(data.check.calls()) == Counter(["a", "b", "c", "bad"])
    assert Path(data.root, "prepared").exists()  # data that are made on first use are made
    assert content["files"] == 4
    assert content["bad"] == [{"path": "bad", "reason": "ValueError: bad is bad"}]
    counts = content["counts"]
    assert [counts[split]["bad"] for split in counts] == [1, 1, 1]
    assert counts["train"]["per_class"] == {"ant": 1, "bee": 1}
    assert counts["test"]["classes_without_files"] == ["bee"]


def test_what_a_list_names_and_is_not_there_is_written_down(stub, tmp_path):
    data = stub(train=["a", "b"], val=["c"], test=["c"])
    data.gone = {"train": ["x", "y"]}
    content = scan(data, tmp_path / "scan.json", workers=0, progress=False)
    assert content["missing"] == [{"split": "train", "path": name} for name in "xy"]
    assert [content["counts"][split]["missing"] for split in ("train", "val")] == [2, 0]
    lines = verb.format_summary(content, "scan.json", data.check)
    assert "missing: 2, e.g. x; left out of the splits" in lines
    assert "good: 3" in lines


def test_the_manifest_hash_follows_the_lists_alone(stub, tmp_path):
    def manifest(**lists):
        data = stub(**lists)
        return scan(data, tmp_path / "x.json", list(lists), workers=0, progress=False)[
            "manifest_hash"
        ]

    first = manifest(train=["a", "b"], val=["c"])
    assert len(first) == 16
    assert first == manifest(val=["c"], train=["a", "b"])
    assert len({first, manifest(train=["b", "a"], val=["c"]), manifest(train=["a", "b"])}) == 3


def test_a_stopped_scan_goes_on_with_the_rest(stub, tmp_path, capsys):
    files = ["a", "bad", "late", "stop", "c", "d"]
    data = stub(train=files)
    out, partial = tmp_path / "scan.json", tmp_path / "scan.json.partial"
    with pytest.raises(KeyboardInterrupt):
        scan(data, out, ["train"], workers=0)
    assert "3 of 6 files" in capsys.readouterr().err
    assert not out.exists()
    with partial.open("a") as file:
        file.write('{"path": "c", "size": 1, "mti')  # as a power cut leaves it
    data.lists["train"] = [name for name in files if name != "stop"]
    content = scan(data, out, ["train"], workers=0, progress=False)
    # the read that timed out gets another chance
    assert data.check.calls() == ["a", "bad", "late", "stop", "late", "c", "d"]
    assert (content["files"], names(content)) == (5, ["bad", "late"])
    assert not partial.exists()


@pytest.mark.parametrize("change", ["file", "decoder", "quick"])
def test_what_has_changed_is_checked_again(stub, tmp_path, change):
    data = stub(train=["a", "stop"])
    with pytest.raises(KeyboardInterrupt):
        scan(data, tmp_path / "scan.json", ["train"], workers=0, progress=False)
    if change == "file":
        Path(data.root, "a").write_text("longer")
    elif change == "decoder":
        data.decoder = "another"
    data.lists["train"] = ["a"]
    scan(data, tmp_path / "scan.json", ["train"], change == "quick", workers=0, progress=False)
    assert data.check.calls() == ["a", "stop", "a"]


def test_other_settings_leave_what_was_found_before(stub, tmp_path):
    data = stub(train=["a", "stop"])
    for quick in (False, True, False):
        with pytest.raises(KeyboardInterrupt):
            scan(data, tmp_path / "scan.json", ["train"], quick, workers=0, progress=False)
    assert data.check.calls() == ["a", "stop", "a", "stop", "stop"]


def test_a_crash_costs_its_own_file_alone(stub, tmp_path):
    good = [f"good{i}" for i in range(6)]
    data = stub(train=["segfault", *good[:3], "exit", "once", *good[3:], "late"])
    content = scan(data, tmp_path / "scan.json", ["train"], workers=2, progress=False)
    assert content["bad"] == [
        {"path": "exit", "reason": "Crash: the decoder ended its process (exit code 7)"},
        {"path": "late", "reason": "TimeoutError: gave up"},
        {"path": "segfault", "reason": "Crash: the decoder ended its process (SIGSEGV)"},
    ]
    calls = Counter(data.check.calls())
    assert all(calls[name] == 1 for name in good)
    assert all(calls[name] == 2 for name in ("segfault", "exit", "once", "late"))


def test_ctrl_c_keeps_what_was_found_and_leaves_no_process(stub, tmp_path):
    data = stub(train=[f"slow{i}" for i in range(200)])
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom stub_checks import Data\nfrom tome_lightning import scan\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        f"        scan(Data({data.root!r}, {data.lists!r}), 'scan.json', ['train'], workers=2)\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(130)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
    process = subprocess.Popen(
        [sys.executable, str(script)], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    partial = tmp_path / "scan.json.partial"

    def at_work() -> set[int]:
        log = data.check.log
        lines = log.read_text().splitlines() if log.exists() else []
        return {int(line.split()[0]) for line in lines}

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if partial.exists() and partial.read_text().count("slow") >= 3 and len(at_work()) == 2:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    workers = at_work()
    assert len(workers) == 2
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    kept = partial.read_text().count("slow")
    assert f"{kept} of 200 files" in err


def test_a_process_that_cannot_start_is_no_verdict_on_the_files(stub, tmp_path, monkeypatch, capfd):
    data = stub(train=["a"])
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(Path(__file__).parent)])
    with pytest.raises(UsageError, match="workers=0"):
        scan(data, tmp_path / "scan.json", ["train"], workers=1, progress=False)
    assert "stub_checks" in capfd.readouterr().err  # what the process could not import


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"splits": ["trian"]}, "train"),
        ({"splits": []}, "train, val, test"),
        ({"workers": -1}, "got -1"),
        ({"out": "."}, "is a folder"),
        ({"out": "a_file/scan.json"}, "cannot be written"),
    ],
)  # fmt: skip
def test_arguments_without_a_meaning_are_refused(stub, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    Path("a_file").touch()
    data = stub(train=["a"])
    with pytest.raises(UsageError, match=expected):
        scan(data, **{"out": "scan.json", "splits": ["train"], "workers": 0, **arguments})
    assert not data.check.log.exists()


def test_data_with_an_exclude_list_are_refused(stub, tmp_path):
    data = stub(train=["a"])
    data.exclude = "scan.json"
    with pytest.raises(UsageError, match=r"without those of scan\.json"):
        scan(data, tmp_path / "scan.json", ["train"], workers=0)


MISTAKES = {
    "misspelt data option": (["--data.read_timeut", "3"], "data.read_timeout"),
    "misspelt option": (["--split", "val"], "splits"),
    "unknown recipe": (["--recipe", "kinetics_vitx"], "kinetics_vit"),
    "missing recipe file": (["--config", "gone.yaml"], "gone.yaml cannot be read"),
    "model option": (["--model.r", "4"], "only takes data options"),
    "trainer option": (["--trainer.devices=2"], "--trainer.devices"),
    "checkpoint": (["--ckpt_path", "x.ckpt"], "only takes data options"),
    "workers no number": (["--workers", "many"], "many"),
    "unknown split": (["--splits", "train,vaal"], "val"),
    "missing data": (["--data.root", "gone"], "gone"),
    "folder not writable": (["--out", "a_file/scan.json"], "a_file/scan.json"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(run, tree, mistake):
    words, expected = MISTAKES[mistake]
    Path("x.ckpt").touch()
    Path("a_file").touch()
    given = [
        "--recipe",
        recipe("mine.yaml", root=str(tree[0]), class_list=None),
        "--out",
        "scan.json",
    ]
    code, _, err = run(*given, *words)
    assert code == 2
    assert expected in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in err
    assert not Path("scan.json").exists()


def test_what_is_needed_is_said(run, tree):
    code, _, err = run("--out", "scan.json")
    assert (code, "error: scan needs a data set" in err) == (2, True)
    code, _, err = run("--recipe", recipe("mine.yaml", root=str(tree[0])))
    assert (code, "error: scan needs --out FILE" in err) == (2, True)


@pytest.mark.parametrize("quick", [False, True])
def test_broken_pictures_are_listed_and_then_left_out(run, tmp_path, quick):
    root = tmp_path / "data"
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            Image.effect_noise((80, 60), 90).save(root / split / name / "x.png")
            Image.effect_noise((80, 60), 90).save(root / split / name / "y.jpg")
    whole = (root / "val/bee/y.jpg").read_bytes()
    (root / "train/ant/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/bee/empty.png").touch()
    (root / "val/bee/page.jpeg").write_text("<html>404</html>")
    words = ["--recipe", "imagenet_vitb", "--data.root", root, "--data.num_workers", 0]
    code, out, err = run(*words, "--out", "bad.json", "--workers", 1, *["--quick"][: int(quick)])
    assert code == 0, err
    content = json.loads(Path("bad.json").read_text())
    broken = ["train/ant/cut.jpg", "train/bee/empty.png", "val/bee/page.jpeg"]
    assert (names(content), content["files"]) == (broken, 11)
    assert (content["formats"], content["modes"]) == ({"JPEG": 4, "PNG": 4}, {"L": 8})
    assert content["width"] == {"min": 80, "median": 80, "max": 80}
    assert content["counts"]["val"]["per_class"] == {"ant": 2, "bee": 2}
    assert "--data.exclude bad.json" in out

    data = ImageNet(str(root), num_workers=0, exclude="bad.json")
    data.setup("fit")
    kept = {data.files(split).path(i) for split in ("train", "val") for i in range(4)}
    assert [len(data.samples(split)) for split in ("train", "val")] == [4, 4]
    assert not kept & set(broken)


def test_classes_are_not_asked_for_before_the_files_are_made(stub, tmp_path):
    """Those of the quickstarts are the folders that `prepare_data` makes."""
    data = stub(train=["a"])

    class Late(type(data)):
        @property
        def class_names(self):
            assert Path(self.root, "prepared").exists()
            return ["ant", "bee"]

        @class_names.setter
        def class_names(self, names):
            pass

    content = scan(
        Late(data.root, data.lists), tmp_path / "x.json", ["train"], workers=0, progress=False
    )
    assert content["counts"]["train"]["per_class"] == {"ant": 1, "bee": 0}


def test_a_good_file_takes_a_few_bytes(tmp_path, monkeypatch):
    """Of good files only numbers are kept, and no objects."""

    def check_all(job, tasks, workers):
        yield from (Outcome(task.path, 100, 5, None, dict(GOOD)) for task in tasks)

    monkeypatch.setattr(scanning, "check_all", check_all)
    peaks = []
    for count in (500, 1500):
        manifest = Manifest({"train": FileList(map(str, range(count)), [0] * count)})
        record = Record(tmp_path / str(count), {})
        tracemalloc.start()
        tally = scanning._walk(Job("", None), manifest, record, 1, False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        record.close()
        assert len(tally.facts) == tally.files == count
        assert manifest.good("train").all()
    assert (peaks[1] - peaks[0]) / 1000 < 90  # bytes


def test_other_data_are_refused(tmp_path):
    with pytest.raises(UsageError, match="pictures, videos and sounds; LightningDataModule has"):
        scan(LightningDataModule(), tmp_path / "x.json", ["val"], workers=0)


def test_an_interrupt_ends_the_verb_with_130(run, tree, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "scan", interrupted)
    code, _, err = run("--recipe", recipe("mine.yaml", root=str(tree[0])), "--out", "scan.json")
    assert (code, "Traceback" in err) == (130, False)


def test_the_screen_groups_bad_files_and_hints_at_large_frames():
    kinds = ["OSError"] * 4 + ["ValueError"] * 3 + ["Crash"] * 2 + ["EOFError", "KeyError"]
    content = {
        "files": 1200,
        "manifest_hash": "0123456789abcdef",
        "sizes": {"1280x720": 1000, "340x256": 100, "320x240": 50, "64x64": 39},
        "seconds": {"min": 1.0, "median": 10.0, "max": 10.2},
        "bad": [{"path": f"{i}.mp4", "reason": f"{kind}: it: is"} for i, kind in enumerate(kinds)],
        "missing": [],
        "counts": {"train": {"files": 1200, "classes_without_files": ["yoga"]}},
    }
    check = VideoCheck(Decoding("pyav"))
    lines = verb.format_summary(content, "scan.json", check)
    assert "bad: 11" in lines
    assert "  4 OSError, e.g. 0.mp4: it: is" in lines
    assert "  2 others" in lines
    assert any("transcode to a short side of 320 or 256" in line for line in lines)
    assert any("1 classes without a good file, e.g. yoga" in line for line in lines)
    assert lines[-1].endswith("--data.exclude scan.json")
    small = {**content, "sizes": {"340x256": 1200}, "bad": []}
    assert not any(
        "hint" in line or "exclude" in line
        for line in verb.format_summary(small, "scan.json", check)
    )
