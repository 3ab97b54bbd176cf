"""The learning-rate schedule and the layer-wise groups of MAE fine-tuning."""

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from tome_lightning.optim import epoch_of_step, layer_decay_groups, lr_at, lr_at_step

GOLDEN = json.loads((Path(__file__).parent / "data" / "tome_reference_vectors.json").read_text())
TOKENS = {"cls_token", "dist_token", "reg_token", "pos_embed"}
SCHEDULE = ("lr", "min_lr", "warmup_epochs", "epochs")
# Golden values come from Python floats of the reference's own formula: only the last bits may differ.
EXACT = {"rel": 1e-12, "abs": 1e-18}


def vit(cls: type[VisionTransformer] = VisionTransformer, **kwargs: Any) -> VisionTransformer:
    """ViT-B, or what kwargs make of it, without memory."""
    with torch.device("meta"):
        return cls(**kwargs)


def expected_layer(name: str, depth: int) -> int:
    """MAE's rule, by name: tokens, positions and patches 0, block i is i + 1, the rest depth + 1."""
    if name in TOKENS or name.startswith("patch_embed."):
        return 0
    block = re.match(r"blocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1


def expected_groups(model: VisionTransformer, layer_decay: float) -> dict[str, tuple[float, bool]]:
    """(scale, decayed) of each trainable parameter, by its name and dimensions alone."""
    depth = len(model.blocks)
    return {
        name: (
            layer_decay ** (depth + 1 - expected_layer(name, depth)),
            parameter.ndim > 1 and name not in TOKENS,
        )
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize("run", GOLDEN["lr_schedule"], ids=lambda run: f"peak {run['lr']:g}")
def test_the_schedule_is_mae_s_at_every_golden_point(run: dict[str, Any]) -> None:
    for epoch, expected in run["points"]:
        got = lr_at(epoch, *(run[name] for name in SCHEDULE))
        assert got == pytest.approx(expected, **EXACT), epoch


def test_epoch_means_are_those_of_audiomae_s_published_log() -> None:
    log = GOLDEN["lr_published_check"]
    batches = log["iters_per_epoch"]
    for epoch, expected in log["epoch_mean_lr"].items():
        first = int(epoch) * batches
        steps = [epoch_of_step(first + k, batches, accumulate=1) for k in range(batches)]
        lrs = [lr_at(step, *(log[name] for name in SCHEDULE)) for step in steps]
        assert math.fsum(lrs) / batches == pytest.approx(expected, rel=1e-12)


def test_the_first_step_of_a_warm_up_has_learning_rate_zero() -> None:
    assert lr_at(epoch_of_step(0, 10, 1), 2e-3, 1e-6, 5, 100) == 0.0
    assert (
        lr_at(epoch_of_step(0, 10, 1), 2e-3, 1e-6, 0, 100) == 2e-3
    )  # no warm-up: the peak at once


@pytest.mark.parametrize(("warmup", "epochs"), [(5, 35), (1, 3), (0, 2), (0.1, 1), (2, 2)])
def test_videomae_s_schedule_is_its_table(warmup: float, epochs: int) -> None:
    steps, peak, least = 10, 1e-3, 5e-7
    ramp = np.linspace(0, peak, int(warmup * steps))  # both ends included
    i = np.arange(epochs * steps - len(ramp))
    cosine = least + 0.5 * (peak - least) * (1 + np.cos(np.pi * i / max(1, len(i))))
    table = np.concatenate([ramp, cosine])
    got = [lr_at_step(k, steps, peak, least, warmup, epochs * steps) for k in range(len(table))]
    assert got == pytest.approx(table.tolist(), **EXACT)
    if warmup == 5:
        assert got[0] == 0
        assert got[49] == got[50] == peak  # MAE has 98% of it at the first and all at the second


def test_the_schedule_has_no_jump_and_stays_within_its_ends() -> None:
    lrs = [lr_at(i / 100, 1.0, 0.1, 2, 10) for i in range(1001)]
    peak = lrs.index(max(lrs))
    assert (lrs[0], lrs[peak], peak, lrs[-1]) == (0.0, 1.0, 200, pytest.approx(0.1))
    assert lrs[: peak + 1] == sorted(lrs[: peak + 1])
    assert lrs[peak:] == sorted(lrs[peak:], reverse=True)
    assert max(abs(a - b) for a, b in itertools.pairwise(lrs)) < 0.0051  # 1 / 200 a step


def test_after_the_last_epoch_the_learning_rate_stays_at_its_minimum() -> None:
    assert lr_at(11, 1.0, 0.1, 2, 10) == pytest.approx(0.1)


def test_a_run_that_is_all_warm_up_ends_at_the_peak() -> None:
    assert [lr_at(e, 1.0, 0.1, 2, 2) for e in (0, 1, 2)] == [0.0, 0.5, 1.0]
    assert lr_at(3, 1.0, 0.1, 5, 3) == pytest.approx(0.6)  # stopped within a longer warm-up


def test_learning_rate_against_samples_seen_does_not_depend_on_accumulation() -> None:
    """12 batches an epoch, a step each or a step every 4: the same epoch after the same batches."""
    for step in range(9):
        assert epoch_of_step(step, 12, 4) == epoch_of_step(4 * step, 12, 1)
        # 48 batches of a quarter the size, 4 to a step, are 12 whole ones
        assert epoch_of_step(step, 48, 4) == pytest.approx(epoch_of_step(step, 12, 1), rel=1e-15)


def test_an_incomplete_last_group_is_a_step_and_the_next_epoch_starts_whole() -> None:
    """5 batches, 2 to a step: Lightning steps after batches 2, 4 and 5."""
    epochs = [epoch_of_step(step, batches=5, accumulate=2) for step in range(7)]
    assert epochs == pytest.approx([0, 0.4, 0.8, 1, 1.4, 1.8, 2], rel=1e-15)


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize(
    "golden", GOLDEN["layer_decay_scales"], ids=lambda g: f"{g['layer_decay']}-{g['depth']}"
)
def test_layer_scales_are_mae_s_for_both_poolings(golden: dict[str, Any], pool: str) -> None:
    """timm's own helper puts ``norm`` a layer before the head when the class token is pooled."""
    model = vit(global_pool=pool, depth=golden["depth"], embed_dim=16, num_heads=2)
    groups = layer_decay_groups(model, 2e-3, 0.05, golden["layer_decay"])
    assert sorted({g["lr_scale"] for g in groups}) == pytest.approx(golden["scales"], **EXACT)
    for group in groups:
        assert group["lr"] == pytest.approx(2e-3 * group["lr_scale"], **EXACT)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: vit(global_pool="avg"), id="avg"),
        pytest.param(lambda: vit(global_pool="token"), id="token"),
        pytest.param(lambda: vit(reg_tokens=4, no_embed_class=True), id="registers"),
        pytest.param(lambda: vit(VisionTransformerDistilled), id="distilled"),
        pytest.param(lambda: vit(global_pool="map"), id="attention pooling"),
    ],
)
def test_groups_of_vit_b_follow_the_rule_by_parameter_name(model: Any) -> None:
    model = model()
    groups = layer_decay_groups(model, lr=2e-3, weight_decay=0.05, layer_decay=0.65)
    expected = expected_groups(model, 0.65)
    named = dict(model.named_parameters())

    assert len(groups) == 28  # 14 layers, with weight decay and without
    listed = [name for group in groups for name in group["param_names"]]
    assert sorted(listed) == sorted(expected)  # each parameter once
    for group in groups:
        assert [id(p) for p in group["params"]] == [id(named[n]) for n in group["param_names"]]
        for name in group["param_names"]:
            scale, decayed = expected[name]
            assert group["lr_scale"] == pytest.approx(scale, **EXACT), name
            assert group["lr"] == pytest.approx(2e-3 * scale, **EXACT), name
            assert group["weight_decay"] == (0.05 if decayed else 0.0), name


def test_layer_decay_of_one_switches_it_off() -> None:
    groups = layer_decay_groups(vit(depth=2, embed_dim=16, num_heads=2), 1e-3, 0.05, 1.0)
    assert {group["lr"] for group in groups} == {1e-3}


def test_frozen_parameters_are_in_no_group_and_move_no_other_layer() -> None:
    model = vit(global_pool="avg", depth=3, embed_dim=16, num_heads=2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(("blocks.1.", "fc_norm.", "head."))
    groups = layer_decay_groups(model, 1e-3, 0.05, 0.5)
    got = {name: group["lr_scale"] for group in groups for name in group["param_names"]}
    assert got == {name: scale for name, (scale, _) in expected_groups(model, 0.5).items()}
    assert got["blocks.1.attn.qkv.weight"] == 0.25  # layer 2 of 0 to 4
