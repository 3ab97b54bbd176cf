"""Image checkpoints spread over the time of video models."""

import pytest
import torch

from checkpoints import inflate, interpolate_positions, load

KERNEL = "patch_embed.proj.weight"


def still(images, frames=6):
    """A clip [B, C, T, H, W] that shows each image all the time."""
    return images.unsqueeze(2).repeat(1, 1, frames, 1, 1)


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("tubelet", [1, 2, 3])
def test_a_still_clip_has_the_images_patch_embedding(
    official, build, build_video, save, images, tubelet
):
    path, vit, image_vit = save(official("encoder")), build_video(tubelet=tubelet), build()
    load(image_vit, path)
    load(vit, path, inflate=True)
    with torch.no_grad():
        tokens = vit.patch_embed(still(images)).unflatten(1, (6 // tubelet, 16))  # [B, T, S, D]
        expected = image_vit.patch_embed(images)
    for step in tokens.unbind(1):
        torch.testing.assert_close(step, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["separable", "joint"])
def test_a_still_clip_enters_the_blocks_as_the_image_at_every_time(
    official, build, build_video, save, images, positions
):
    path, vit, image_vit = save(official("encoder")), build_video(positions), build()
    load(image_vit, path)
    load(vit, path, inflate=True)
    with torch.no_grad():
        tokens = vit._pos_embed(vit.patch_embed(still(images)))
        expected = image_vit._pos_embed(image_vit.patch_embed(images))
    torch.testing.assert_close(tokens[:, :1], expected[:, :1], atol=0, rtol=0)
    for step in tokens[:, 1:].unflatten(1, (3, 16)).unbind(1):
        torch.testing.assert_close(step, expected[:, 1:], atol=1e-5, rtol=1e-5)


def test_without_class_token_a_still_clip_gets_the_images_logits(
    official, build, build_video, save, images
):
    # Attention over T equal copies of every patch is attention over one.
    weights = official("fine-tuned")
    del weights["cls_token"]
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    path, vit, image_vit = save(weights), build_video(class_token=False), build(class_token=False)
    load(image_vit, path)
    assert load(vit, path, inflate=True).new == ()
    with torch.no_grad():
        torch.testing.assert_close(vit(still(images)), image_vit(images), atol=1e-5, rtol=1e-5)


MADE = {
    "separable": ("pos_embed_spatial", "pos_embed_temporal", "pos_embed_class", KERNEL),
    "joint": ("pos_embed", KERNEL),
    "sinusoid": (KERNEL,),
}


@pytest.mark.parametrize("positions", MADE)
@pytest.mark.parametrize("kind", ["encoder", "full", "fine-tuned"])
def test_the_report_names_what_inflation_made(official, build_video, save, positions, kind):
    weights, vit = official(kind), build_video(positions, class_token=True)
    report = load(vit, save(weights), inflate=True)
    assert (report.family, report.kind) == ("mae", kind)
    assert set(report.reshaped) == set(MADE[positions])
    named = [*report.matched, *report.new, *report.reshaped]
    assert sorted(named) == sorted(vit.state_dict())
    fresh = ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
    assert report.new == (() if kind == "fine-tuned" else fresh)
    dropped = {name for name in weights if name.startswith(("decoder", "mask", "norm."))}
    assert set(report.dropped) == dropped | ({"pos_embed"} if positions == "sinusoid" else set())


@pytest.mark.parametrize("positions", ["separable", "joint"])
def test_inflated_positions_follow_the_frames_size(official, build_video, save, positions):
    # The image's rows are resampled before they are laid out in time, so no grid is guessed.
    weights = official("encoder")
    vit = build_video(positions, frames=8, size=16)
    load(vit, save(weights), inflate=True)
    prefix, places = interpolate_positions(weights["pos_embed"], (2, 2), 1).split([1, 4], 1)
    if positions == "joint":
        assert torch.equal(vit.pos_embed, torch.cat([prefix, places.repeat(1, 4, 1)], 1))
    else:
        assert torch.equal(vit.pos_embed_spatial, places)
        assert torch.equal(vit.pos_embed_class, prefix)
        assert torch.equal(vit.pos_embed_temporal, torch.zeros(1, 4, 32))


@pytest.mark.parametrize("positions", MADE)
def test_inflating_leaves_its_input_alone(official, positions):
    weights = official("encoder")
    before = {name: value.clone() for name, value in weights.items()}
    video = inflate(weights, (3, 6, 6), 2, positions)
    assert list(weights) == list(before)
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert video[KERNEL].shape == (32, 3, 2, 8, 8)
    assert video["norm.weight"] is weights["norm.weight"]


REFUSALS = {
    "a video file": (
        lambda f: f("mae_st")("full"),
        lambda f: f("build_video")(),
        r"the file is a mae_st video checkpoint: leave it out \(--model\.inflate false\)",
    ),
    "an image model": (
        lambda f: f("official")("encoder"),
        lambda f: f("build")(),
        r"the model takes no clips: leave it out",
    ),
    "a spectrogram model": (
        lambda f: f("official")("encoder"),
        lambda f: f("build_audio")(),
        r"the model takes no clips: leave it out",
    ),
    "a spectrogram file": (
        lambda f: f("audiomae")("encoder"),
        lambda f: f("build_video")(),
        r"a spectrogram checkpoint \(audiomae\).*the model takes clips: use a Spectrogram input",
    ),
    "no class token in the model": (
        lambda f: f("official")("encoder"),
        lambda f: f("build_video")("sinusoid"),
        r"set model\.vit\.class_token: true$",
    ),
    "positions that fill no square": (
        lambda f: f("official")("encoder") | {"pos_embed": torch.zeros(1, 13, 32)},
        lambda f: f("build_video")(),
        r"13 rows.*fill no square",
    ),
    "no positions": (
        lambda f: {n: v for n, v in f("official")("encoder").items() if n != "pos_embed"},
        lambda f: f("build_video")(),
        r"the model separable positions.*set model\.input\.positions: sinusoid$",
    ),
    "another patch": (
        lambda f: f("official")("encoder"),
        lambda f: f("build_video")(patch=16),
        r"patches are 3x2x8x8 .* the model's 3x2x16x16",
    ),
    "another depth": (
        lambda f: f("official")("encoder"),
        lambda f: f("build_video")(depth=3),
        r"2 blocks of width 32; the model has 3",
    ),
    "another width": (
        lambda f: f("official")("encoder"),
        lambda f: f("build_video")(embed_dim=64),
        r"2 blocks of width 32; the model has 2 of 64",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_inflated_is_refused_and_changes_nothing(request, assert_refused, case):
    make, model, line = REFUSALS[case]
    weights, vit = make(request.getfixturevalue), model(request.getfixturevalue)
    assert_refused(weights, vit, line, inflate=True)
