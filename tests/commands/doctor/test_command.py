"""``doctor``: what works here, and whether a recipe can run."""

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import recipes
from datamodules.base import LabelledData
from datamodules.sounds.sound_scenes import write_sound_scenes
from datamodules.videos.moving_digits import write_moving_digits
from tome_lightning.__main__ import main as command_line
from tome_lightning.commands.doctor import Finding, Status, check_machine, format_findings, machine
from tome_lightning.commands.doctor.command import doctor
from tome_lightning.commands.doctor.findings import survive

from ...datamodules import audio_tree
from ...datamodules.clip_files import write_clip

FROM_HUB = (
    "kinetics_vitb_videomae",
    "kinetics_vitl_videomae",
    "audioset20k_vitb",
    "audioset2m_vitb",
)


def main(words: list[str]) -> int:
    return command_line(["doctor", *words])


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    return check_machine()


def of(found: list[Finding], what: str) -> list[Finding]:
    return [finding for finding in found if finding.what == what]


def test_this_machine_runs_what_its_tests_run(found: list[Finding]):
    broken = [finding for finding in found if finding.status is Status.BROKEN]
    assert not broken
    for what in ("python", "torch", "torchvision", "cpu", "attention", "audio", "cache", "runs"):
        assert of(found, what), what
    assert any("pyav" in f.words and "(2, 64, 64, 3)" in f.words for f in of(found, "video"))
    assert "features (1, 1024, 128)" in of(found, "audio")[0].words


def test_each_line_that_is_not_ok_says_what_to_do(found: list[Finding]):
    assert all(f.remedy for f in found if f.status is not Status.OK)
    text = format_findings(found)
    assert text.count("\n") >= len(found)
    assert f"{sum(f.status is Status.OK for f in found)} ok" in text.splitlines()[-1]


def test_a_package_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_asked", lambda: ["torch>=99", "nosuchpackage>=1", "numpy>=1"])
    found = list(machine._requirements())
    assert [f.status for f in found] == [Status.BROKEN] * 2
    assert "torch is" in found[0].words
    assert found[0].remedy == "pip install 'torch>=99'"
    assert "not installed" in found[1].words


def test_torchaudio_that_torch_refuses_is_broken_for_audio_alone(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    readable: Callable[[str], list[str]],
):
    scenes = readable("quickstart_audio")
    real = importlib.import_module

    def refuse(name: str, *rest: Any) -> Any:
        if name == "torchaudio":
            raise RuntimeError("built for another torch")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", refuse)
    (line,) = machine._audio()
    assert (line.status, line.needed_by) == (Status.BROKEN, "audio")
    assert "torch<2.15" in line.remedy
    monkeypatch.setattr(
        "tome_lightning.commands.doctor.check_machine", lambda: [line], raising=True
    )  # nothing else to wait for
    assert doctor(["--recipe", "quickstart"]) == 0
    assert "can run here" in capsys.readouterr().out
    assert doctor(["--recipe", "quickstart_audio", *scenes]) == 1


def test_a_mismatched_torchvision_is_broken(monkeypatch: pytest.MonkeyPatch):
    import torchvision

    def fail(*_: Any) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", fail)
    (line,) = machine._torchvision()
    assert line.status is Status.BROKEN
    assert "nms" in line.words


def test_a_folder_that_cannot_be_written_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "NamedTemporaryFile", refuse)
    assert [f.status for f in machine._folders()] == [Status.BROKEN] * 2


def test_a_check_that_fails_itself_is_a_finding():
    def fail() -> list[Finding]:
        raise KeyError("what")

    (line,) = survive("odd", fail)
    assert line.status is Status.BROKEN
    assert "KeyError" in line.words


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the machine, in a folder that must stay empty."""
    monkeypatch.setattr("tome_lightning.commands.doctor.check_machine", list)
    monkeypatch.chdir(tmp_path)


def write_pictures(root: Path) -> None:
    """ImageNet's thousand folders, a link to one picture in each."""
    root.mkdir()
    Image.effect_noise((40, 32), 50).convert("RGB").save(root / "one.jpg")
    for split in ("train", "val"):
        for number in range(1000):
            folder = root / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            os.link(root / "one.jpg", folder / "one.jpg")


