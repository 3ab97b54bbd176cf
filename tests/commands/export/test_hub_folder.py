"""A folder for timm and the Hub: timm loads it, the card says what it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import checkpoints
from tome_lightning.arguments import UsageError
from tome_lightning.commands.export import export_model
from tome_lightning.commands.export.export import FOLDER
from tome_lightning.commands.loaded import load_model
from tome_lightning.inputs import Clip, Image, Input, Spectrogram

from .small import GREY, run_file

INPUTS: dict[str, Input] = {
    "images": GREY,
    "named": Image(size=32, channels=1, timm_model="vit_tiny_patch16_224"),
    "sounds": Spectrogram(64, 32, 8, 8, mask_time=0.2),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", INPUTS)
def test_the_lines_that_are_printed_load_the_folder(kind: str, tmp_path: Path):
    run = run_file(tmp_path / "best.ckpt", INPUTS[kind], r=1 if kind == "named" else 8)
    exported = export_model(tmp_path / "out", ckpt=run, format=FOLDER)
    assert exported.difference.largest <= 1e-6
    model = load_model(ckpt=run).model
    given: dict[str, Any] = {"x": torch.randn(2, *INPUTS[kind].shape)}
    *lines, merging_import, merging = exported.usage
    exec("\n".join(lines), given)
    torch.testing.assert_close(given["logits"], model.vit(given["x"]), rtol=0, atol=1e-6)
    exec(f"{merging_import}\n{merging}", given)
    torch.testing.assert_close(given["logits"], model(given["x"]), rtol=0, atol=1e-6)


def test_config_and_card_say_what_it_is(tmp_path: Path):
    run = run_file(tmp_path / "best.ckpt", checkpoint="mae_pretrain_vit_base")
    folder = export_model(tmp_path / "out", ckpt=run, format=FOLDER).file
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == [f"class {i}" for i in range(5)]
    assert config["pretrained_cfg"]["input_size"] == [1, 28, 28]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\nlicense: cc-by-nc-4.0\n")
    assert "r: 8, prop_attn: True" in card
    assert "[8, 8], 50 -> 34" in card
    assert str(tmp_path) not in card
    identity = checkpoints.identify(folder)
    assert (identity.family, identity.class_names[0]) == ("tome", "class 0")


def test_what_timm_alone_does_not_build_is_refused(tmp_path: Path):
    clips = run_file(tmp_path / "clips.ckpt", Clip(8, 32, 2, 8, channels=1))
    with pytest.raises(UsageError, match=r"has a Clip input\. Write --format safetensors"):
        export_model(tmp_path / "out", ckpt=clips, format=FOLDER)
    eps = run_file(tmp_path / "eps.ckpt", vit={"norm_eps": 1e-12})
    with pytest.raises(UsageError, match="epsilon 1e-12"):
        export_model(tmp_path / "out", ckpt=eps, format=FOLDER)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UsageError, match="is there already"):
        export_model(tmp_path / "full", ckpt=run_file(tmp_path / "a.ckpt"), format=FOLDER)


def test_an_epsilon_of_its_own_is_exported_with_its_lines(tmp_path: Path):
    run = run_file(tmp_path / "best.ckpt", vit={"norm_eps": 1e-3})
    exported = export_model(tmp_path / "out.safetensors", ckpt=run)
    given: dict[str, Any] = {"x": torch.randn(2, *GREY.shape)}
    with torch.no_grad():
        exec("\n".join(exported.usage[:-2]), given)
        expected = load_model(ckpt=run).model.vit(given["x"])
    torch.testing.assert_close(given["logits"], expected, rtol=0, atol=1e-6)
