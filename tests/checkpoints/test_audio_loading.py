"""AudioMAE files in spectrogram models, against the original architecture in plain torch."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer
from torch.nn import functional as F

from checkpoints import CheckpointError, load

DTYPE = torch.float64  # so that nothing but a wrong formula can differ
FRESH_NORM = {"fc_norm.weight": torch.ones(32), "fc_norm.bias": torch.zeros(32)}


def norm(x, weights, name):
    w, b = weights[f"{name}.weight"], weights[f"{name}.bias"]
    deviation = x - x.mean(-1, keepdim=True)
    return deviation / (deviation.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w + b


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def straight_audiomae(weights, spectrograms, stride=16, heads=4, depth=2):
    """Protocol 1.2, AudioMAE: [B, 1, time, mels]; mean over patches, then fc_norm, then head."""
    kernel = weights["patch_embed.proj.weight"]
    cut = spectrograms[:, 0].unfold(1, 16, stride).unfold(2, 16, stride)  # [B, T, F, 16, 16]
    patches = torch.einsum("btfij,dij->btfd", cut, kernel[:, 0]) + weights["patch_embed.proj.bias"]
    table = weights["pos_embed"]
    x = patches.flatten(1, 2) + table[:, 1:]  # row-major: time slowest
    x = torch.cat([(weights["cls_token"] + table[:, :1]).expand(len(x), -1, -1), x], 1)
    for block in (f"blocks.{i}" for i in range(depth)):
        qkv = linear(norm(x, weights, f"{block}.norm1"), weights, f"{block}.attn.qkv")
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
        mixed = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), weights, f"{block}.attn.proj")
        hidden = linear(norm(x, weights, f"{block}.norm2"), weights, f"{block}.mlp.fc1")
        x = x + linear(F.gelu(hidden), weights, f"{block}.mlp.fc2")
    return linear(norm(x[:, 1:].mean(1), weights, "fc_norm"), weights, "head")


@pytest.fixture
def spectrograms():
    generator = torch.Generator().manual_seed(9)
    return torch.randn(1, 1, 1024, 128, generator=generator, dtype=DTYPE)


def double(weights):
    return {name: value.to(DTYPE) for name, value in weights.items()}


def head_of(vit):
    return {n: v.clone() for n, v in vit.state_dict().items() if n.startswith("head.")}


def assert_computes(vit, expected, inputs):
    with torch.no_grad():
        torch.testing.assert_close(vit(inputs), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("stride", [16, 10])
def test_a_fine_tuned_audiomae_gives_the_original_formulas_logits(
    audiomae, build_audio, overlap_embed, save, spectrograms, stride
):
    rows, changes = {16: (512, {}), 10: (1212, {"embed_layer": overlap_embed})}[stride]
    weights, vit = double(audiomae("fine-tuned", rows)), build_audio(**changes).to(DTYPE)
    report = load(vit, save(weights))
    assert_computes(vit, straight_audiomae(weights, spectrograms, stride), spectrograms)
    assert (report.family, report.kind) == ("audiomae", "fine-tuned")
    assert report.matched == tuple(vit.state_dict())
    assert report.new == report.reshaped == report.dropped == ()


@pytest.mark.parametrize("kind", ["full", "encoder"])
def test_a_pretrained_audiomae_starts_a_fresh_norm_and_head(
    audiomae, build_audio, save, spectrograms, kind
):
    weights, vit = double(audiomae(kind)), build_audio(num_classes=50).to(DTYPE)
    head = head_of(vit)
    report = load(vit, save(weights))
    expected = straight_audiomae(weights | double(FRESH_NORM) | head, spectrograms)
    assert_computes(vit, expected, spectrograms)
    assert (report.family, report.kind) == ("audiomae", kind)
    assert (report.new, report.reshaped) == ((*FRESH_NORM, *head), ())
    decoder = {name for name in weights if name.startswith(("decoder", "mask_token"))}
    assert set(report.dropped) == decoder | {"norm.weight", "norm.bias"}
    if kind == "full":
        swin = {f"decoder_blocks.1.attn.{part}" for part in ("tau", "meta_mlp.fc1.weight")}
        assert swin <= set(report.dropped)


def test_a_training_save_and_safetensors_hold_audio_too(
    audiomae, build_audio, tmp_path, spectrograms
):
    weights, vit = double(audiomae("fine-tuned")), build_audio().to(DTYPE)
    args = argparse.Namespace(output_dir=Path("/runs/as2m"), blr=2e-4, use_custom_patch=False)
    torch.save({"model": weights, "epoch": 60, "args": args}, tmp_path / "finetuned.pth")
    save_file(weights, tmp_path / "audio.safetensors")
    for name in ("finetuned.pth", "audio.safetensors"):
        torch.nn.init.zeros_(vit.head.weight)
        load(vit, tmp_path / name)
        assert_computes(vit, straight_audiomae(weights, spectrograms), spectrograms)


def test_the_published_models_size_is_the_sheets():
    with torch.device("meta"):
        vit = VisionTransformer(
            img_size=(1024, 128), patch_size=16, in_chans=1, global_pool="avg", num_classes=527
        )
    assert vit.patch_embed.grid_size == (64, 8)
    count = sum(parameter.numel() for parameter in vit.parameters())
    assert count - vit.pos_embed.numel() == 85_659_407
    assert count == 86_053_391


@pytest.mark.parametrize("kind", ["full", "fine-tuned"])
@pytest.mark.parametrize("rows", [512, 1212])
def test_positions_are_the_files_bit_by_bit(audiomae, build_audio, overlap_embed, save, kind, rows):
    weights = audiomae(kind, rows)
    vit = build_audio(**({"embed_layer": overlap_embed} if rows == 1212 else {}))
    load(vit, save(weights))
    assert torch.equal(vit.pos_embed, weights["pos_embed"])


@pytest.mark.parametrize(("classes", "head"), [(527, False), (50, True)])
def test_an_audio_head_unwanted_or_of_other_classes_stays_the_models(
    audiomae, build_audio, save, classes, head
):
    vit = build_audio(num_classes=classes)
    before = vit.head.weight.clone()
    report = load(vit, save(audiomae("fine-tuned")), head=head)
    assert torch.equal(vit.head.weight, before)
    assert report.new == report.dropped == ("head.weight", "head.bias")
    assert "fc_norm.weight" in report.matched


def test_the_converter_leaves_its_input_alone(audiomae):
    from checkpoints import audiomae as layout

    weights = audiomae("encoder")
    before = dict(weights)
    converted = layout.convert(weights)
    del converted["cls_token"]
    assert list(weights) == list(before)
    assert all(weights[name] is before[name] for name in before)


def ours(vit, family="mae", **input_):
    """What a run saves (input_: the Spectrogram's numbers, left out of its hyper-parameters if none)."""
    saved = {"state_dict": {f"model.vit.{n}": v for n, v in vit.state_dict().items()}}
    if input_:
        described = {"class_path": "tome_lightning.inputs.Spectrogram", "init_args": input_}
        saved["hyper_parameters"] = {"input": described, "r": 4}
    return saved | {"tome_lightning": {"family": family}}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("frames", "mels"),
    [(1024, 128), (512, 128), (512, 256), (128, 128), (256, 512), (64, 16), (80, 48)],
)
def test_sound_of_ours_comes_back_as_it_was(build_audio, tmp_path, frames, mels, told):
    # 512x256 has 512 patches and 512x128 has 16x16: neither AudioMAE's 64x8 nor an image's.
    made = build_audio(frames, mels)
    numbers = {"frames": frames, "mels": mels, "patch": 16, "stride": 16} if told else {}
    torch.save(ours(made, **numbers), tmp_path / "last.ckpt")
    vit = build_audio(frames, mels)
    torch.nn.init.zeros_(vit.pos_embed)
    report = load(vit, tmp_path / "last.ckpt")
    assert (report.matched, report.notes) == (tuple(made.state_dict()), {})
    assert torch.equal(vit.pos_embed, made.pos_embed)
    assert not told or report.family == "audiomae"