def write_videos(root: Path) -> None:
    for split in ("train", "val"):
        for number in (0, 399):
            write_clip(root / split / f"{number}.mp4", frames=12)
        (root / f"{split}.csv").write_text(f"{split}/0.mp4 0\n{split}/399.mp4 399\n")


def write_sounds(root: Path) -> None:
    audio_tree.write_tree(root, {"train": 6, "eval": 6})
    others = {f"/m/{number}": str(number) for number in range(527 - len(audio_tree.CLASSES))}
    audio_tree.write_classes(root, audio_tree.CLASSES | others)
    shutil.copy(root / "train.json", root / "train_all.json")


def write_digits(root: Path) -> None:
    write_moving_digits(root, {"train": 1, "val": 1})


def write_scenes(root: Path) -> None:
    write_sound_scenes(root, {"train": 16, "val": 8})


WRITERS = {
    "imagenet": write_pictures,
    "kinetics": write_videos,
    "audioset": write_sounds,
    "quickstart_video": write_digits,
    "quickstart_audio": write_scenes,
}


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Options that name readable data, made on first use, for a recipe."""
    base = tmp_path_factory.mktemp("readable")

    def options(recipe: str) -> list[str]:
        kind = next((kind for kind in WRITERS if recipe.startswith(kind)), None)
        if kind is None:  # a package ships its data
            return []
        if not (base / kind).exists():
            WRITERS[kind](base / kind)
        return [f"--data.root={base / kind}"]

    return options


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("recipe", recipes.names())
@pytest.mark.filterwarnings("ignore:.*do not fill one batch")
@pytest.mark.filterwarnings("ignore:.*classes have no clip")
def test_every_shipped_recipe_can_run_on_readable_data(
    recipe: str,
    readable: Callable[[str], list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    prepared: list[torch.Tensor] = []
    prepare = LabelledData.prepare

    def record(*given: Any) -> torch.Tensor:
        prepared.append(prepare(*given))
        return prepared[-1]

    monkeypatch.setattr(LabelledData, "prepare", record)
    assert main(["--recipe", recipe, *readable(recipe)]) == 0
    told = capsys.readouterr().out
    assert ("not in the Hub's cache" in told) == (recipe in FROM_HUB)
    assert ("once its weights are there" in told) == ("warning  weights" in told)
    assert "the first is read" in told
    assert "can run here" in told
    assert not list(Path.cwd().iterdir())
    assert [x.dtype for x in prepared] == [torch.float32] * 2  # of training and of validation
    assert all(x.isfinite().all() and x.std() > 0 for x in prepared)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["imagenet_vitl"], "is not a folder"),
        (["kinetics_vitl_videomae"], "not in the Hub's cache on this machine"),
        (["kinetics_vitl_videomae", "--model.checkpoint", "videomae_vit_large_k400"], "by hand"),
        (["quickstart", "--model.r", "900"], "at most 24"),
        (["quickstart", "--model.rr", "1"], "Nearest: model.r"),
        (["quickstart", "--model.checkpoint", "nowhere.pth"], "nowhere.pth"),
        (["quickstart", "--model.task.num_classes", "12"], "The data has 10 classes"),
        (["quickstart", "--model.input.size", "32"], "the model reads (1, 32, 32)"),
        (["quickstart", "--trainer.accelerator", "gpu"], "torch sees none"),
    ],
)
def test_a_recipe_that_cannot_run_says_why(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["--recipe", *argv]) == 1
    told = capsys.readouterr().out
    assert any(words in line for line in told.splitlines())
    assert "cannot run here" in told


@pytest.mark.usefixtures("quick")
def test_another_batch_than_the_recipe_s_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    main(["--recipe", "quickstart", "--model.effective_batch", "64"])
    assert (
        "1 process would make steps of 32 samples; the recipe's have 64" in capsys.readouterr().out
    )
    assert main(["--recipe", "quickstart", "--model.effective_batch", "32"]) == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--recipe", "quickstrat"], "did you mean quickstart"),
        (["--recpie", "x"], "Nearest: --recipe"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
