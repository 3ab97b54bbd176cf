"""What the README tells people to type works: its commands with two steps, its Python as it is."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images.digits import write_digits
from datamodules.sounds.sound_scenes import write_sound_scenes
from datamodules.videos.moving_digits import write_moving_digits
from tome_lightning.__main__ import main

from .datamodules.audio_tree import write_tree
from .datamodules.clip_files import write_clip

soundfile = pytest.importorskip("soundfile")

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


SHARDED = [c for c in commands() if "shards" in c or "hf://" in c]
OWN = [
    c
    for c in commands()
    if re.search(r"--data\.root (photos|clips|sounds)", c) and c not in SHARDED
]
AFTER = [c for c in commands() if "runs/quickstart" in c]
OTHERS = [c for c in commands() if c not in (*OWN, *SHARDED, *AFTER)]


@pytest.fixture(scope="module", autouse=True)
def small_sets(cache_folder, tmp_path_factory):
    """The quickstarts' clips and sounds, of which there are few; all of the digits."""
    own = tmp_path_factory.mktemp("small")
    write_digits(cache_folder / "digits")
    (own / "digits").symlink_to(cache_folder / "digits")
    write_moving_digits(own / "moving_digits", {"train": 2, "val": 1})  # of each motion
    write_sound_scenes(own / "sound_scenes", {"train": 16, "val": 8})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOME_LIGHTNING_CACHE", str(own))
        yield


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
@pytest.mark.parametrize("command", [c for c in OTHERS if "kinetics_vitl" in c])
def test_a_readme_command_on_videos_runs(videos, command):
    words = command.split()
    extra = [] if words[0] == "scan" else [*SMALL, *KINETICS]
    assert main([*words, *extra]) == 0
    if words[0] == "scan":
        assert json.loads(Path("bad.json").read_text())["bad"] == []
    else:
        assert list(videos.glob("runs/*/0/checkpoints/best.ckpt"))


@pytest.mark.parametrize("command", [c for c in OTHERS if "audioset" in c])
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
    [c for c in OTHERS if not re.search("kinetics_vitl|audioset|^benchmark", c)],
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


@pytest.fixture
def own_data(folder, monkeypatch) -> Path:
    """The three folders that the README describes."""
    (folder / "DIR").rename(folder / "photos")
    for split, names in (("train", "abcd"), ("val", "ab")):
        for k, name in enumerate(names):
            write_clip(folder / "clips" / f"{name}.mp4", frames=20)
            (folder / "sounds" / split).mkdir(parents=True, exist_ok=True)
            wave = np.sin(np.arange(8000) * 0.1 * (k + 1)).astype(np.float32)
            soundfile.write(folder / "sounds" / split / f"{name}.wav", wave, 16_000)
        lines = [f"{name}.mp4 {k % 2}\n" for k, name in enumerate(names)]
        (folder / "clips" / f"{split}.csv").write_text("".join(lines))
        rows = zip(names, ("dog;rain", "cat", "rain", "dog"), strict=False)
        text = "".join(f"{split}/{name}.wav,{labels}\n" for name, labels in rows)
        (folder / "sounds" / f"{split}.csv").write_text(f"path,labels\n{text}")
    return folder


@pytest.mark.parametrize("command", OWN)
def test_a_readme_command_on_one_s_own_data_runs(own_data, command, capsys):
    words = command.split()
    assert main([*words, *SMALL, "--model.checkpoint=null"]) == 0
    (best,) = own_data.glob("runs/*/0/checkpoints/best.ckpt")
    views = ["--data.test_clips=2"] if "clips" in command else []  # of 10, which take as long
    assert main(["predict", "--ckpt_path", str(best), "--trainer.accelerator=cpu", *views]) == 0
    (table,) = own_data.glob("runs/*/predict/0/predictions.csv")
    rows = table.read_text().splitlines()
    assert rows[0].startswith("id,file,class1,score1,class2,score2")
    assert len(rows) > 2
    if "sounds" in command:
        assert {row.split(",")[2] for row in rows[1:]} <= {"cat", "dog", "rain"}


def test_the_own_data_of_the_readme_are_all_tried():
    assert [re.search(r"root (\w+)", c)[1] for c in OWN] == ["photos", "clips", "sounds"]


def test_the_readme_s_commands_on_shards_run(own_data, monkeypatch):
    packing, shards, hub = SHARDED
    assert main(packing.split()) == 0
    assert main([*shards.split(), *SMALL, "--model.checkpoint=null"]) == 0
    monkeypatch.setattr("datamodules.shards.hub.fetch", lambda *what: own_data / "shards")
    assert main([*hub.split(), *SMALL, "--model.checkpoint=null"]) == 0
    assert len(list(own_data.glob("runs/*/*/checkpoints/best.ckpt"))) == 2


def test_the_readme_s_commands_after_a_run_run(folder, capsys):
    for r in ("4", "0"):
        assert main(["fit", "--recipe", "quickstart", *SMALL, f"--model.r={r}"]) == 0
    Image.effect_noise((40, 30), 90).save("photo.png")
    small = {
        "test": ["--trainer.accelerator=cpu", "--trainer.limit_test_batches=1"],
        "sweep": ["--rounds=1", "--batch-size=2", "--limit=1", "--trainer.accelerator=cpu"],
    }
    assert [c.split()[0] for c in AFTER] == [
        "test", "sweep", "visualize", "inspect", "export", "compare",
    ]  # fmt: skip
    for command in AFTER:
        words = command.split()
        assert main([*words, *small.get(words[0], [])]) == 0, command
    told = capsys.readouterr().out
    assert "r=4, prop_attn=True" in told  # inspect
    assert "against runs/quickstart/1" in told  # compare: the dense control
    for name in ("sweep.json", "sweep.png", "groups.png", "model.onnx"):
        assert Path(name).stat().st_size > 1000


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
    patching, fitting, exporting = blocks("python")
    exec(compile(patching, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == str((16,) * 11 + (10,))
    exec(compile(fitting, "README.md", "exec"), {})
    assert "top1" in capsys.readouterr().out
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
