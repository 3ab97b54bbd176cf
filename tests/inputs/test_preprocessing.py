"""The data's samples against those that a checkpoint wants."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

import checkpoints
import recipes
from checkpoints import Preprocessing
from datamodules import AudioSet, ImageNet, Kinetics400
from tome_lightning.arguments import read_yaml
from tome_lightning.commands.doctor.recipe import check_recipe
from tome_lightning.finetune import FineTune
from tome_lightning.inputs import Image
from tome_lightning.inputs.preprocessing import difference
from tome_lightning.tasks import SingleLabel

AUGREG = Preprocessing((0.5,) * 3, (0.5,) * 3, 224, "bicubic", 0.9)


def test_a_difference_says_both_and_the_options():
    line = difference("augreg", AUGREG, ImageNet("photos", size=192, interpolation="bilinear"))
    assert line == (
        "augreg was made with mean [0.5,0.5,0.5], std [0.5,0.5,0.5], size 224, interpolation bicubic, "
        "crop_pct 0.9; the data has mean [0.485,0.456,0.406], std [0.229,0.224,0.225], size 192, "
        "interpolation bilinear, crop_pct 0.875: --data.mean [0.5,0.5,0.5] --data.std [0.5,0.5,0.5] "
        "--data.size 224 --model.input.size 224 --data.interpolation bicubic --data.crop_pct 0.9 sets "
        "what they want"
    )


@pytest.mark.parametrize(
    ("wanted", "change"),
    [
        ({"mean": (0.5,) * 3}, {"mean": (0.5, 0.5, 0.4)}),
        ({"std": (0.225,) * 3}, {"std": (0.5,) * 3}),
        ({"size": 224}, {"size": 256}),
        ({"interpolation": "bicubic"}, {"interpolation": "bilinear"}),
        ({"crop_pct": 0.875}, {"crop_pct": 0.95}),
    ],
)
def test_each_setting_is_compared(wanted: dict[str, Any], change: dict[str, Any]):
    same = {"mean": (0.5,) * 3, "std": (0.225,) * 3, "crop_pct": 0.875}
    known = Preprocessing(**{"mean": (0.5,) * 3, **wanted})
    assert difference("a", known, ImageNet("photos", **same)) is None
    told = difference("a", known, ImageNet("photos", **{**same, **change}))
    assert told is not None
    assert f"--data.{next(iter(change))} " in told


def test_video_and_sound_are_compared_and_other_kinds_are_not():
    video = checkpoints.identify("mae_st_vit_large_k400").preprocessing
    sound = checkpoints.identify("audiomae_vit_base").preprocessing
    assert difference("a", video, Kinetics400("clips")) is None
    told = difference("a", video, Kinetics400("clips", mean=(0.5,) * 3))
    assert "mean [0.45,0.45,0.45]; the data has mean [0.5,0.5,0.5]" in str(told)
    assert difference("a", sound, AudioSet("sounds")) is None
    told = difference("a", sound, AudioSet("sounds", mean=-6.6))
    assert "mean -4.26774; the data has mean -6.6: --data.mean -4.26774" in str(told)
    assert difference("a", AUGREG, AudioSet("sounds")) is None  # an image model as a start
    assert difference("a", AUGREG, LightningDataModule()) is None  # says nothing of its samples


def test_no_shipped_recipe_differs_from_its_checkpoint():
    compared = 0
    for name in recipes.names():
        content = read_yaml(recipes.path(name))
        start, data = content["model"]["checkpoint"], content["data"]
        if start is None:
            continue
        package, _, kind = data["class_path"].rpartition(".")
        module = getattr(import_module(package), kind)(**data["init_args"])
        assert difference(start, checkpoints.identify(start).preprocessing, module) is None
        compared += 1
    assert compared >= 8


class Two(ImageNet):
    """Two grey images, called normalised as ImageNet's usually are."""

    class_names = tuple(map(str, range(1000)))

    def setup(self, stage: str | None = None) -> None:
        pass

    def val_dataloader(self) -> Any:
        x, y = torch.zeros(2, 1, 3, 224, 224), torch.tensor([0, 1])
        return DataLoader(TensorDataset(x, y, y), batch_size=2)


def test_validating_a_tag_on_other_pixels_prints_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    read = Image(224, timm_model="vit_tiny_patch16_224")
    published = read.build(depth=1).state_dict()
    monkeypatch.setattr("checkpoints.timm_hub.weights_of", lambda _: published)
    module = FineTune(read, SingleLabel(1000), vit={"depth": 1}, checkpoint=name)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    caplog.set_level("INFO")
    Trainer(default_root_dir=tmp_path, **quiet).validate(module, Two("photos"), verbose=False)
    told = [line for line in caplog.messages if "was made with" in line]
    assert len(told) == 1
    assert told[0].startswith(
        f"{name} was made with mean [0.5,0.5,0.5], std [0.5,0.5,0.5], crop_pct"
    )
    assert "the data has mean [0.485,0.456,0.406]" in told[0]
    assert "--data.mean [0.5,0.5,0.5]" in told[0]
    assert "\n" not in told[0]


def test_doctor_tells_it_before_a_run():
    words = ["--recipe", "imagenet_vitb", "--data.root", "nowhere"]
    words += ["--model.checkpoint", "vit_base_patch16_224.augreg_in21k_ft_in1k"]
    told = [found.words for found in check_recipe(words)[0] if found.what == "samples"]
    assert "was made with mean [0.5,0.5,0.5]" in told[0]
