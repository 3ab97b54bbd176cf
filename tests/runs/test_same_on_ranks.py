"""The number a model gets does not depend on how many processes measure it."""

import contextlib
import json
import sys
from pathlib import Path

import pytest

from tome_lightning.__main__ import main

from ..datamodules.audio_tree import CLASSES, write_tree
from ..datamodules.clip_files import write_clip
from .kill_and_resume import read_lines, write_some_digits
from .processes import ROOT, process, run_forks

SMALL = "--trainer.accelerator=cpu --trainer.enable_progress_bar=false".split()
FIT = [
    *SMALL,
    *(
        "--model.vit.depth=2 --model.vit.embed_dim=24 --model.vit.num_heads=2 "
        "--trainer.max_steps=2 --data.num_workers=0 --data.batch_size=4"
    ).split(),
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*cannot be read", "ignore:.*are not there"),
]


def images(root: Path) -> tuple[list[str], list[str], int]:
    """40 digits less three, one of which cannot be read: options of fit and evaluation, and 36."""
    write_some_digits(root, {"train": 4, "val": 4})
    files = sorted(root.glob("val/*/*.png"))
    for file in files[5:30:10]:
        file.unlink()
    files[20].write_text("no image")
    words = ["--recipe=quickstart", f"--data.root={root}", "--data.eval_batch_size=5"]
    return [*words, "--model.r=4"], ["validate"], 36


def videos(root: Path) -> tuple[list[str], list[str], int]:
    """13 videos, two of which cannot be read, each of 2 clips x 3 crops."""
    motions = ("up", "down", "left", "right", "circle", "still")
    for number in range(13):
        motion = motions[number % 6]
        write_clip(root / f"val/{motion}/{number}.mp4", frames=40, size=(64, 80), first=9 * number)
        if number < 6:
            write_clip(root / f"train/{motion}/{number}.mp4", frames=40, size=(64, 80))
    (root / "val/down/7.mp4").write_text("no video")
    (root / "val/circle/4.mp4").write_text("no video")
    words = ["--recipe=quickstart_video", f"--data.root={root}", "--data.eval_batch_size=12"]
    return [*words, "--data.test_clips=2"], ["test"], 11


def audio(root: Path) -> tuple[list[str], list[str], int]:
    """41 clips, one of which cannot be read."""
    write_tree(root, {"train": 16, "eval": 41})
    sorted((root / "audio/eval").iterdir())[3].write_text("no audio")
    words = [
        "--recipe=audioset20k_vitb", f"--data.root={root}", "--data.eval_batch_size=3",
        f"--model.task.num_classes={len(CLASSES)}", "--model.checkpoint=null", "--model.freeze=none",
        "--model.input.frames=128", "--data.frames=128", "--data.time_mask=0", "--data.freq_mask=0",
        "--model.r=4", "--tome.train_r=4",
    ]  # fmt: skip
    return words, ["validate"], 40


@pytest.mark.parametrize("data", [images, videos, audio])
def test_one_two_and_four_processes_measure_the_same(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, (verb,), expected = data(tmp_path / "data")
    small = [word for word in FIT if not word.startswith(tuple(w.split("=")[0] for w in words))]
    assert main(["fit", *words, *small, "--run_dir=fit"]) == 0

    # two on digits as Lightning starts them; the others as torchrun, by forks
    found = [
        measured(verb, devices, tmp_path, forked=devices == 4 or data is not images)
        for devices in (1, 2, 4)
    ]
    for metrics, words in found:
        name = "val" if verb == "validate" else verb
        assert metrics[f"{name}/samples"] == expected
        assert words == found[0][1]  # "36 samples", "11 videos x 2 clips x 3 crops", ...
        # Batches are put together otherwise, and float32 sums are as well.
        assert metrics == pytest.approx(found[0][0], rel=1e-5)
    assert str(expected) in found[0][1]


def measured(verb: str, devices: int, folder: Path, forked: bool) -> tuple[dict[str, float], str]:
    """Everything an evaluation logs, and what its summary says it was measured on."""
    records, run = folder / f"records{devices}", folder / f"run{devices}"
    words = [
        verb, "--ckpt_path=fit/checkpoints/last.ckpt", *SMALL, f"--run_dir={run}",
        f"--trainer.devices={devices}", "--trainer.callbacks+=tests.runs.recorder.Recorder",
        f"--trainer.callbacks.folder={records}",
        *(["--trainer.strategy=ddp"] if devices > 1 else []),
    ]  # fmt: skip
    if devices == 1:
        with monkey_path():
            assert main(words) == 0
    elif forked:
        run_forks([sys.executable, "-m", "tome_lightning", *words], devices, folder)
    else:
        log = folder / f"{devices}.log"
        with process([sys.executable, "-m", "tome_lightning", *words], log) as child:
            assert child.wait(200) == 0, log.read_text()[-4000:]
    lines = [read_lines(file)[-1] for file in records.glob("*.jsonl")]
    assert len(lines) == devices
    assert all(line == lines[0] for line in lines)  # every process knows the number of all
    metrics = {name: float.fromhex(v) for name, v in lines[0].items() if "/" in name}
    return metrics, json.loads((run / "summary.json").read_text())["measured_on"]


@contextlib.contextmanager
def monkey_path():
    """``tests.runs.recorder`` can be imported, as it can in the processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield
