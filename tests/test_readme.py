"""What the README tells people to type works: its commands with two steps, its Python as it is."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tome_lightning.__main__ import main

from .datamodules.audio_tree import write_tree
from .datamodules.videos import write_clip

ROOT = Path(__file__).parents[1]
SMALL = (
    "--trainer.max_steps=2 --trainer.limit_val_batches=1 --model.vit.depth=3 "
    "--model.vit.embed_dim=24 --model.vit.num_heads=2 --trainer.accelerator=cpu "
    "--trainer.enable_progress_bar=false --data.batch_size=2 --data.num_workers=0 "
).split()
# MAE weights cannot be downloaded in a test, and two classes are enough.
IMAGENET = ["--model.checkpoint=null", "--model.task.num_classes=2"]
KINETICS = ["--model.checkpoint=null"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def commands() -> list[str]:
    """Every ``python -m tome_lightning ...`` of the README's bash blocks."""
    lines = "".join(blocks("bash")).splitlines()
    return [
        line.split("-m tome_lightning ", 1)[1] for line in lines if "-m tome_lightning " in line
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for i, name in enumerate("ab"):
            (tmp_path / "DIR" / split / name).mkdir(parents=True)
            pixels = np.full((32, 32, 3), 100 * i, np.uint8)
            for k in range(2):
                Image.fromarray(pixels).save(tmp_path / "DIR" / split / name / f"{k}.png")
    (tmp_path / "mine.yaml").write_text("data:\n  root: DIR\n")
    return tmp_path


def test_the_first_screen_has_the_two_commands():
    first = "".join((ROOT / "README.md").read_text().splitlines(keepends=True)[:24])
    assert "tome_lightning fit --recipe quickstart" in first
    assert "-m pytest" in first


@pytest.fixture
def videos(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for name in ("abseiling", "zumba"):
            for k in range(2):
                write_clip(tmp_path / "DIR" / split / name / f"{k}.mp4", frames=20)
    (tmp_path / "bad.json").write_text('{"files": 8, "bad": []}')
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*classes have no video")
@pytest.mark.parametrize("command", [c for c in commands() if "kinetics_vitl" in c])
def test_a_readme_command_on_videos_runs(videos, command):
    words = command.split()
    extra = [] if words[0] == "scan" else [*SMALL, *KINETICS]
    assert main([*words, *extra]) == 0
    if words[0] == "scan":
        assert json.loads(Path("bad.json").read_text())["bad"] == []
    else:
        assert list(videos.glob("runs/*/0/checkpoints/best.ckpt"))


@pytest.mark.parametrize("command", [c for c in commands() if "audioset" in c])
def test_a_readme_command_on_sounds_runs(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "DIR")
    Path("audioset.json").write_text('{"files": 8, "bad": []}')
    words = command.split()
    classes = len((tmp_path / "DIR" / "class_labels_indices.csv").read_text().splitlines()) - 1
    audio = ["--model.checkpoint=null", f"--model.task.num_classes={classes}"]
    assert main([*words, *([] if words[0] == "scan" else [*SMALL, *audio])]) == 0
    if words[0] == "scan":
        assert json.loads(Path("audioset.json").read_text())["rates"]
    else:
        assert list(tmp_path.glob("runs/*/0/checkpoints/best.ckpt"))


@pytest.mark.parametrize(
    "command",
    [c for c in commands() if not re.search("kinetics_vitl|audioset|^benchmark", c)],
)
def test_a_readme_command_runs(folder, command, capsys):
    words = command.split()
    extra = [*SMALL, *IMAGENET] if "imagenet_vitl" in words else SMALL
    if "--print_config" in words:
        extra = []
    assert main([*words, *extra]) == 0
    if not extra:
        assert "class_path: datamodules.ImageNet" in capsys.readouterr().out
    else:
        assert list(folder.glob("runs/*/0/checkpoints/best.ckpt"))


def test_the_readme_s_benchmark_of_a_model_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = (c for c in commands() if c.startswith("benchmark --model"))
    small = "--depth 1 --batch-size 1 --rounds 1 --device cpu".split()
    assert main([*command.split(), *small]) == 0
    assert [row["r"] for row in json.loads(Path("out.json").read_text())] == [0, 8, 16]
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_readme_s_benchmark_of_a_recipe_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (command,) = (c for c in commands() if c.startswith("benchmark --recipe"))
    small = [word for word in SMALL if "max_steps" not in word]
    assert main([*command.split(), *small]) == 0
    assert "limited by" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_readme_s_python_runs(folder, capsys):
    patching, exporting = blocks("python")
    exec(compile(patching, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == str((16,) * 11 + (10,))
    assert main(["fit", "--recipe", "quickstart", *SMALL]) == 0
    names: dict = {}
    exec(compile(exporting, "README.md", "exec"), names)
    assert "blocks.0.attn.qkv.weight" in names["state_dict"]


@pytest.mark.parametrize(
    "inline", re.findall(r"`(validate|test) (--[^`]+)`", (ROOT / "README.md").read_text())
)
def test_options_named_in_passing_exist(inline, folder, capsys):
    verb, words = inline
    words = [word for word in words.split() if word != "--ckpt_path"]
    words = [word for word in words if not word.endswith("best.ckpt")]
    if "--recipe" not in words:
        words += ["--recipe", "quickstart"]
    assert main([verb, *words, "--print_config"]) == 0
