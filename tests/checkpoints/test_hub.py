"""Repositories by name, from a server of this machine that answers as the Hub does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from checkpoints import CheckpointError, identify, load
from checkpoints.hub import fetch, parse
from tome_lightning.inputs import Clip, Image, Spectrogram

from ..hub_server import COMMIT, hub_of

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2}
ERRORS = {"owner/gated": (403, "GatedRepo"), "owner/broken": (400, "")}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with hub_of(tmp_path, monkeypatch, ERRORS) as root:
        yield root


def publish(root: Path, suffix: str = "safetensors") -> dict[str, torch.Tensor]:
    """A timm repository of a small ViT, with code and a file that nobody asks for."""
    folder = root / "owner" / "small"
    folder.mkdir()
    vit = Image(size=32, patch=8).build(num_classes=3, **VIT)
    config = {
        "architecture": "vit_base_patch16_224", "num_classes": 3, "global_pool": "token",
        "label_names": ["cat", "dog", "owl"],
        "model_args": {"img_size": 32, "patch_size": 8, **VIT},
        "pretrained_cfg": {
            "input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic", "crop_pct": 0.9,
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    if suffix == "safetensors":
        save_file(vit.state_dict(), folder / "model.safetensors")
    else:
        torch.save(vit.state_dict(), folder / "pytorch_model.bin")
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "flax_model.msgpack").write_bytes(b"0" * 100)
    return dict(vit.state_dict())


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_repository_is_fetched_once_and_loaded(hub: Path, suffix: str):
    values = publish(hub, suffix)
    model = Image(size=32, patch=8).build(num_classes=3, global_pool="token", **VIT)
    report = load(model, "hf-hub:owner/small")
    assert not report.new
    assert all(torch.equal(values[name], value) for name, value in model.state_dict().items())
    folder = fetch("hf-hub:owner/small")
    assert not (folder / "modeling.py").exists()
    assert not (folder / "flax_model.msgpack").exists()
    identity = identify(f"hf-hub:owner/small@{COMMIT}")
    assert (identity.class_names, identity.pooling) == (("cat", "dog", "owl"), "token")
    known = identity.preprocessing
    assert (known.size, known.interpolation, known.crop_pct) == (32, "bicubic", 0.9)


def test_what_is_in_the_cache_needs_no_network(hub: Path, monkeypatch: pytest.MonkeyPatch):
    publish(hub)
    folder = fetch("hf-hub:owner/small")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("hf-hub:owner/small") == folder


def test_our_reading_of_a_timm_folder_is_timms(hub: Path):
    publish(hub)
    folder = fetch("hf-hub:owner/small")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours = Image(size=32, patch=8).build(num_classes=3, global_pool="token", **VIT).eval()
    load(ours, folder)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf-hub:owner/none", "is not on the Hub, or is private"),
        ("hf-hub:owner/small@old", "has no revision old"),
        ("hf-hub:owner/gated", "asks for its terms to be accepted"),
        ("hf-hub:owner/broken", "cannot be fetched .*hf download owner/broken"),
        ("hf-hub:owner/empty", "no weights that can be read"),
        ("hf-hub:small", "write hf-hub:OWNER/NAME"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(hub: Path, name: str, words: str):
    publish(hub)
    (hub / "owner" / "empty").mkdir()
    (hub / "owner" / "empty" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=words) as refusal:
        fetch(name)
    assert "\n" not in str(refusal.value)


def test_without_network_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="hf download owner/small --local-dir FOLDER"):
        fetch("hf-hub:owner/small")


def test_a_name_has_an_owner_and_may_have_a_revision():
    assert parse("hf-hub:a/b") == ("a/b", None)
    assert parse("hf-hub:a/b-1.x@refs/pr/1") == ("a/b-1.x", "refs/pr/1")


def test_a_look_fetches_the_config_alone(hub: Path):
    publish(hub)
    identity = identify("hf-hub:owner/small")
    assert (identity.depth, identity.width, identity.num_classes) == (2, 32, 3)
    assert (identity.kind, identity.pooling, identity.class_names[0]) == (
        "fine-tuned",
        "token",
        "cat",
    )
    assert not any((hub.parent / "hub").rglob("model.safetensors"))
    fetch("hf-hub:owner/small")
    assert identify("hf-hub:owner/small") == identity


@torch.no_grad()
def test_timms_port_of_audiomae_is_a_spectrogram_model_of_its_grid(tmp_path: Path):
    # its positions alone do not tell 8x4 patches from others; the config does
    theirs = Spectrogram(frames=64, mels=32, patch=8, stride=8).build(num_classes=3, **VIT).eval()
    config = {
        "architecture": "vit_base_patch16_224", "num_classes": 3, "global_pool": "avg",
        "model_args": {"img_size": [64, 32], "patch_size": 8, "in_chans": 1, **VIT},
        "pretrained_cfg": {"input_size": [1, 64, 32], "mean": [0.5], "std": [0.5]},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    identity = identify(tmp_path)
    assert (identity.family, identity.pooling) == ("audiomae", "avg")
    assert identity.preprocessing.mean == (-4.2677393,)  # timm's are of images
    sounds = torch.randn(2, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    ours = Spectrogram(frames=64, mels=32, patch=8, stride=8).build(num_classes=3, **VIT).eval()
    load(ours, tmp_path)
    assert torch.equal(ours(sounds), theirs(sounds))
    shorter = Spectrogram(frames=48, mels=32, patch=8, stride=8).build(num_classes=3, **VIT)
    assert load(shorter, tmp_path).notes["pos_embed"] == "trimmed from 8 to 6 time steps"
    with pytest.raises(CheckpointError, match="use a Spectrogram input"):
        load(Image(size=32, patch=8).build(num_classes=3, **VIT), tmp_path)


def test_videomae_v2_has_the_names_of_videomae(tmp_path: Path, videomae: Any):
    weights = {f"model.{name}": value for name, value in videomae("fine-tuned").items()}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"model_type": "VideoMAEv2_Base", "auto_map": {"x": "y"}}'
    )
    identity = identify(tmp_path)
    assert (identity.family, identity.kind, identity.positions) == (
        "videomae",
        "fine-tuned",
        "sinusoid",
    )
    clip = Clip(frames=6, size=32, patch=8, positions="sinusoid", key_bias=False)
    model = clip.build(num_classes=7, embed_dim=32, depth=2, num_heads=4)
    assert not load(model, tmp_path).new
