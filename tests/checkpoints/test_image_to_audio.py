"""Image checkpoints as a start for spectrogram models."""

import pytest
import timm
import torch
from timm.models import VisionTransformerDistilled, _builder

from checkpoints import interpolate_positions, load

KERNEL = "patch_embed.proj.weight"
SUMMED = "3 colours summed to 1 channel"


def test_a_model_of_one_channel_computes_what_the_rgb_one_does_of_grey_images(
    official, build, save
):
    weights = {name: value.double() for name, value in official("fine-tuned").items()}
    path, rgb, mono = save(weights), build().double(), build(in_chans=1).double()
    load(rgb, path)
    report = load(mono, path)
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():  # float64: only the order of summation differs
        torch.testing.assert_close(
            mono(images), rgb(images.expand(-1, 3, -1, -1)), atol=1e-10, rtol=1e-10
        )
    assert (report.reshaped, report.notes) == ((KERNEL,), {KERNEL: SUMMED})
    assert report.matched == tuple(name for name in mono.state_dict() if name != KERNEL)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_image_mae_starts_a_spectrogram_model(official, build_audio, save, pool):
    weights = official("full", patch=16) | {"pos_embed": torch.randn(1, 197, 32)}
    vit = build_audio(global_pool=pool)
    report = load(vit, save(weights))
    assert (report.family, report.kind) == ("mae", "full")
    assert report.reshaped == ("pos_embed", KERNEL)
    assert report.notes == {"pos_embed": "resized from 14x14 to 64x8", KERNEL: SUMMED}
    expected = interpolate_positions(weights["pos_embed"], (64, 8), num_prefix=1)
    assert torch.equal(vit.pos_embed, expected)
    assert torch.equal(vit.pos_embed[:, :1], weights["pos_embed"][:, :1])
    assert torch.equal(vit.patch_embed.proj.weight, weights[KERNEL].sum(1, keepdim=True))
    assert str(report).splitlines()[3:6] == [
        "  reshaped    2  pos_embed, patch_embed.proj.weight",
        "    pos_embed: resized from 14x14 to 64x8",
        "    patch_embed.proj.weight: 3 colours summed to 1 channel",
    ]


def test_a_supervised_image_classifier_starts_a_spectrogram_model(build, build_audio, save):
    made = build(patch_size=16, img_size=64, global_pool="token")
    vit = build_audio(global_pool="token", num_classes=50)
    report = load(vit, save(made.state_dict()))
    assert (report.family, report.kind) == ("timm", "fine-tuned")
    assert report.new == report.dropped == ("head.weight", "head.bias")
    assert torch.equal(vit.norm.weight, made.norm.weight)
    assert report.notes == {"pos_embed": "resized from 4x4 to 64x8", KERNEL: SUMMED}


def test_a_timm_tag_starts_a_spectrogram_model(monkeypatch):
    published = timm.create_model("test_vit").state_dict()
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *_, **__: dict(published))
    vit = timm.create_model("test_vit", img_size=(256, 128), in_chans=1, num_classes=5)
    report = load(vit, "test_vit.r160_in1k")
    assert report.notes == {"pos_embed": "resized from 10x10 to 16x8", KERNEL: SUMMED}
    assert torch.equal(vit.patch_embed.proj.weight, published[KERNEL].sum(1, keepdim=True))


def test_an_images_rows_are_never_those_of_as_many_spectrogram_patches(official, build_audio, save):
    weights = official("encoder", patch=16) | {"pos_embed": torch.randn(1, 197, 32)}
    vit = build_audio(784, 64)
    assert vit.patch_embed.grid_size == (49, 4)  # 196 too
    assert load(vit, save(weights)).notes["pos_embed"] == "resized from 14x14 to 49x4"
    assert torch.equal(vit.pos_embed, interpolate_positions(weights["pos_embed"], (49, 4), 1))


def test_a_grey_image_starts_a_spectrogram_model_where_it_can_be_nothing_else(
    official, build_audio, save
):
    weights = official("encoder", patch=16)
    weights |= {"pos_embed": torch.randn(1, 197, 32), KERNEL: torch.randn(32, 1, 16, 16)}
    vit = build_audio()  # 196 patches are no multiple of 8
    report = load(vit, save(weights))
    assert report.notes == {"pos_embed": "resized from 14x14 to 64x8"}
    assert torch.equal(vit.patch_embed.proj.weight, weights[KERNEL])


def test_half_precision_colours_are_summed_in_float32(official, build, save):
    weights = {name: value.half() for name, value in official("encoder").items()}
    vit = build(in_chans=1)
    load(vit, save(weights))
    assert torch.equal(vit.patch_embed.proj.weight, weights[KERNEL].float().sum(1, keepdim=True))


def distilled(**changes):
    small = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}
    return VisionTransformerDistilled(**(small | changes))


def test_a_distilled_model_is_started_with_both_prefix_rows(save):
    made, vit = distilled(img_size=64), distilled(img_size=(256, 128), in_chans=1)
    report = load(vit, save(made.state_dict()))
    assert report.notes == {"pos_embed": "resized from 4x4 to 16x8", KERNEL: SUMMED}
    assert torch.equal(vit.pos_embed[:, :2], made.pos_embed[:, :2])


REFUSALS = {
    "a distilled file": (
        lambda f: distilled(img_size=224).state_dict(),
        lambda f: f("build_audio")(),
        r"198 rows, of which 197 remain .* fill no square",
    ),
    "other than three colours": (
        lambda f: f("official")("encoder") | {KERNEL: torch.zeros(32, 4, 8, 8)},
        lambda f: f("build")(in_chans=1),
        r"patches are 4x8x8 .* the model's 1x8x8",
    ),
    "clips of colours": (
        lambda f: f("mae_st")("full"),
        lambda f: f("build_video")(channels=1),
        r"patches are 3x2x8x8 .* the model's 1x2x8x8",
    ),
    "inflated colours": (
        lambda f: f("official")("encoder"),
        lambda f: f("build_video")(channels=1),
        r"patches are 3x2x8x8 .* the model's 1x2x8x8",
    ),
    "another depth": (
        lambda f: f("official")("encoder", patch=16),
        lambda f: f("build_audio")(depth=3),
        r"2 blocks of width 32; the model has 3",
    ),
    "no class token in the model": (
        lambda f: f("official")("encoder", patch=16),
        lambda f: f("build_audio")(class_token=False),
        r"set model\.vit\.class_token: true$",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_start_a_model_is_refused_and_changes_nothing(request, assert_refused, case):
    make, model, line = REFUSALS[case]
    weights, vit = make(request.getfixturevalue), model(request.getfixturevalue)
    assert_refused(weights, vit, line, inflate=case == "inflated colours")


def test_summing_leaves_its_input_alone(official):
    from checkpoints.colours import sum_colours

    weights = official("encoder")
    kernel = weights[KERNEL].clone()
    assert sum_colours(weights)[KERNEL].shape == (32, 1, 8, 8)
    assert torch.equal(weights[KERNEL], kernel)
