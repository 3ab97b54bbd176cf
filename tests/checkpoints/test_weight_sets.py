"""Wrappers and prefixes come off in one place, and of two sets of weights the report names both."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer

from checkpoints import CheckpointError, identify, load, state_dict_of
from tome_lightning.tome import patch

DATA = Path(__file__).parents[1] / "data"


def small() -> VisionTransformer:
    """The model of the files in tests/data."""
    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5
    ).eval()


def same(weights, expected):
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def prefixed(weights, prefix):
    return {f"{prefix}{name}": value for name, value in weights.items()}


@pytest.mark.parametrize("prefix", ["encoder", "backbone"])
def test_a_prefixed_image_file_loads_whole(prefix):
    path, vit = DATA / f"{prefix}_prefix.pth", small()
    report = load(vit, path)
    saved = torch.load(path, weights_only=True)
    same(vit.state_dict(), {n.removeprefix(f"{prefix}."): value for n, value in saved.items()})
    assert (report.kind, report.new, report.dropped) == ("fine-tuned", (), ())
    assert identify(path).num_classes == 5


PREFIXES = [
    "module.", "model.", "vit.", "model.vit.", "module.encoder.", "module.backbone.", "_orig_mod.vit.",
    "student.backbone.", "net.module._orig_mod.", "visual.trunk.", "base_model.model.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("family", ["mae", "mae_st", "videomae", "audiomae"])
def test_every_family_loses_its_prefix(
    official, mae_st, videomae, audiomae, build, build_video, build_audio, save, prefix, family
):
    kind = "fine-tuned"
    weights, vit = {
        "mae": lambda: (official(kind), build()),
        "mae_st": lambda: (mae_st(kind), build_video()),
        "videomae": lambda: (videomae(kind), build_video("sinusoid")),
        "audiomae": lambda: (audiomae(kind), build_audio()),
    }[family]()
    plain = load(vit, save(weights))
    expected = {name: value.clone() for name, value in vit.state_dict().items()}
    report = load(vit, save(prefixed(weights, prefix)))
    same(vit.state_dict(), expected)
    assert (report.family, report.dropped) == (plain.family, plain.dropped)


def test_a_pre_trained_videomae_under_ddp_keeps_its_decoder_apart(videomae, build_video, save):
    weights = videomae("full")
    report = load(build_video("sinusoid"), save(prefixed(weights, "module.")))
    assert report.kind == "full"
    assert {name for name in weights if not name.startswith("encoder.")} <= {*report.dropped}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_patched_model_s_own_state_dict_loads(tmp_path, build, suffix):
    model, path = patch(build(), r=2), tmp_path / f"patched.{suffix}"
    (torch.save if suffix == "pth" else save_file)(model.state_dict(), path)
    fresh = build()
    torch.nn.init.zeros_(fresh.head.weight)
    assert load(fresh, path).new == ()
    same(fresh.state_dict(), model.vit.state_dict())


def test_the_head_beside_an_encoder_is_taken_and_other_parts_are_told(official, build, save):
    weights = official("fine-tuned")
    head = {name: weights.pop(name) for name in ("head.weight", "head.bias")}
    file = prefixed(weights, "backbone.") | head | {"projector.0.weight": torch.ones(2, 2)}
    vit = build()
    report = load(vit, save(file))
    assert torch.equal(vit.head.weight, head["head.weight"])
    assert report.dropped == ("projector.0.weight",)


@pytest.fixture
def two(official, tmp_path):
    """Writes a file of two sets, live and averaged, as `layout` makes it; returns path and both."""
    live = official("fine-tuned")
    ema = {name: value + 1 for name, value in live.items()}

    def write(layout):
        torch.save(layout(live, ema), tmp_path / "two.pth")
        return tmp_path / "two.pth", live, ema

    return write


TWO = {
    "timm": lambda live, ema: {"state_dict": live, "state_dict_ema": ema, "epoch": 3},
    "deit": lambda live, ema: {"model_ema": ema, "model": live},
    "ema module": lambda live, ema: {"model": live, "ema": {"module": ema, "updates": 7}},
    "dino": lambda live, ema: {
        "teacher": prefixed(ema, "backbone."), "student": prefixed(live, "module.backbone."),
    },
    "moco": lambda live, ema: {
        "state_dict": prefixed(live, "module.base_encoder.") | prefixed(ema, "module.momentum_encoder.")
    },
    "ema_pytorch": lambda live, ema: prefixed(live, "online_model.") | prefixed(ema, "ema_model."),
    "i-jepa": lambda live, ema: {"encoder": live, "target_encoder": ema},
}  # fmt: skip


@pytest.mark.parametrize("layout", TWO)
def test_of_two_sets_the_live_one_is_taken_and_both_are_named(two, build, layout):
    path, live, ema = two(TWO[layout])
    vit = build()
    report = load(vit, path)
    same(vit.state_dict(), live)
    assert report.taken == "live"
    assert all(where and where in str(report) for where in report.held.values())
    assert "--model.weights ema" in str(report)
    assert report.held["ema"] in report.brief
    chosen = load(vit, path, weights="ema")
    same(vit.state_dict(), ema)
    assert chosen.taken == "ema"
    assert "averaged weights" in chosen.source
    assert "--model.weights live" in str(chosen)
    same(state_dict_of(path, "ema"), ema)


def test_timm_s_checkpoint_with_averages():
    path = DATA / "timm_ema.pth.tar"
    live, ema = state_dict_of(path), state_dict_of(path, "ema")
    assert not torch.equal(live["head.weight"], ema["head.weight"])
    report = load(small(), path)
    assert report.held == {"live": "state_dict", "ema": "state_dict_ema"}
    assert "live weights are taken (state_dict), not the averaged weights (state_dict_ema)" in str(
        report
    )


def test_a_run_of_ours_that_averaged_keeps_its_averages_by_default(two):
    path, live, ema = two(
        lambda live, ema: {
            "state_dict": prefixed(ema, "model.vit."), "averaging_state": {"n_averaged": 3},
            "current_model_state": prefixed(live, "model.vit."), "tome_lightning": {"family": "mae"},
        }
    )  # fmt: skip
    same(state_dict_of(path), ema)
    same(state_dict_of(path, "live"), live)


def test_torch_s_averaged_model_counts_as_averages(official, build, save):
    weights = prefixed(official("fine-tuned"), "module.") | {"n_averaged": torch.tensor(4)}
    assert load(build(), save(weights)).taken == "ema"


def test_one_set_alone_says_nothing_of_sets(official, build, save):
    report = load(build(), save(official("fine-tuned")))
    assert "weights" not in str(report).replace(report.source, "")
    assert report.taken == "live"


def test_an_optimizer_s_moments_are_no_averages(official, tmp_path):
    live = official("fine-tuned")
    moments = {"exp_avg": {name: value * 0 for name, value in live.items()}}
    torch.save({"model": live, "optimizer": moments}, tmp_path / "a.pth")
    same(state_dict_of(tmp_path / "a.pth"), live)
    with pytest.raises(CheckpointError, match="no averaged weights"):
        state_dict_of(tmp_path / "a.pth", "ema")


def test_a_set_that_is_not_there_is_refused_with_what_is(official, save):
    path = save(official("fine-tuned"))
    with pytest.raises(
        CheckpointError, match=r"no averaged weights .*only live weights under model"
    ):
        state_dict_of(path, "ema")
    with pytest.raises(CheckpointError, match="weights is live or ema, got 'best'"):
        state_dict_of(path, "best")


def test_encoders_that_nothing_tells_apart_are_refused(official, build, save):
    weights = official("fine-tuned")
    file = prefixed(weights, "left.") | prefixed(weights, "right.")
    with pytest.raises(CheckpointError, match=r"2 encoders, under model\.left and model\.right"):
        load(build(), save(file))
