"""mae_st and VideoMAE files in video models, against the original architectures in plain torch."""

import argparse
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from checkpoints import load

FRESH_NORM = {"fc_norm.weight": torch.ones(32), "fc_norm.bias": torch.zeros(32)}
DTYPE = torch.float64  # so that nothing but a wrong formula can differ


def norm(x, weights, name):
    w, b = weights[f"{name}.weight"], weights[f"{name}.bias"]
    deviation = x - x.mean(-1, keepdim=True)
    return deviation / (deviation.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w + b


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def attend(q, k, v, heads=4):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    mixed = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2)


def tokens_of(weights, clips):
    """[B, T*H*W, D], time slowest, then rows: each tubelet times the kernel, no convolution."""
    kernel = weights["patch_embed.proj.weight"]
    t, p = kernel.shape[2:4]
    cut = clips.unfold(2, t, t).unfold(3, p, p).unfold(4, p, p)  # [B, C, T, H, W, t, p, p]
    tokens = torch.einsum("bcthwijk,dcijk->bthwd", cut, kernel)
    return tokens.flatten(1, 3) + weights["patch_embed.proj.bias"]


def feed_forward(x, weights, block):
    hidden = linear(norm(x, weights, f"{block}.norm2"), weights, f"{block}.mlp.fc1")
    return x + linear(F.gelu(hidden), weights, f"{block}.mlp.fc2")


def straight_mae_st(weights, clips, depth=2):
    """Protocol 1.2, mae_st: q, k, v apart; mean over patches, then norm, then head."""
    x = tokens_of(weights, clips)
    if (token := weights.get("cls_token")) is not None:
        x = torch.cat([token.expand(len(x), -1, -1), x], 1)
    if "pos_embed" in weights:
        x = x + weights["pos_embed"]
    else:
        places, times = weights["pos_embed_spatial"][0], weights["pos_embed_temporal"][0]
        rows = [place + time for time in times for place in places]
        if token is not None:
            rows = [weights["pos_embed_class"][0, 0], *rows]
        x = x + torch.stack(rows)
    for block in (f"blocks.{i}" for i in range(depth)):
        y = norm(x, weights, f"{block}.norm1")
        q, k, v = (linear(y, weights, f"{block}.attn.{part}") for part in "qkv")
        x = x + linear(attend(q, k, v), weights, f"{block}.attn.proj")
        x = feed_forward(x, weights, block)
    pooled = x[:, 1:].mean(1) if token is not None else x.mean(1)
    return linear(norm(pooled, weights, "norm"), weights, "head")


