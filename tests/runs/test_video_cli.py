"""The video recipes from the command line, on small trees of real files, some of them broken."""

import json
import sys
from pathlib import Path

import pytest
import torch

from tome_lightning import Clip, Image
from tome_lightning.__main__ import main

from ..datamodules.clip_files import write_clip, write_sound

SMALL = (
    "--model.checkpoint=null --model.vit.depth=2 --model.vit.embed_dim=24 --model.vit.num_heads=2 "
    "--trainer.max_steps=2 --trainer.num_sanity_val_steps=0 --trainer.accelerator=cpu "
    "--trainer.enable_progress_bar=false --data.num_workers=0 --data.batch_size=2"
).split()
TINY = ["--data.size=32", "--model.input.size=32", "--model.r=1"]
VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 400}

pytestmark = pytest.mark.filterwarnings("ignore:.*classes have no video")


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Three good and four broken training videos, three good and one broken to validate."""
    monkeypatch.chdir(tmp_path)
    for split, number in (("train", 3), ("val", 3)):
        for i in range(number):
            kind = {"codec": "mpeg4"} if i == 1 else {}
            name = f"DIR/{split}/zumba/{i}." + ("avi" if kind else "mp4")
            write_clip(tmp_path / name, frames=40, size=(48, 64), **kind)
    good = (tmp_path / "DIR/train/zumba/0.mp4").read_bytes()
    (tmp_path / "DIR/train/zumba/cut.mp4").write_bytes(good[: len(good) // 2])
    (tmp_path / "DIR/train/zumba/empty.mp4").write_bytes(b"")
    (tmp_path / "DIR/train/zumba/text.mp4").write_text("no video")
    write_sound(tmp_path / "DIR/train/zumba/sound.mp4")
    (tmp_path / "DIR/val/zumba/text.mp4").write_text("no video")
    return tmp_path


BROKEN = [f"train/zumba/{name}.mp4" for name in ("cut", "empty", "sound", "text")]


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_a_fit_replaces_broken_videos_counts_them_and_says_what_was_measured(tree, caplog):
    words = ["fit", "--recipe", "kinetics_vitl", "--data.root", "DIR", *SMALL, *TINY]
    # one batch of six of the seven training files, in each of two epochs
    assert main([*words, "--trainer.max_steps=2", "--data.batch_size=6"]) == 0
    printed = caplog.text
    run = tree / "runs" / "kinetics_vitl" / "0"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["measured_on"] == "3 videos x 1 clips x 1 crops"
    assert summary["unreadable_files"]["val"] == 1
    bad = json.loads((run / "bad_files.json").read_text())["bad"]
    assert len(bad) == summary["unreadable_files"]["train"] + 1
    assert {row["path"] for row in bad} <= {*BROKEN, "val/zumba/text.mp4"}
    assert "on 3 videos x 1 clips x 1 crops" in printed
    assert "bad_files.json" in printed

    best = str(run / "checkpoints" / "best.ckpt")
    assert main(["test", "--ckpt_path", best, "--trainer.enable_progress_bar=false"]) == 0
    assert "on 3 videos x 10 clips x 3 crops" in caplog.text

    # the run's own list, given to the next one
    excluded = [*words, "--data.exclude", str(run / "bad_files.json"), "--data.max_retries=0"]
    assert main([*excluded, "--data.test_clips=2"]) == 0


def test_an_image_model_is_inflated_only_when_asked(tree, capsys):
    image = Image(32, 16).build(**VIT, global_pool="avg")
    torch.save({"model": image.state_dict()}, "image.pth")
    words = ["fit", "--recipe", "kinetics_vitl", "--data.root", "DIR", *SMALL, *TINY]
    words += ["--model.checkpoint=image.pth"]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "inflate" in error
    assert not Path("runs/kinetics_vitl/0/config.yaml").exists()
    with pytest.warns(UserWarning, match="cannot be read"):
        assert main([*words, "--model.inflate=true"]) == 0


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--model.input.frames=15"], ["15", "tubelets of 2 frames", "14 or 16"]),
        (["--model.input.size=230"], ["230", "patches of 16", "224 or 240"]),
        (["--model.input.frames=8"], ["3x16x224x224", "3x8x224x224", "channels, frames, size"]),
        (["--model.r=2000"], ["2000 tokens", "1569 tokens", "at most 784"]),
        (["--tome.train_r=900"], ["900 tokens", "at most 784"]),
        (["--data.root=NOWHERE"], ["NOWHERE", "not a folder"]),
        (["--data.decoder=ffmpeg"], ["data.decoder", "decord", "pyav", "'ffmpeg'"]),
        (["--data.test_clips=ten"], ["data.test_clips must be int, got 'ten'"]),
        (["--data.train_list=labels.csv"], ["labels.csv, line 2", "label 400"]),
        (["--data.class_list=null", "--data.batch_size=4"], ["one class only (zumba)"]),
        (["--model.input.positions=rope"], ["model.input.positions", "separable", "'rope'"]),
        (["--model.checkpoint=tubelet4.pth"], ["tubelet4.pth", "tubelet", "4"]),
        (["--data.repeat_agu=2"], ["repeat_agu", "data.repeat_aug"]),
        (["--data.batch_size=1"], ["even", "data.batch_size=1", "Use 2"]),
        (["--model.vit.pos_embed=learn"], ["model.vit.pos_embed", "positions"]),
        (["--model.task.num_classes=1"], ["model.task.num_classes", "2 or more"]),
        (["--data.num_workers=null"], ["num_workers", "whole number", "None"]),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_starts(words, parts, tree, capsys):
    Path("DIR/labels.csv").write_text("train/zumba/0.mp4 399\ntrain/zumba/1.avi 400\n")
    torch.save({"model": Clip(tubelet=4).build(**VIT).state_dict()}, "tubelet4.pth")
    assert main(["fit", "--recipe", "kinetics_vitl", "--data.root", "DIR", *SMALL, *words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert all(part in last for part in parts), last
    assert not list(Path().glob("runs/*/*/*"))


def test_a_decoder_that_is_not_installed_is_named_with_another(tree, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)  # what import meets where it is missing
    words = ["fit", "--recipe", "kinetics_vitl", "--data.root", "DIR", *SMALL]
    assert main([*words, "--data.decoder=decord"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "decord" in last
    assert "--data.decoder pyav" in last


def test_bfloat16_on_a_cpu_without_it_is_replaced_and_said(tree, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    words = ["fit", "--recipe", "kinetics_vitl", "--data.root", "DIR", *SMALL, "--print_config"]
    assert main(words) == 0  # nothing is chosen before a run
    words = [
        *words[:-1],
        "--trainer.limit_val_batches=1",
        "--data.size=32",
        "--model.input.size=32",
    ]
    words += ["--model.r=1"]
    with pytest.warns(UserWarning, match=r"bf16-mixed would be many times slower than 32-true"):
        assert main(words) == 0
    assert "precision: 32-true" in Path("runs/kinetics_vitl/0/config.yaml").read_text()


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_accuracy_at_chance_hints_at_the_order_of_labels(tree, caplog):
    head = Clip(size=32).build(**VIT).state_dict()
    head["head.weight"].zero_()
    head["head.bias"].copy_(torch.arange(400) == 7)  # always the same wrong class
    torch.save({"model": head}, "wrong.pth")
    words = ["--model.input.size=32", "--data.size=32", "--model.r=1"]
    small = [word for word in SMALL if not word.startswith("--model.checkpoint")]
    words += ["--data.root=DIR", "--model.checkpoint=wrong.pth", *small]
    assert main(["validate", "--recipe", "kinetics_vitl", *words]) == 0
    assert "no better than chance (1 of 400)" in caplog.text
    assert "here class 0 is 'abseiling'" in caplog.text
