"""A model that takes any size: everything that counts tokens counts those of the data's samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image as Pictures

from tome_lightning import fit
from tome_lightning.commands.doctor.recipe import check_recipe
from tome_lightning.commands.export import export_model
from tome_lightning.commands.loaded import from_recipe, load_model
from tome_lightning.commands.sweep import sweep
from tome_lightning.commands.visualize.pictures import visualize
from tome_lightning.finetune import FineTune, FineTuneError
from tome_lightning.inputs import Image
from tome_lightning.tasks import SingleLabel
from tome_lightning.tome import PlanError, patch
from tome_lightning.tome.macs import counted_macs, macs

from ..tome.tiny import images, tiny_vit

VIT: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
R, PATCHES = (
    9,
    64,
)  # of pictures of 64 pixels; of the model's own 32 pixels 16, of which 8 may merge


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model made for 32 pixels on pictures of 64."""
    folder = tmp_path_factory.mktemp("dynamic")
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(2):
                pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Pictures.fromarray(pixels).save(place / f"{i}.png")
    content = {
        "model": {
            "input": {
                "class_path": "tome_lightning.inputs.Image", "init_args": {"size": 32, "patch": 8},
            },
            "task": {
                "class_path": "tome_lightning.tasks.SingleLabel", "init_args": {"num_classes": 2},
            },
            "vit": {**VIT, "global_pool": "avg"}, "r": R, "lr": 1e-3,
        },
        "data": {
            "class_path": "datamodules.ImageNet",
            "init_args": {"root": str(folder), "size": 64, "batch_size": 2, "num_workers": 0},
        },
        "trainer": {
            "max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False, "precision": "32-true",
        },
    }  # fmt: skip
    path = folder / "dynamic.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def run(recipe: Path) -> Any:
    return fit(recipe, {"run_dir": str(recipe.parent / "run")})


@pytest.fixture
def ckpt(run: Any) -> Path:
    path: Path = run.directory / "checkpoints/last.ckpt"
    return path


def dense_macs(size: int) -> int:
    """Of a model that was built for a size."""
    vit = Image(size, 8).build(**{**VIT, "dynamic_img_size": False}, num_classes=2)
    return macs(patch(vit)).total


def test_a_run_counts_the_tokens_of_its_data(run: Any):
    assert run.module.model.num_tokens == PATCHES + 1
    assert run.module.model.plan() == (R, R)
    assert run.summary["macs"]["dense"] == dense_macs(64)
    assert run.summary["model"].startswith("Image 3x64x64 ->")


def test_the_count_is_what_torch_counts():
    model = patch(tiny_vit(dynamic_img_size=True))
    own = macs(model).total
    model.img_size = (32, 24)
    assert model.num_tokens == 49
    assert macs(model).total == counted_macs(model, (3, 32, 24)) > own
    model.r = 3
    assert model.forward_features(images(size=32)).shape[1] == 65 - 9  # whatever comes is merged
    model.set_input_size((24, 24))
    assert (model.img_size, model.num_tokens) == ((24, 24), 37)


def test_a_model_of_one_size_takes_no_other():
    model = patch(tiny_vit())
    model.img_size = (16, 16)
    with pytest.raises(ValueError, match="dynamic_img_size=True"):
        model.img_size = (32, 32)
    assert model.num_tokens == 17


class Shape:
    """All that a data module says of its samples."""

    def __init__(self, *shape: int) -> None:
        self.sample_shape = shape


def test_r_is_held_against_the_data_s_size():
    module = FineTune(Image(32, 8), SingleLabel(2), vit=VIT, r=32)
    module.follow(Shape(3, 64, 64))
    assert module.model.plan()[0] == 32
    with pytest.raises(PlanError, match="17 tokens a block can merge at most 8"):
        module.follow(Shape(3, 32, 32))
    with pytest.raises(PlanError, match="at most 8"):
        module.follow(None)  # of loaders alone nothing is known
    with pytest.raises(FineTuneError, match="60 is no multiple of the model's patches of 8"):
        module.follow(Shape(3, 60, 60))
    with pytest.raises(FineTuneError, match="samples of 1x64x64"):
        module.follow(Shape(1, 64, 64))
    padded = {**VIT, "dynamic_img_pad": True}
    module = FineTune(Image(32, 8), SingleLabel(2), vit=padded, r=32)
    module.follow(Shape(3, 60, 60))
    assert module.model.num_tokens == PATCHES + 1


def test_pictures_and_exports_have_the_data_s_size(ckpt: Path, recipe: Path, tmp_path: Path):
    loaded = load_model(ckpt=ckpt)
    assert loaded.shape == (3, 64, 64)
    picture = next(recipe.parent.glob("val/*/0.png"))
    (groups,) = visualize(loaded, [picture], tmp_path / "a.png")
    assert groups[0].ids.shape == (8, 8)
    assert groups[0].tokens == PATCHES + 1 - 2 * R
    exported = export_model(tmp_path / "a.safetensors", ckpt=ckpt)  # compares its logits
    assert any("3, 64, 64" in line for line in exported.usage)


@pytest.mark.slow  # two graphs are traced, checked and run
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_graphs_have_the_data_s_size(ckpt: Path, tmp_path: Path, suffix: str):
    exported = export_model(tmp_path / f"a.{suffix}", ckpt=ckpt)  # compares its logits
    assert exported.tokens == (PATCHES + 1, PATCHES + 1 - 2 * R)
    assert any("3, 64, 64" in line for line in exported.usage)


def test_sweep_benchmark_and_doctor_count_alike(ckpt: Path, recipe: Path, tmp_path: Path):
    rows = sweep([R], ckpt_path=ckpt, batch_size=1, rounds=5)
    assert [row.tokens_in for row in rows] == [PATCHES + 1] * 2
    assert rows[0].macs == dense_macs(64)
    case = from_recipe(["--recipe", str(recipe)])
    assert (case.tokens(False), case.shape) == (PATCHES + 1, (3, 64, 64))
    found = {one.what: one.words for one in check_recipe(["--recipe", str(recipe)])[0]}
    assert f"{PATCHES + 1} -> {PATCHES + 1 - 2 * R} tokens at r={R}" in found["model"]


def test_a_recipe_s_own_model_is_opened_at_the_data_s_size(recipe: Path):
    with torch.random.fork_rng(devices=[]):
        loaded = load_model(recipe=str(recipe), random_weights=True)
    assert (loaded.shape, loaded.model.num_tokens) == ((3, 64, 64), PATCHES + 1)