@pytest.mark.parametrize("family", ["mae", "tome"])
def test_sound_of_ours_that_fills_a_square_is_known_by_its_input(build_audio, tmp_path, family):
    made, vit = build_audio(512, 128), build_audio(256, 128)  # 16x16 patches, were it an image
    saved = ours(made, family, frames=512, mels=128, patch=16, stride=16)
    torch.save(saved, tmp_path / "last.ckpt")
    report = load(vit, tmp_path / "last.ckpt")
    assert report.family == ("audiomae" if family == "mae" else "tome")
    assert report.notes == {"pos_embed": "trimmed from 32 to 16 time steps"}
    assert torch.equal(vit.pos_embed, made.pos_embed[:, : 1 + 16 * 8])


def test_sound_of_ours_that_fills_a_square_is_known_by_its_family(build_audio, tmp_path):
    made = build_audio(512, 128)
    torch.save(ours(made, "audiomae"), tmp_path / "last.ckpt")
    report = load(build_audio(), tmp_path / "last.ckpt")
    assert report.notes == {"pos_embed": "interpolated along time from 32 to 64 steps"}


def test_an_overlapping_grid_of_ours_is_known_by_its_input(build_audio, overlap_embed, tmp_path):
    made = build_audio(514, 128, embed_layer=overlap_embed)
    assert made.patch_embed.grid_size == (50, 12)
    saved = ours(made, frames=514, mels=128, patch=16, stride=10)
    torch.save(saved, tmp_path / "last.ckpt")
    longer = build_audio(embed_layer=overlap_embed)
    assert load(longer, tmp_path / "last.ckpt").notes == {
        "pos_embed": "interpolated along time from 50 to 101 steps"
    }
    with pytest.raises(CheckpointError, match=r"50x12 patches .*, the model's 64x8.*to get 12"):
        load(build_audio(), tmp_path / "last.ckpt")  # 600 rows are 75x8 too


