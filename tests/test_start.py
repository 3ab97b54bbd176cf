"""What a fine-tuning takes over from the checkpoint that it starts from."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

import checkpoints
from checkpoints import ModelConfig
from tome_lightning import FineTune, start
from tome_lightning.inputs import Clip, Image
from tome_lightning.tasks import SingleLabel

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ViT of three named classes, whose config has an epsilon of its own."""
    vit = Image(32, 8).build(num_classes=3, global_pool="token", **SIZES)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    config = {
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "layer_norm_eps": 1e-12,
        "id2label": {"0": "cat", "1": "dog", "2": "owl"}, "hidden_size": 32, "num_hidden_layers": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_the_config_of_a_folder_decides_what_the_options_leave_open(folder: Path):
    module = FineTune(Image(32, 8), SingleLabel(3), vit=SIZES, checkpoint=str(folder))
    assert module.hparams["vit"] == {**SIZES, "global_pool": "token", "norm_eps": 1e-12}
    assert module.hparams["prop_attn"] is True
    assert module.vit.norm.eps == module.vit.blocks[1].norm2.eps == 1e-12
    own = {**SIZES, "global_pool": "avg", "norm_eps": 1e-5}
    other = FineTune(Image(32, 8), SingleLabel(3), vit=own, checkpoint=str(folder))
    assert other.vit.fc_norm.eps == 1e-5


def test_a_model_is_built_again_without_the_folder(folder: Path):
    module = FineTune(Image(32, 8), SingleLabel(3), vit=SIZES, checkpoint=str(folder))
    options = dict(module.hparams)
    folder.rename(folder.with_name("gone"))
    again = FineTune(**options)
    assert again.vit.norm.eps == 1e-12
    again.load_state_dict(module.state_dict())


def test_names_that_came_with_the_head_replace_numbers_alone(folder: Path):
    module = FineTune(Image(32, 8), SingleLabel(3), vit=SIZES, checkpoint=str(folder))
    report = checkpoints.load(module.vit, folder)
    assert report.class_names == ("cat", "dog", "owl")
    assert start.names_of(report, None) == ["cat", "dog", "owl"]
    assert start.names_of(report, ["0", "1", "2"]) == ["cat", "dog", "owl"]
    assert start.names_of(report, ["a", "b", "c"]) == ["a", "b", "c"]
    assert start.names_of(None, ["0"]) == ["0"]
    without = checkpoints.load(module.vit, folder, head=False)
    assert without.class_names == ()


def test_a_config_made_for_other_samples_is_told(tmp_path: Path):
    config = ModelConfig("transformers", "videomae", size=224, patch=16, frames=16, tubelet=2)
    assert start.other_shape("it", config, Clip(16, 224, 2, 16)) is None
    told = start.other_shape("it", config, Clip(32, 224, 2, 16))
    assert told == (
        "it was made for frames 16, this model has frames 32: --model.input.frames 16 is what it was "
        "made for"
    )
    assert start.other_shape("it", config, Image(32, 8)) is not None


def test_a_fit_compares_the_config_with_its_recipe(folder: Path, caplog: pytest.LogCaptureFixture):
    module = FineTune(Image(64, 8), SingleLabel(3), vit=SIZES, checkpoint=str(folder))
    with caplog.at_level("INFO"):
        start.load_weights(module.vit, module.input, module.hparams, "fit", None)
    assert "was made for size 32, this model has size 64" in caplog.text
