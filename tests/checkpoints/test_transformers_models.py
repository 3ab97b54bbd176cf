"""Folders that transformers saves, held against transformers itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import SwiGLUPacked
from torch import Tensor

pytest.importorskip("transformers")

import transformers
from safetensors.torch import load_file, save_file

import tome_lightning
from checkpoints import CheckpointError, identify, load
from tome_lightning.inputs import Clip, Image, Spectrogram

from . import hub_files as hub
from .hub_files import VIT, saved

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
CLIPS = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(2))  # time first
SOUNDS = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(3))
CLIP = Clip(frames=4, size=32, patch=8, positions="sinusoid", key_bias=False)
SPECTROGRAM = Spectrogram(frames=64, mels=32, patch=16, stride=10)


def image_vit(**more: Any) -> Any:
    return Image(size=32, patch=8).build(**{"global_pool": "token", **VIT, **more}).eval()


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-5
    assert theirs.std() > 0.1  # so that a wrong weight would show


@torch.no_grad()
def test_a_classifier_of_images(tmp_path: Path):
    theirs = hub.vit()
    ours = image_vit(num_classes=3)
    report = load(ours, saved(theirs, tmp_path))
    assert not report.new
    assert not report.dropped
    logits = theirs(IMAGES).logits
    assert_equal(ours(IMAGES), logits)
    assert_equal(tome_lightning.patch(ours, r=0)(IMAGES), logits)
    identity = identify(tmp_path)
    assert (identity.family, identity.kind, identity.pooling) == ("timm", "fine-tuned", "token")
    assert identity.class_names == ("cat", "dog", "owl")


@torch.no_grad()
def test_a_pre_trained_mae(tmp_path: Path):
    theirs, ours = hub.vit_mae(), image_vit(num_classes=0)
    report = load(ours, saved(theirs, tmp_path))
    assert not report.new
    assert all(name.startswith("decoder") for name in report.dropped)
    order = torch.arange(16.0).expand(2, -1)
    assert_equal(ours.forward_features(IMAGES), theirs.vit(IMAGES, noise=order).last_hidden_state)
    identity = identify(tmp_path)
    assert (identity.family, identity.kind, identity.class_names) == ("mae", "full", ())


@torch.no_grad()
@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov2(tmp_path: Path, registers: bool, swiglu: bool):
    theirs = hub.dinov2(registers, swiglu)
    more: dict[str, Any] = {"reg_tokens": 4, "no_embed_class": True} if registers else {}
    if swiglu:  # two thirds of the hidden width, up to a multiple of 8, twice
        more |= {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 2 * 48 / 32}
    ours = image_vit(num_classes=0, init_values=1.0, **more)
    assert not load(ours, saved(theirs, tmp_path)).new
    features = theirs.base_model(IMAGES).last_hidden_state
    assert_equal(ours.forward_features(IMAGES), features)
    assert identify(tmp_path).family == "dinov2"


@torch.no_grad()
def test_a_classifier_of_clips(tmp_path: Path):
    theirs, ours = hub.videomae(tuned=True), CLIP.build(num_classes=3, **VIT).eval()
    report = load(ours, saved(theirs, tmp_path))
    assert not report.new
    assert not report.dropped
    logits = theirs(CLIPS).logits
    assert_equal(ours(CLIPS.transpose(1, 2)), logits)
    assert_equal(tome_lightning.patch(ours, r=0)(CLIPS.transpose(1, 2)), logits)
    identity = identify(tmp_path)
    assert (identity.family, identity.tubelet, identity.num_classes) == ("videomae", 2, 3)


@torch.no_grad()
def test_a_pre_trained_videomae(tmp_path: Path):
    theirs = hub.videomae(tuned=False, mean_pooling=False)  # as published: ends in a norm
    ours = CLIP.build(num_classes=0, fc_norm=False, **VIT).eval()
    report = load(ours, saved(theirs, tmp_path))
    assert not report.new
    assert all(n.startswith(("decoder", "encoder_to", "mask_token")) for n in report.dropped)
    features = theirs.videomae(CLIPS).last_hidden_state
    assert_equal(ours.forward_features(CLIPS.transpose(1, 2)), features)


@torch.no_grad()
def test_ast_is_a_start_for_spectrograms(tmp_path: Path):
    theirs = hub.ast()
    ours = SPECTROGRAM.build(num_classes=0, global_pool="token", reg_tokens=1, **VIT).eval()
    assert not load(ours, saved(theirs, tmp_path)).new
    tokens = ours.forward_features(SOUNDS[:, None])
    pooled = theirs.audio_spectrogram_transformer(SOUNDS).pooler_output
    assert_equal((tokens[:, 0] + tokens[:, 1]) / 2, pooled)
    identity = identify(tmp_path)
    assert (identity.family, identity.kind) == ("ast", "encoder")


@torch.no_grad()
@pytest.mark.parametrize("make", [hub.vit, lambda: hub.videomae(True), hub.ast])
def test_names_of_a_model_in_memory_are_known_too(tmp_path: Path, make: Any):
    # as a training framework saves a module, under a prefix of its own
    theirs = make()
    saved(theirs, tmp_path)
    inner = {f"model.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": inner}, tmp_path / "run.ckpt")
    file, folder = _encoder(tmp_path / "run.ckpt"), _encoder(tmp_path)
    assert file.keys() >= folder.keys() - {"reg_token"}
    turned = {"patch_embed.proj.weight", "pos_embed"} if "reg_token" in folder else set()
    for name in folder.keys() & file.keys() - turned:
        assert torch.equal(file[name], folder[name])


def _encoder(path: Path) -> dict[str, Tensor]:
    from checkpoints.opening import open_checkpoint

    return dict(open_checkpoint(path).weights)


def test_shards_are_one_model(tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    theirs = hub.vit()
    saved(theirs, whole)
    saved(theirs, parts, max_shard_size="20KB")
    assert len(list(parts.glob("model-*.safetensors"))) > 2
    a, b = _encoder(whole), _encoder(parts)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_file_that_torch_saved_is_read_as_well(tmp_path: Path):
    saved(hub.vit(), tmp_path)
    content = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert _encoder(tmp_path)["blocks.0.attn.qkv.weight"].shape == (96, 32)


def test_the_processor_says_how_samples_are_prepared(tmp_path: Path):
    image = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, resample=3)
    saved(hub.vit(), tmp_path / "image", image)
    known = identify(tmp_path / "image").preprocessing
    assert (known.mean, known.std) == (tuple(image.image_mean), tuple(image.image_std))
    assert (known.size, known.interpolation, known.crop_pct) == (32, "bicubic", 1.0)
    video = transformers.VideoMAEImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, do_center_crop=True
    )
    saved(hub.videomae(True), tmp_path / "video", video)
    known = identify(tmp_path / "video").preprocessing
    assert (known.size, known.crop_pct, known.interpolation) == (32, 0.8, "bilinear")
    sound = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=64, mean=-4.0, std=3.0)
    saved(hub.ast(), tmp_path / "sound", sound)
    known = identify(tmp_path / "sound").preprocessing
    assert (known.mean, known.std) == ((-4.0,), (3.0,))


def _shard_gone(folder: Path) -> None:
    next(folder.glob("model-00002-*")).unlink()


def _weights_gone(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()


def _cut(folder: Path) -> None:
    file = next(folder.glob("model-00001-*"))
    file.write_bytes(file.read_bytes()[:-100])


def _outside(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["vit.layernorm.bias"] = "../model.safetensors"
    index.write_text(json.dumps(content))


def _twice(folder: Path) -> None:
    first, second = sorted(folder.glob("model-*"))[:2]
    save_file(load_file(first) | load_file(second), second)


def _other_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "swin"}')


def _no_kind(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("<html>")


def _key_gone(folder: Path) -> None:
    for file in folder.glob("model-*"):
        kept = {
            k: v for k, v in load_file(file).items() if "layer.1.attention.attention.key" not in k
        }
        save_file(kept, file)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_shard_gone, "lacks 1 of its"),
        (_weights_gone, "has no weights|has a config.json and no weights|names no shards"),
        (_cut, "cannot be read as safetensors"),
        (_outside, "no file of its own folder"),
        (_twice, "that another shard has, too"),
        (_other_kind, "model_type 'swin'"),
        (_no_kind, "neither timm's `architecture`"),
        (_no_json, "cannot be read"),
        (_key_gone, "lacks its k"),
    ],
)
def test_a_spoilt_folder_is_refused_in_a_line(tmp_path: Path, folder: Path, spoil: Any, words: str):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    spoil(copy)
    model = image_vit(num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as refusal:
        load(model, copy)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(hub.vit(), tmp_path_factory.mktemp("hub"), max_shard_size="20KB")


@pytest.mark.parametrize(
    "make",
    [hub.vit, hub.vit_mae, lambda: hub.dinov2(True), lambda: hub.videomae(True),
     lambda: hub.videomae(False), hub.ast],
)  # fmt: skip
def test_the_config_alone_says_what_the_weights_say(tmp_path: Path, make: Any):
    from checkpoints.identity import _of_config

    known, whole = _of_config(saved(make(), tmp_path)), identify(tmp_path)
    if whole.family == "dinov2":  # its head is counted, and never loaded
        assert known.num_classes == whole.num_classes
    assert known == whole


@torch.no_grad()
def test_the_published_epsilon_is_that_of_the_model(tmp_path: Path):
    # small weights, for which 1e-12 and timm's 1e-6 are not the same
    theirs = hub.vit(layer_norm_eps=1e-12)
    theirs.vit.embeddings.patch_embeddings.projection.weight.data *= 1e-5
    for name in ("cls_token", "position_embeddings"):
        getattr(theirs.vit.embeddings, name).data *= 1e-4
    theirs.vit.embeddings.patch_embeddings.projection.bias.data *= 1e-4
    saved(theirs, tmp_path)
    eps = identify(tmp_path).config.norm_eps
    ours, other = image_vit(num_classes=3, norm_eps=eps), image_vit(num_classes=3)
    load(ours, tmp_path), load(other, tmp_path)
    logits = theirs(IMAGES).logits
    assert_equal(ours(IMAGES), logits)
    assert (other(IMAGES) - logits).abs().max() > 1e-3