def straight_videomae(weights, clips, depth=2):
    """Protocol 1.2, VideoMAE: fixed sinusoid, keys without bias; mean, then fc_norm, then head."""
    x = tokens_of(weights, clips)
    n, j = torch.meshgrid(torch.arange(x.shape[1]), torch.arange(x.shape[2]), indexing="ij")
    angle = n.double() / 10000.0 ** (2 * (j // 2).double() / x.shape[2])
    x = x + torch.where(j % 2 == 0, angle.sin(), angle.cos()).float()  # the model keeps float32
    for block in (f"blocks.{i}" for i in range(depth)):
        y = norm(x, weights, f"{block}.norm1")
        q, k, v = (y @ w.T for w in weights[f"{block}.attn.qkv.weight"].chunk(3))
        q, v = q + weights[f"{block}.attn.q_bias"], v + weights[f"{block}.attn.v_bias"]
        x = x + linear(attend(q, k, v), weights, f"{block}.attn.proj")
        x = feed_forward(x, weights, block)
    return linear(norm(x.mean(1), weights, "fc_norm"), weights, "head")


@pytest.fixture
def clips():
    return torch.randn(2, 3, 6, 32, 32, generator=torch.Generator().manual_seed(5), dtype=DTYPE)


def double(weights):
    return {name: value.to(DTYPE) for name, value in weights.items()}


def head_of(vit):
    return {n: v.clone() for n, v in vit.state_dict().items() if n.startswith("head.")}


def assert_computes(vit, expected, clips, tolerance=1e-10):
    with torch.no_grad():
        torch.testing.assert_close(vit(clips), expected, atol=tolerance, rtol=tolerance)


VARIANTS = [("separable", True), ("separable", False), ("joint", True), ("joint", False)]


@pytest.mark.parametrize(("positions", "class_token"), VARIANTS)
def test_a_fine_tuned_mae_st_gives_the_original_formulas_logits(
    mae_st, build_video, save, clips, positions, class_token
):
    weights = double(mae_st("fine-tuned", positions, class_token))
    vit = build_video(positions, class_token=class_token).to(DTYPE)
    report = load(vit, save(weights))
    assert_computes(vit, straight_mae_st(weights, clips), clips)
    assert (report.family, report.kind) == ("mae_st", "fine-tuned")
    assert report.matched == tuple(vit.state_dict())
    assert report.new == report.reshaped == report.dropped == ()


@pytest.mark.parametrize("kind", ["full", "encoder"])
@pytest.mark.parametrize(("positions", "class_token"), VARIANTS)
def test_a_pretrained_mae_st_keeps_its_norm_and_starts_a_new_head(
    mae_st, build_video, save, clips, kind, positions, class_token
):
    weights = double(mae_st(kind, positions, class_token))
    vit = build_video(positions, class_token=class_token).to(DTYPE)
    head = head_of(vit)
    report = load(vit, save(weights))
    assert_computes(vit, straight_mae_st(weights | head, clips), clips)
    assert (report.family, report.kind, report.new) == ("mae_st", kind, tuple(head))
    assert report.matched == tuple(name for name in vit.state_dict() if name not in head)
    decoder = {name for name in weights if name.startswith(("decoder", "mask"))}
    assert (set(report.dropped), report.reshaped) == (decoder, ())


def test_a_fine_tuned_videomae_gives_the_original_formulas_logits(
    videomae, build_video, save, clips
):
    weights, vit = double(videomae("fine-tuned")), build_video("sinusoid").to(DTYPE)
    report = load(vit, save(weights))
    assert_computes(vit, straight_videomae(weights, clips), clips)
    assert (report.family, report.kind) == ("videomae", "fine-tuned")
    assert report.matched == tuple(vit.state_dict())
    assert report.new == report.reshaped == report.dropped == ()


def test_a_pretrained_videomae_starts_a_fresh_norm_and_head(videomae, build_video, save, clips):
    weights, vit = double(videomae("full")), build_video("sinusoid").to(DTYPE)
    head = head_of(vit)
    report = load(vit, save(weights))
    encoder = {name.removeprefix("encoder."): value for name, value in weights.items()}
    assert_computes(vit, straight_videomae(encoder | double(FRESH_NORM) | head, clips), clips)
    assert (report.family, report.kind) == ("videomae", "full")
    assert report.new == (*FRESH_NORM, *head)
    decoder = {name for name in weights if not name.startswith("encoder.")}
    assert set(report.dropped) == decoder | {"norm.weight", "norm.bias"}
    assert "encoder_to_decoder.weight" in report.dropped


def test_videomaes_keys_get_no_bias(videomae, build_video, save):
    weights, vit = videomae("fine-tuned"), build_video("sinusoid")
    load(vit, save(weights))
    for i, block in enumerate(vit.blocks):
        q, k, v = block.attn.qkv.bias.chunk(3)
        assert torch.equal(q, weights[f"blocks.{i}.attn.q_bias"])
        assert torch.equal(v, weights[f"blocks.{i}.attn.v_bias"])
        assert not k.any()


def test_query_key_and_value_are_stacked_in_this_order(mae_st, build_video, save):
    weights, vit = mae_st("encoder"), build_video()
    load(vit, save(weights))
    for i, block in enumerate(vit.blocks):
        for part, weight, bias in zip(
            "qkv", block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True
        ):
            assert torch.equal(weight, weights[f"blocks.{i}.attn.{part}.weight"])
            assert torch.equal(bias, weights[f"blocks.{i}.attn.{part}.bias"])


def pyslowfast(weights):
    renamed = {n.replace("head.", "head.projection."): v for n, v in weights.items()}
    return {"model_state": renamed, "epoch": 50, "cfg": "TRAIN:\n  ENABLE: True\n"}


def training_save(weights):
    args = argparse.Namespace(output_dir=Path("/runs/k400"), blr=1.6e-3, resume="")
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": []}
    return {"model": weights, "optimizer": optimizer, "epoch": 49, "scaler": {}, "args": args}


WRAPPERS = {
    "bare": lambda w: w,
    "PySlowFast": pyslowfast,
    "training save": training_save,
    "model before model_state": lambda w: {"model_state": {"x": torch.ones(1)}, "model": w},
    "DeepSpeed": lambda w: {"module": w},
    "DDP": lambda w: {"model": {f"module.{name}": value for name, value in w.items()}},
    "compiled": lambda w: {"model": {f"_orig_mod.{name}": value for name, value in w.items()}},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_mae_st_is_found_in_every_container(mae_st, build_video, tmp_path, clips, wrapper):
    weights, vit = double(mae_st("fine-tuned")), build_video().to(DTYPE)
    torch.save(WRAPPERS[wrapper](weights), tmp_path / "checkpoint.pyth")
    report = load(vit, tmp_path / "checkpoint.pyth")
    assert_computes(vit, straight_mae_st(weights, clips), clips)
    assert (report.family, report.kind) == ("mae_st", "fine-tuned")


@pytest.mark.parametrize("wrapper", ["bare", "DeepSpeed", "DDP", "training save"])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_videomae_is_found_in_every_container(
    videomae, build_video, tmp_path, clips, wrapper, prefix
):
    weights, vit = double(videomae("fine-tuned")), build_video("sinusoid").to(DTYPE)
    prefixed = {prefix + name: value for name, value in weights.items()}
    torch.save(WRAPPERS[wrapper](prefixed), tmp_path / "checkpoint-799.pth")
    report = load(vit, tmp_path / "checkpoint-799.pth")
    assert_computes(vit, straight_videomae(weights, clips), clips)
    assert (report.family, report.kind) == ("videomae", "fine-tuned")


def test_fused_attention_in_mae_sts_layout_is_taken_as_it_is(mae_st, build_video, save, clips):
    weights, vit = double(mae_st("fine-tuned")), build_video().to(DTYPE)
    fused = {n: v for n, v in weights.items() if not re.search(r"attn\.[qkv]\.", n)}
    for i in range(2):
        for kind in ("weight", "bias"):
            parts = [weights[f"blocks.{i}.attn.{part}.{kind}"] for part in "qkv"]
            fused[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    report = load(vit, save(fused))
    assert_computes(vit, straight_mae_st(weights, clips), clips)
    assert report.family == "mae_st"


@pytest.mark.parametrize("positions", ["separable", "joint", "sinusoid"])
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_video_checkpoint_of_ours_comes_back_as_it_was(build_video, tmp_path, positions, pool):
    made = build_video(positions, class_token=True, global_pool=pool)
    state = {f"model.vit.{name}": value for name, value in made.state_dict().items()}
    torch.save({"state_dict": state, "tome_lightning": {"family": "mae_st"}}, tmp_path / "a.ckpt")
    vit = build_video(positions, class_token=True, global_pool=pool, num_classes=7)
    torch.nn.init.zeros_(vit.head.weight)
    report = load(vit, tmp_path / "a.ckpt")
    assert (report.family, report.matched) == ("mae_st", tuple(made.state_dict()))
    assert all(torch.equal(v, made.state_dict()[n]) for n, v in vit.state_dict().items())


def test_converters_leave_their_input_alone(mae_st, videomae, build_video, tmp_path):
    from checkpoints import mae_st as from_mae_st
    from checkpoints import videomae as from_videomae

    for layout, weights in (
        (from_mae_st, mae_st("fine-tuned")),
        (from_videomae, videomae("fine-tuned")),
    ):
        before = dict(weights)
        kept = {name: value.clone() for name, value in weights.items()}
        layout.convert(weights)
        assert list(weights) == list(before)
        assert all(weights[name] is before[name] for name in before)
        assert all(torch.equal(weights[name], kept[name]) for name in before)


def test_safetensors_hold_video_too(mae_st, build_video, tmp_path, clips):
    weights, vit = double(mae_st("fine-tuned")), build_video().to(DTYPE)
    save_file(weights, tmp_path / "video.safetensors")
    load(vit, tmp_path / "video.safetensors")
    assert_computes(vit, straight_mae_st(weights, clips), clips)


@pytest.mark.parametrize(("classes", "head"), [(7, False), (5, True)])
def test_a_video_head_unwanted_or_of_other_classes_stays_the_models(
    mae_st, build_video, save, classes, head
):
    vit = build_video(num_classes=classes)
    before = vit.head.weight.clone()
    report = load(vit, save(mae_st("fine-tuned")), head=head)
    assert torch.equal(vit.head.weight, before)
    assert report.new == report.dropped == ("head.weight", "head.bias")
    assert "fc_norm.weight" in report.matched


def without(weights, pattern):
    return {name: value for name, value in weights.items() if not re.search(pattern, name)}


# What the file is made by, the model's changes, and what the one line must say.
REFUSALS = {
    "video file, image model": (
        lambda f: f("mae_st")("full"),
        lambda f: f("build")(),
        r"a mae_st video checkpoint, with patches of 2 frames.*use a Clip input",
    ),
    "VideoMAE file, image model": (
        lambda f: f("videomae")("full"),
        lambda f: f("build")(),
        r"a videomae video checkpoint.*use a Clip input",
    ),
    "image file, video model": (
        lambda f: f("official")("encoder"),
        lambda f: f("build_video")(),
        r"a mae checkpoint without time.*span 2 frames.*--model\.inflate true",
    ),
    "joint file, separable model": (
        lambda f: f("mae_st")("full", "joint"),
        lambda f: f("build_video")(),
        r"file has joint positions and a class token, the model separable positions and a class "
        r"token.*: set model\.input\.positions: joint$",
    ),
    "separable file, sinusoid model": (
        lambda f: f("mae_st")("full"),
        lambda f: f("build_video")("sinusoid", class_token=True),
        r"set model\.input\.positions: separable$",
    ),
    "joint file, sinusoid model without class token": (
        lambda f: f("mae_st")("full", "joint"),
        lambda f: f("build_video")("sinusoid"),
        r"set model\.input\.positions: joint and model\.vit\.class_token: true$",
    ),
    "VideoMAE file, separable model": (
        lambda f: f("videomae")("fine-tuned"),
        lambda f: f("build_video")("separable"),
        r"file has sinusoid positions and no class token.*"
        r"set model\.input\.positions: sinusoid and model\.vit\.class_token: false$",
    ),
    "VideoMAE file, joint model without class token": (
        lambda f: f("videomae")("full"),
        lambda f: f("build_video")("joint", class_token=False),
        r"set model\.input\.positions: sinusoid$",
    ),
    "VideoMAE file, sinusoid model with class token": (
        lambda f: f("videomae")("full"),
        lambda f: f("build_video")("sinusoid", class_token=True),
        r"set model\.vit\.class_token: false$",
    ),
    "class token in the file only": (
        lambda f: f("mae_st")("full"),
        lambda f: f("build_video")(class_token=False),
        r"set model\.vit\.class_token: true$",
    ),
    "class token in the model only": (
        lambda f: f("mae_st")("full", class_token=False),
        lambda f: f("build_video")(),
        r"set model\.vit\.class_token: false$",
    ),
    "class token in an image file only": (
        lambda f: f("official")("encoder"),
        lambda f: f("build")(class_token=False),
        r"file has a class token, the model no class token.*model\.vit\.class_token: true$",
    ),
    "other tubelets": (
        lambda f: f("mae_st")("full"),
        lambda f: f("build_video")(tubelet=3),
        r"tubelets have 2 frames, the model's 3.*set model\.input\.tubelet: 2$",
    ),
    "other patches": (
        lambda f: f("videomae")("full"),
        lambda f: f("build_video")("sinusoid", patch=16),
        r"patches are 3x2x8x8 .* the model's 3x2x16x16",
    ),
    "other depth": (
        lambda f: f("videomae")("full"),
        lambda f: f("build_video")("sinusoid", depth=3),
        r"file has 2 blocks of width 32; the model has 3 of 32",
    ),
    "a key projection is missing": (
        lambda f: without(f("mae_st")("full"), r"blocks\.1\.attn\.k\.weight"),
        lambda f: f("build_video")(),
        r"lacks blocks\.1\.attn\.qkv\.weight",
    ),
    "a q bias is missing": (
        lambda f: without(f("videomae")("fine-tuned"), r"blocks\.0\.attn\.q_bias"),
        lambda f: f("build_video")("sinusoid"),
        r"lacks blocks\.0\.attn\.qkv\.bias",
    ),
    "the table over time is missing": (
        lambda f: without(f("mae_st")("full"), "pos_embed_temporal"),
        lambda f: f("build_video")(),
        r"lacks pos_embed_temporal",
    ),
    "the table over time is missing, joint model": (
        lambda f: without(f("mae_st")("full"), "pos_embed_temporal"),
        lambda f: f("build_video")("joint"),
        r"lacks pos_embed ",
    ),
    "the class token's position is missing": (
        lambda f: without(f("mae_st")("full"), "pos_embed_class"),
        lambda f: f("build_video")(),
        r"lacks pos_embed_class",
    ),
    "both kinds of tables": (
        lambda f: f("mae_st")("full") | {"pos_embed": torch.zeros(1, 49, 32)},
        lambda f: f("build_video")(),
        r"has pos_embed, which the model lacks",
    ),
    "another token's norm": (
        lambda f: f("mae_st")("fine-tuned"),
        lambda f: f("build_video")(global_pool="token"),
        r'last norm goes with average pooling.*global_pool="avg"',
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(request, assert_refused, case):
    make, model, line = REFUSALS[case]
    weights, vit = make(request.getfixturevalue), model(request.getfixturevalue)
    assert_refused(weights, vit, line)
