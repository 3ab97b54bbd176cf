import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformerDistilled
from torch.nn import functional as F

import checkpoints
from checkpoints import CheckpointError, interpolate_positions, load


def straight_vit(weights, images, patch=8, heads=4, token=False):
    """The published fine-tuning model (protocol 1.1, 1.2) in plain torch; logits [B, classes]."""

    def norm(x, name):
        return F.layer_norm(
            x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6
        )

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    x = F.conv2d(images, kernel, bias, stride=patch).flatten(2).transpose(1, 2)
    x = torch.cat([weights["cls_token"].expand(len(x), -1, -1), x], 1) + weights["pos_embed"]
    depth = sum(name.endswith(".norm1.weight") for name in weights if name.startswith("blocks."))
    for i in range(depth):
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
        attention = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + linear((attention @ v).transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        hidden = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        x = x + linear(F.gelu(hidden), f"blocks.{i}.mlp.fc2")
    if token:
        return linear(norm(x, "norm")[:, 0], "head")
    return linear(norm(x[:, 1:].mean(1), "fc_norm"), "head")


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def assert_computes(vit, weights, images, **options):
    # Float32 and two blocks: the orders of summation differ, nothing else does.
    with torch.no_grad():
        torch.testing.assert_close(
            vit(images), straight_vit(weights, images, **options), atol=1e-5, rtol=1e-5
        )


def training_save(weights):
    args = argparse.Namespace(output_dir=Path("/runs/mae"), blr=5e-4, resume="")
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": []}
    return {
        "model": weights,
        "optimizer": optimizer,
        "epoch": 99,
        "scaler": {"scale": 65536.0},
        "args": args,
    }


def test_a_fine_tuned_training_save_gives_the_published_formulas_logits(
    official, build, images, tmp_path
):
    weights, vit = official("fine-tuned"), build()
    torch.save(training_save(weights), tmp_path / "checkpoint-99.pth")
    report = load(vit, tmp_path / "checkpoint-99.pth")
    assert_computes(vit, weights, images)
    assert (report.family, report.kind) == ("mae", "fine-tuned")
    assert set(report.matched) == set(vit.state_dict())


def test_safetensors_give_the_published_formulas_logits(official, build, images, tmp_path):
    weights, vit = official("fine-tuned"), build()
    save_file(weights, tmp_path / "model.safetensors")
    report = load(vit, str(tmp_path / "model.safetensors"))
    assert_computes(vit, weights, images)
    assert report.family == "mae"


def test_a_released_tome_file_is_known_by_its_name(official, build, images, save):
    weights, vit = official("fine-tuned"), build()
    report = load(vit, save(weights, "f367082919_vit_B_16_r16.pth"))
    assert_computes(vit, weights, images)
    assert report.family == "tome"
    assert checkpoints.PROP_ATTN[report.family]


def test_a_pretrained_encoder_starts_average_pooling_with_a_fresh_norm(
    official, build, images, save
):
    weights, vit = official("encoder"), build()
    head = {name: value.clone() for name, value in vit.state_dict().items() if "head" in name}
    report = load(vit, save(weights))
    fresh = {"fc_norm.weight": torch.ones(32), "fc_norm.bias": torch.zeros(32)}
    assert_computes(vit, weights | fresh | head, images)
    assert set(report.new) == {*fresh, *head}
    assert set(report.dropped) == {"norm.weight", "norm.bias"}
    assert report.kind == "encoder"


def test_a_pretrained_encoder_keeps_its_norm_under_token_pooling(official, build, images, save):
    weights, vit = official("encoder"), build(global_pool="token")
    head = {name: value.clone() for name, value in vit.state_dict().items() if "head" in name}
    report = load(vit, save(weights))
    assert_computes(vit, weights | head, images, token=True)
    assert (set(report.new), report.dropped) == (set(head), ())


def test_a_decoder_is_dropped_and_reported(official, build, images, save):
    weights, vit = official("full"), build(global_pool="token")
    report = load(vit, save(weights))
    assert (report.family, report.kind) == ("mae", "full")
    assert set(report.dropped) == {n for n in weights if n.startswith("decoder")} | {"mask_token"}
    assert_computes(vit, weights | vit.state_dict(), images, token=True)
    assert torch.equal(vit.blocks[1].mlp.fc2.weight, weights["blocks.1.mlp.fc2.weight"])


def test_a_mask_token_alone_makes_no_mae_of_a_timm_file(official, build, save):
    vit = build(global_pool="token", num_classes=0, init_values=1e-5)
    scales = {n: torch.rand(32) for n in vit.state_dict() if n.endswith("gamma")}
    weights = official("encoder") | scales | {"mask_token": torch.zeros(1, 32)}
    report = load(vit, save(weights))
    assert (report.family, report.kind, report.dropped) == ("timm", "encoder", ("mask_token",))
    assert torch.equal(vit.blocks[0].ls1.gamma, scales["blocks.0.ls1.gamma"])


@pytest.mark.parametrize(("classes", "head"), [(7, False), (5, True)])
def test_a_head_unwanted_or_of_other_classes_stays_the_models(official, build, save, classes, head):
    vit = build(num_classes=classes)
    before = vit.head.weight.clone()
    report = load(vit, save(official("fine-tuned")), head=head)
    assert torch.equal(vit.head.weight, before)
    assert report.new == ("head.weight", "head.bias")
    assert report.dropped == ("head.weight", "head.bias")
    assert "fc_norm.weight" in report.matched


def test_a_class_token_head_may_be_left_out_of_an_averaging_model(official, build, save):
    weights = official("encoder") | {"head.weight": torch.ones(7, 32), "head.bias": torch.ones(7)}
    vit = build()
    report = load(vit, save(weights), head=False)
    assert report.family == "timm"
    assert set(report.new) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert torch.equal(vit.cls_token, weights["cls_token"])


def test_half_precision_loads_into_the_models_dtype(official, build, save):
    weights, vit = official("fine-tuned"), build(img_size=64)
    load(vit, save({name: value.half() for name, value in weights.items()}))
    assert {value.dtype for value in vit.state_dict().values()} == {torch.float32}
    half = weights["blocks.0.attn.qkv.weight"].half().float()
    assert torch.equal(vit.blocks[0].attn.qkv.weight, half)


def test_positions_follow_the_image_size(official, build, save):
    weights, vit = official("fine-tuned"), build(img_size=(48, 64))
    report = load(vit, save(weights))
    assert report.reshaped == ("pos_embed",)
    expected = interpolate_positions(weights["pos_embed"], (6, 8), num_prefix=1)
    assert torch.equal(vit.pos_embed, expected)


def test_positions_without_prefix_rows_follow_the_image_size(official, build, save):
    weights = official("fine-tuned")
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    vit = build(img_size=64, no_embed_class=True)
    load(vit, save(weights))
    assert torch.equal(vit.pos_embed, interpolate_positions(weights["pos_embed"], (8, 8), 0))


def test_a_distilled_model_keeps_both_prefix_rows(save):
    small = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}
    made = VisionTransformerDistilled(img_size=32, **small)
    vit = VisionTransformerDistilled(img_size=64, **small)
    report = load(vit, save(made.state_dict()))
    assert report.family == "timm"
    assert report.reshaped == ("pos_embed",)
    assert torch.equal(vit.pos_embed[:, :2], made.pos_embed[:, :2])
    assert torch.equal(vit.head_dist.weight, made.head_dist.weight)


