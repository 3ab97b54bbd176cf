"""A folder for transformers: it loads it, computes the same, and prepares samples the same way."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import checkpoints
from tome_lightning.arguments import UsageError
from tome_lightning.commands.export import export_model
from tome_lightning.commands.export.export import HF_FOLDER
from tome_lightning.commands.loaded import load_model
from tome_lightning.inputs import Clip, Image, Input, Spectrogram

from .small import run_file

pytest.importorskip("transformers")

RGB = Image(size=32, patch=8)
VIDEO = Clip(8, 32, 2, 8, positions="sinusoid", key_bias=False)
MODELS: dict[str, tuple[Input, dict[str, Any], str]] = {
    "averaged": (RGB, {"global_pool": "avg"}, "beit"),
    "class token": (RGB, {"global_pool": "token"}, "vit"),
    "videos": (VIDEO, {}, "videomae"),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_the_lines_that_are_printed_load_the_folder(kind: str, tmp_path: Path):
    input, vit, model_type = MODELS[kind]
    run = run_file(tmp_path / "best.ckpt", input, vit=vit)
    exported = export_model(tmp_path / "out", ckpt=run, format=HF_FOLDER)
    config = json.loads((exported.file / "config.json").read_text())
    assert config["model_type"] == model_type
    assert config["id2label"]["4"] == "class 4"
    given: dict[str, Any] = {"x": torch.randn(2, *input.shape)}
    exec("\n".join(exported.usage), given)
    expected = load_model(ckpt=run).model.vit(given["x"])
    torch.testing.assert_close(given["logits"], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["class token", "videos"])
def test_we_read_what_we_write(kind: str, tmp_path: Path):
    input, vit, _ = MODELS[kind]
    run = run_file(tmp_path / "best.ckpt", input, vit=vit)
    folder = export_model(tmp_path / "out", ckpt=run, format=HF_FOLDER).file
    loaded = load_model(ckpt=run)
    fresh = input.build(**{**loaded.vit_arguments, "num_classes": 5})
    checkpoints.load(fresh, folder)
    x = torch.randn(2, *input.shape)
    torch.testing.assert_close(fresh.eval()(x), loaded.model.vit(x), rtol=1e-5, atol=1e-5)


def test_the_processor_prepares_as_evaluation_does(tmp_path: Path):
    run = run_file(tmp_path / "best.ckpt", RGB)
    folder = export_model(tmp_path / "out", ckpt=run, format=HF_FOLDER).file
    prepared = json.loads((folder / "preprocessor_config.json").read_text())
    loaded = load_model(ckpt=run)
    assert prepared["image_mean"] == pytest.approx(list(loaded.mean))
    assert prepared["image_std"] == pytest.approx(list(loaded.std))
    assert (prepared["size"], prepared["crop_size"]) == (
        {"shortest_edge": 32}, {"height": 32, "width": 32},
    )  # fmt: skip
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "BeitForImageClassification.from_pretrained" in card


@pytest.mark.parametrize(
    ("input", "vit", "message"),
    [
        (Spectrogram(64, 32, 8, 8), {}, "no model with a Spectrogram input"),
        (Clip(8, 32, 2, 8), {}, "no model with separable positions of clips"),
        (RGB, {"init_values": 0.1}, "no model with LayerScale"),
        (RGB, {"reg_tokens": 2}, "no model with 3 prefix tokens"),
    ],
)
def test_what_transformers_has_no_model_for_is_refused(
    input: Input, vit: dict[str, Any], message: str, tmp_path: Path
):
    run = run_file(tmp_path / "best.ckpt", input, vit=vit)
    with pytest.raises(UsageError, match=message):
        export_model(tmp_path / "out", ckpt=run, format=HF_FOLDER)
    assert not (tmp_path / "out").exists()


def test_a_missing_transformers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = "tome_lightning.commands.export.transformers_folder.find_spec"
    monkeypatch.setattr(module, lambda name: None)
    with pytest.raises(UsageError, match="pip install transformers"):
        export_model(tmp_path / "out", ckpt=run_file(tmp_path / "best.ckpt", RGB), format=HF_FOLDER)