@pytest.mark.parametrize(
    "spoilt",
    [{}, {"frames": 512}, {"frames": None, "mels": 128, "patch": 16, "stride": 16}, [512, 128]],
)
def test_hyper_parameters_that_say_no_input_are_passed_over(build_audio, tmp_path, spoilt):
    made = build_audio(512, 128)
    saved = ours(made, frames=512)
    saved["hyper_parameters"]["input"]["init_args"] = spoilt
    torch.save(saved, tmp_path / "last.ckpt")
    assert load(build_audio(512, 128), tmp_path / "last.ckpt").notes == {}


REFUSALS = {
    "audio file, RGB image model": (
        lambda f: f("audiomae")("full"),
        lambda f: f("build")(patch_size=16),
        r"spectrogram checkpoint \(audiomae\).*images of 3 channels: use a Spectrogram input, or a "
        r"checkpoint of images \(mae, tome, timm\)$",
    ),
    "audio file, video model": (
        lambda f: f("audiomae")("full"),
        lambda f: f("build_video")(),
        r"spectrogram checkpoint .*takes clips: use a Spectrogram input, or a checkpoint of video",
    ),
    "video file, audio model": (
        lambda f: f("mae_st")("full"),
        lambda f: f("build_audio")(),
        r"a mae_st video checkpoint, with patches of 2 frames.*use a Clip input.*\(audiomae\)$",
    ),
    "VideoMAE file, audio model": (
        lambda f: f("videomae")("full"),
        lambda f: f("build_audio")(),
        r"a videomae video checkpoint.*use a Clip input",
    ),
    "image file of other patches, audio model": (
        lambda f: f("official")("encoder"),
        lambda f: f("build_audio")(),
        r"patches are 3x8x8 \(channels x size\), the model's 1x16x16",
    ),
    "other patches": (
        lambda f: f("audiomae")("encoder"),
        lambda f: f("build_audio")(patch_size=8),
        r"patches are 1x16x16 \(channels x size\), the model's 1x8x8",
    ),
    "other depth": (
        lambda f: f("audiomae")("encoder"),
        lambda f: f("build_audio")(depth=3),
        "the file has 2 blocks of width 32; the model has 3 of 32",
    ),
    "no class token in the model": (
        lambda f: f("audiomae")("encoder"),
        lambda f: f("build_audio")(class_token=False),
        r"set model\.vit\.class_token: true$",
    ),
    "head of the mean, model of the class token": (
        lambda f: f("audiomae")("fine-tuned"),
        lambda f: f("build_audio")(global_pool="token"),
        r'last norm goes with average pooling.*global_pool="avg"',
    ),
    "other mels": (
        lambda f: f("audiomae")("encoder"),
        lambda f: f("build_audio")(mels=64),
        r"64x8 patches \(time x mels\), the model's 64x4, and only time is resampled: set "
        r"model\.input\.mels and model\.input\.stride to get 8 \(128 mels give 8 at stride 16",
    ),
    "other mels, as many patches": (
        lambda f: f("audiomae")("encoder"),
        lambda f: f("build_audio")(512, 256),
        r"64x8 patches \(time x mels\), the model's 32x16",
    ),
    "stride 10 in a model of stride 16": (
        lambda f: f("audiomae")("encoder", 1212),
        lambda f: f("build_audio")(),
        r"101x12 patches \(time x mels\), the model's 64x8.* to get 12 .*12 at stride 10\)$",
    ),
    "stride 10 in a model that its count would fit": (
        lambda f: f("audiomae")("encoder", 1212),
        lambda f: f("build_audio")(mels=64),  # 1212 = 303x4
        r"101x12 patches \(time x mels\), the model's 64x4",
    ),
    "a count of no such mels": (
        lambda f: f("audiomae")("encoder", 500),
        lambda f: f("build_audio")(),
        r"500 positions beside .*no multiple of the model's 8 patches",
    ),
    "a prefix row too many": (
        lambda f: f("audiomae")("encoder"),
        lambda f: f("build_audio")(reg_tokens=1),
        r"511 positions beside .*not its 64x8 patches",
    ),
    "a grey square that may be sound": (
        lambda f: f("audiomae")("encoder", 256),
        lambda f: f("build_audio")(),
        r"256 positions may be 16x16 of a grey image or 32x8 of a spectrogram.*give the \.ckpt",
    ),
    "a table of another width": (
        lambda f: f("audiomae")("encoder") | {"pos_embed": torch.zeros(1, 513, 16)},
        lambda f: f("build_audio")(),
        r"pos_embed is \[1, 513, 16\].*\[1, rows, 32\]",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(request, assert_refused, case):
    make, model, line = REFUSALS[case]
    weights, vit = make(request.getfixturevalue), model(request.getfixturevalue)
    assert_refused(weights, vit, line)