@pytest.mark.parametrize("kind", ["encoder", "full", "fine-tuned"])
@pytest.mark.parametrize(
    "changes", [{}, {"img_size": 64}, {"num_classes": 0}, {"num_classes": 3}], ids=str
)
def test_the_report_names_every_weight_of_the_model_once(official, build, save, kind, changes):
    weights, vit = official(kind), build(**changes)
    report = load(vit, save(weights))
    named = [*report.matched, *report.new, *report.reshaped]
    assert sorted(named) == sorted(vit.state_dict())
    assert set(report.dropped) | set(report.matched) | set(report.reshaped) == set(weights)
    assert not set(report.dropped) & {*report.matched, *report.reshaped}


def test_the_report_prints_counts_and_few_names(official, build, save):
    path = save(official("full"))
    assert str(load(build(img_size=64), path)).splitlines() == [
        f"{path}: mae, full",
        "  matched    27",
        "  new         4  fc_norm.weight, fc_norm.bias, head.weight, head.bias",
        "  reshaped    1  pos_embed",
        "    pos_embed: resized from 4x4 to 8x8",
        "  dropped    22  mask_token, decoder_pos_embed, decoder_embed.weight, "
        "decoder_embed.bias and 18 more",
    ]


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


REFUSALS = {
    "other depth": ({"depth": 3}, None, "the file has 2 blocks of width 32; the model has 3 of 32"),
    "other width": ({"embed_dim": 64}, None, "2 blocks of width 32; the model has 2 of 64"),
    "other patches": ({"patch_size": 16}, None, "patches are 3x8x8 .* the model's 3x16x16"),
    "other channels": ({"in_chans": 4}, None, "patches are 3x8x8 .* the model's 4x8x8"),
    "grey file, RGB model": (
        {},
        lambda w: w | {"patch_embed.proj.weight": torch.zeros(32, 1, 8, 8)},
        "patches are 1x8x8 .* the model's 3x8x8",
    ),
    "other MLP": ({"mlp_ratio": 2}, None, "blocks.0.mlp.fc1.weight.*128x32 in the file, 64x32"),
    "other pooling": ({"global_pool": "token"}, None, 'global_pool="avg"'),
    "missing encoder weight": (
        {},
        lambda w: without(w, "blocks.1.mlp.fc1.bias"),
        r"lacks blocks\.1\.mlp\.fc1\.bias",
    ),
    "missing weights are counted": (
        {"init_values": 1.0, "qk_norm": True},
        None,
        r"lacks blocks\.0\.attn\.q_norm\.weight, [^:]* and 9 more",
    ),
    "unexpected encoder weight": (
        {},
        lambda w: w | {"blocks.0.ls1.gamma": torch.ones(32)},
        r"has blocks\.0\.ls1\.gamma, which the model lacks",
    ),
    "class-token head, averaging model": (
        {},
        lambda w: {n.replace("fc_norm", "norm"): v for n, v in w.items()},
        'global_pool="token"',
    ),
    "positions fill no square": (
        {},
        lambda w: w | {"pos_embed": torch.zeros(1, 13, 32)},
        "13 rows, of which 12 remain",
    ),
    "no ViT": ({}, lambda _: {"conv1.weight": torch.ones(1)}, "holds no ViT.*conv1.weight"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(
    official, build, assert_refused, case
):
    changes, spoil, line = REFUSALS[case]
    weights, vit = official("fine-tuned"), build(**changes)
    assert_refused(spoil(weights) if spoil else weights, vit, line)


def test_published_sizes_are_called_by_their_names(official, build, save):
    weights = official("encoder", depth=24, width=32)
    weights["patch_embed.proj.weight"] = torch.zeros(1024, 3, 8, 8)
    with pytest.raises(CheckpointError, match=r"24 blocks of width 1024 \(ViT-L\)"):
        load(build(), save(weights))


def test_a_model_without_memory_is_refused(official, build, save):
    with pytest.raises(CheckpointError, match="meta device"):
        load(build().to("meta"), save(official("encoder")))


def test_a_model_that_is_no_timm_vit_is_refused(official, save):
    with pytest.raises(CheckpointError, match=r"got Linear.*patch\(\)"):
        load(torch.nn.Linear(2, 2), save(official("encoder")))
