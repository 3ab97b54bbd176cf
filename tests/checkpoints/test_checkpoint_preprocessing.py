"""What is known of the samples that a checkpoint wants."""

import json

import pytest
import torch
from safetensors.torch import save_file

from checkpoints import Preprocessing, identify, load

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF, KINETICS = ((0.5,) * 3, (0.5,) * 3), ((0.45,) * 3, (0.225,) * 3)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", (*HALF, 224, "bicubic", 0.9)),
        ("vit_base_patch16_384.augreg_in21k_ft_in1k", (*HALF, 384, "bicubic", 1.0)),
        ("deit3_small_patch16_224.fb_in1k", (*IMAGENET, 224, "bicubic", 0.9)),
        # encoders have no evaluation whose crop would matter
        ("vit_small_patch14_dinov2.lvd142m", (*IMAGENET, 518, None, None)),
        ("vit_base_patch16_224.mae", (*IMAGENET, 224, None, None)),
        ("mae_finetuned_vit_base", (*IMAGENET, None, "bicubic", None)),
        ("mae_st_vit_large_k400", (*KINETICS, None, None, None)),
        ("videomae_vit_base_k400_finetuned", (*IMAGENET, None, None, None)),
        ("audiomae_vit_base", ((-4.2677393,), (4.5689974,), None, None, None)),
    ],
)
def test_a_name_says_what_it_wants(name, wanted):
    assert identify(name).preprocessing == Preprocessing(*wanted)


def test_a_file_says_it_by_its_family_and_positions(official, mae_st, build, save):
    tuned = load(build(), save(official("fine-tuned"))).preprocessing
    assert tuned == Preprocessing(*IMAGENET, 32, "bicubic", 0.875)
    assert load(build(), save(official("encoder"))).preprocessing.crop_pct is None
    assert identify(save(mae_st("fine-tuned"))).preprocessing == Preprocessing(*KINETICS)


def test_a_timm_file_without_a_tag_may_want_anything(build, save):
    weights = build(global_pool="token").state_dict()
    assert identify(save(weights)).preprocessing.known() == {"size": 32}


def test_a_checkpoint_of_ours_wants_its_run_s_data(official, tmp_path):
    weights = official("fine-tuned")
    given = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "size": 48, "interpolation": "bilinear"}
    ours = {
        "family": "mae",
        "data": {"class_path": "a.B", "init_args": {**given, "crop_pct": None}},
    }
    state = {f"model.vit.{name}": value for name, value in weights.items()}
    torch.save({"state_dict": state, "tome_lightning": ours}, tmp_path / "a.ckpt")
    wanted = Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), 48, "bilinear")
    assert identify(tmp_path / "a.ckpt").preprocessing == wanted
    noted = json.dumps({"family": "tome", "mean": [0.5], "std": 0.2, "crop_pct": "wide"})
    save_file(weights, tmp_path / "b.safetensors", metadata={"tome_lightning": noted})
    assert identify(tmp_path / "b.safetensors").preprocessing == Preprocessing((0.5,), (0.2,))
