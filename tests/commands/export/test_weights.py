"""safetensors: strictly timm's, and known to our own loader."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import checkpoints
from tome_lightning.commands.export import ExportMismatchError, export, export_model
from tome_lightning.commands.loaded import load_model
from tome_lightning.inputs import Clip, Image, Input, Spectrogram

from .small import GREY, run_file

INPUTS: dict[str, Input] = {
    "images": GREY,
    "named": Image(size=32, channels=1, timm_model="vit_tiny_patch16_224"),
    "clips": Clip(8, 32, 2, 8, channels=1),
    "sinusoid clips": Clip(8, 32, 2, 8, "sinusoid", 1),
    "sounds": Spectrogram(64, 32, 8, 8, mask_time=0.2),
    "overlapping sounds": Spectrogram(64, 32, 8, 6),
}


def metadata(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="pt") as opened:
        return json.loads(opened.metadata()["tome_lightning"])


@pytest.mark.parametrize("kind", INPUTS)
def test_the_lines_that_are_printed_load_the_file(kind: str, tmp_path: Path):
    r = 1 if kind == "named" else 8
    run = run_file(tmp_path / "best.ckpt", INPUTS[kind], r=r)
    exported = export_model(tmp_path / "out.safetensors", ckpt=run)
    assert exported.difference.largest <= 1e-6
    model = load_model(ckpt=run).model
    x = torch.randn(2, *INPUTS[kind].shape)
    given: dict[str, Any] = {"x": x}
    *lines, merging_import, merging = exported.usage
    with torch.no_grad():
        exec("\n".join(lines), given)
        torch.testing.assert_close(given["logits"], model.vit(x), rtol=0, atol=1e-6)
        exec(f"{merging_import}\n{merging}", given)
        torch.testing.assert_close(given["logits"], model(x), rtol=0, atol=1e-6)
    needs_us = kind in ("clips", "sinusoid clips", "overlapping sounds")
    assert any("tome_lightning" in line for line in lines) == needs_us


@pytest.mark.parametrize(("prop_attn", "family"), [(True, "tome"), (False, "mae")])
def test_the_metadata_say_what_the_weights_are(prop_attn: bool, family: str, tmp_path: Path):
    run = run_file(tmp_path / "best.ckpt", prop_attn=prop_attn)
    file = export_model(tmp_path / "out.safetensors", ckpt=run).file
    told = metadata(file)
    assert (told["r"], told["prop_attn"], told["family"]) == (8, prop_attn, family)
    assert told["class_names"] == [f"class {i}" for i in range(5)]
    # one value for its one channel, though the data's own default has three
    assert (len(told["mean"]), told["averaged"], told["licence"]) == (1, False, None)
    assert told["hyper_parameters"]["vit"]["embed_dim"] == 32
    assert "drop_path_rate" not in told["hyper_parameters"]["vit"]
    assert checkpoints.identify(file).family == family
    assert str(tmp_path) not in json.dumps(told)
    assert load_file(file).keys() == load_model(ckpt=run).model.vit.state_dict().keys()
    overruled = export_model(file, ckpt=run, prop_attn=not prop_attn, force=True).file
    assert checkpoints.PROP_ATTN[checkpoints.identify(overruled).family] != prop_attn


def test_a_spectrograms_mel_grid_is_kept(tmp_path: Path):
    sounds = Spectrogram(64, 32, 8, 8)
    run = run_file(tmp_path / "best.ckpt", sounds, multi_label=True)
    file = export_model(tmp_path / "out.safetensors", ckpt=run).file
    longer = Spectrogram(96, 32, 8, 8).build(
        embed_dim=32, depth=2, num_heads=2, mlp_ratio=2.0, num_classes=5
    )
    ours, theirs = (checkpoints.load(longer, path).notes for path in (file, run))
    assert ours == theirs
    assert checkpoints.reading.read(file).mel_grid == (8, 4)


def test_a_file_that_lacks_a_weight_is_not_kept(tmp_path: Path, monkeypatch: Any):
    run = run_file(tmp_path / "best.ckpt")
    write = export.write_weights

    def forgetful(loaded: Any, about: Any, file: Path) -> None:
        vit = loaded.model.vit
        del vit.blocks[1]
        write(loaded, about, file)

    monkeypatch.setattr(export, "write_weights", forgetful)
    with pytest.raises(ExportMismatchError, match=r"(?s)strictly.*blocks\.1.*was not written"):
        export_model(tmp_path / "out.safetensors", ckpt=run)
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]
