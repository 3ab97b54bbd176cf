"""Models opened by name, recipe or checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from tome_lightning.arguments import UsageError
from tome_lightning.commands.export import export_model
from tome_lightning.commands.loaded import load_model

TINY = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A ViT-Ti as MAE's fine-tuning would leave it, and one without a head."""
    folder = tmp_path_factory.mktemp("weights")
    vit = timm.create_model(TINY, num_classes=3, global_pool="avg")
    torch.save({"model": vit.state_dict()}, folder / "tuned.pth")
    encoder = timm.create_model(TINY, num_classes=0)
    torch.save({"model": encoder.state_dict()}, folder / "encoder.pth")
    return {"tuned": folder / "tuned.pth", "encoder": folder / "encoder.pth"}


def test_weights_are_those_of_the_file_and_pixels_those_they_were_trained_on(
    weights: dict[str, Path],
):
    loaded = load_model(TINY, weights["tuned"], r=4)
    saved = torch.load(weights["tuned"], weights_only=True)["model"]
    assert torch.equal(loaded.model.vit.head.weight, saved["head.weight"])
    assert loaded.model.vit.global_pool == "avg"
    assert (loaded.mean, loaded.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    # timm's own weights of this name were trained on others
    assert load_model(TINY, random_weights=True).mean == (0.5, 0.5, 0.5)
    tagged = load_model("vit_base_patch16_224.mae", random_weights=True)
    assert tagged.mean == (0.485, 0.456, 0.406)
    assert not loaded.model.training
    assert sum(loaded.model.plan()) == 48


def test_of_two_sets_of_weights_one_is_chosen(weights: dict[str, Path], tmp_path: Path):
    live = torch.load(weights["tuned"], weights_only=True)["model"]
    ema = {name: value + 1 for name, value in live.items()}
    torch.save({"model": live, "model_ema": ema}, tmp_path / "two.pth")
    taken = load_model(TINY, tmp_path / "two.pth")
    assert torch.equal(taken.model.vit.head.bias, live["head.bias"])
    assert "without its averaged weights (model_ema)" in taken.weights
    chosen = load_model(TINY, tmp_path / "two.pth", weights="ema")
    assert torch.equal(chosen.model.vit.head.bias, ema["head.bias"])
    exported = export_model(
        tmp_path / "a.safetensors", model=TINY, ckpt=tmp_path / "two.pth", weights="ema"
    )
    assert exported.averaged
    assert "averaged weights" in load_model(TINY, tmp_path / "a.safetensors").weights
    with pytest.raises(UsageError, match="--weights ema goes with"):
        load_model(ckpt=tmp_path / "two.pth", weights="ema")


def test_what_was_exported_comes_back_with_what_was_noted(weights: dict[str, Path], tmp_path: Path):
    file = tmp_path / "out.safetensors"
    export_model(file, model=TINY, ckpt=weights["tuned"], r=4)
    back = load_model(TINY, file)
    assert back.model.r == 4
    assert back.mean == (0.485, 0.456, 0.406)


def test_a_head_that_no_weights_fill_is_told_and_not_exported(tmp_path: Path):
    recipe = tmp_path / "tiny.yaml"
    content = (
        "model:\n  input: {class_path: tome_lightning.inputs.Image, "
        "init_args: {size: 28, patch: 4, channels: 1}}\n"
        "  task: {class_path: tome_lightning.tasks.SingleLabel, init_args: {num_classes: 10}}\n"
        "  vit: {embed_dim: 24, depth: 2, num_heads: 2, global_pool: token}\n  r: 2\n"
    )
    recipe.write_text(content)
    sizes: dict[str, Any] = {"img_size": 28, "patch_size": 4, "in_chans": 1, "embed_dim": 24}
    vit = timm.models.VisionTransformer(**sizes, depth=2, num_heads=2, num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "encoder.pth")
    loaded = load_model(recipe=str(recipe), ckpt=tmp_path / "encoder.pth")
    assert loaded.no_head
    assert "random weights" in loaded.weights
    with pytest.raises(UsageError, match="no head for the classes"):
        export_model(
            tmp_path / "out.safetensors", recipe=str(recipe), ckpt=tmp_path / "encoder.pth"
        )
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Which model"),
        ({"model": TINY, "recipe": "quickstart"}, "exclude each other"),
        ({"ckpt": "x.pth", "random_weights": True}, "goes with --model"),
        ({"model": TINY, "random_weights": True, "img_size": -16}, "got -16"),
        ({"model": TINY, "random_weights": True, "img_size": 0}, "got 0"),
        ({"recipe": "quickstart", "random_weights": True, "img_size": 28}, "for --model NAME"),
        ({"recipe": "quickstart"}, "starts from random weights"),
        ({"ckpt": "nowhere.ckpt"}, "is no file"),
        ({"ckpt": "mae_pretrain_vit_large"}, "names weights alone"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], words: str):
    with pytest.raises(UsageError, match=words):
        load_model(**options)
