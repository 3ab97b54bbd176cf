"""Every ViT of timm either merges and stays itself where nothing merges, or is refused with a reason.

The models are cut to two small blocks; what makes a model special is in the parts, not their size.
"""

from __future__ import annotations

import re

import pytest
import timm
import torch
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.vitamin import VitCfg, VitConvCfg

from tome_lightning.tome import UnsupportedModelError, patch
from tome_lightning.tome.support import FAMILY_REASONS, check_supported

from .tiny import images, randomise, tiny_vit

MODULES = ("vision_transformer", "deit", "vision_transformer_hybrid", "vitamin")
NAMES = [name for module in MODULES for name in timm.list_models(module=module)]
PARALLEL = "no place between them to merge"
REFUSED = {
    "vit_base_patch16_18x2_224": "ParallelThingsBlock.*several attentions",
    "vit_small_patch16_18x2_224": "ParallelThingsBlock.*several attentions",
    "vit_base_patch16_rpn_224": "ResPostBlock.*normalises after",
    "vit_base_patch16_xp_224": f"ParallelScalingBlock.*{PARALLEL}",
    "vit_huge_patch14_xp_224": f"ParallelScalingBlock.*{PARALLEL}",
    "vit_large_patch14_xp_224": f"ParallelScalingBlock.*{PARALLEL}",
    "vit_pwee_patch16_reg1_gap_256": f"ParallelScalingBlock.*{PARALLEL}",
    "vit_dlittle_patch16_reg1_gap_256": "DiffAttention.*two attention maps",
    "vit_dwee_patch16_reg1_gap_256": "DiffAttention.*two attention maps",
    "vit_dpwee_patch16_reg1_gap_256": f"DiffParallelScalingBlock.*{PARALLEL}",
}
MERGEABLE = [name for name in NAMES if name not in REFUSED]


def build(name, **kwargs):
    """The named model with two narrow blocks, for an image of a few patches."""
    small = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
    if name.startswith("vitamin"):
        conv = VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
        small["embed_cfg"] = VitCfg(
            embed_dim=(8, 8, 24), depths=(1, 1, 1), stem_width=8, conv_cfg=conv, head_type="1d"
        )
        small["img_size"] = 64
    elif name == "vit_base_mci_224":  # its stem is as wide as its blocks, and cannot be narrowed
        small.update(embed_dim=768, num_heads=12, img_size=64)
    elif name in timm.list_models(module="vision_transformer_hybrid"):
        reduction = 32 if "s16_p8" in name else int((re.search(r"_s(\d+)", name) or [0, 32])[1])
        small["img_size"] = 4 * reduction
    else:
        patch_size = int((re.search(r"patch(\d+)", name) or [0, 16])[1])
        small["img_size"] = 4 * patch_size
    torch.manual_seed(0)
    vit = timm.create_model(name, **{**small, **kwargs})
    randomise(vit.blocks)  # timm's initial layer scales and weights would hide a wrong block
    return vit.eval()


def image_for(vit):
    size = vit.patch_embed.img_size
    torch.manual_seed(1)
    return torch.randn(2, vit.in_chans, *size)


def test_every_refused_model_is_one_that_timm_has():
    assert set(REFUSED) <= set(NAMES)
    assert len(NAMES) > 200


@torch.no_grad()
@pytest.mark.parametrize("name", MERGEABLE)
def test_a_vit_of_timm_merges_and_is_itself_where_nothing_merges(name):
    vit = build(name)
    x = image_for(vit)
    keys, expected = list(vit.state_dict()), vit(x)

    model = patch(vit, r=0, prop_attn=True)
    assert torch.equal(model(x), expected)

    model.r = 3
    logits, state = model(x), model.forward_state(x)
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()
    assert not torch.equal(logits, expected)
    patches, prefix = vit.patch_embed.num_patches, vit.num_prefix_tokens
    assert state.x.shape[1] == patches + prefix - 6
    assert (state.size.sum(dim=1) == patches + prefix).all()
    assert (state.size[:, :prefix] == 1).all()

    assert list(model.vit.state_dict()) == keys
    assert torch.equal(vit(x), expected)


@pytest.mark.parametrize("name", REFUSED)
def test_a_vit_that_cannot_merge_is_refused_with_the_reason(name):
    with pytest.raises(UnsupportedModelError, match=REFUSED[name]):
        patch(build(name), r=2)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit3_small_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_base_patch16_siglip_224",
        "vit_medium_patch16_reg4_gap_256",
        "vit_base_patch16_clip_224",
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_without_merging_draws_the_same_random_numbers(name, checkpointing):
    vit = build(
        name, drop_path_rate=0.4, proj_drop_rate=0.1, pos_drop_rate=0.1, drop_rate=0.1
    ).train()
    x = image_for(vit)
    torch.manual_seed(5)
    expected = vit(x)
    model = patch(vit, prop_attn=True).train()
    model.set_grad_checkpointing(checkpointing)
    torch.manual_seed(5)
    logits = model(x)
    assert torch.equal(logits, expected)
    torch.manual_seed(6)
    assert not torch.equal(model(x), expected)


def test_a_distilled_model_in_training_gives_both_of_its_heads():
    vit = build("deit_tiny_distilled_patch16_224").train()
    vit.set_distilled_training(True)
    x = image_for(vit)
    assert all(torch.equal(a, b) for a, b in zip(patch(vit)(x), vit(x), strict=True))
    merged = patch(vit, r=3)(x)
    assert [logits.shape for logits in merged] == [(2, 5), (2, 5)]


OTHER_FAMILIES = {
    "swin_tiny_patch4_window7_224": "Swin.*windows",
    "mvitv2_tiny": "MultiScaleVit.*pools the grid",
    "eva02_tiny_patch14_224": "Eva.*rotary",
    "beit_base_patch16_224": "Beit.*relative position bias",
    "naflexvit_base_patch16_gap": "NaFlexVit.*differs from image to image",
    "vit_relpos_small_patch16_224": "VisionTransformerRelPos.*relative position bias",
    "samvit_base_patch16": "VisionTransformerSAM.*windows",
    "hiera_tiny_224": "Hiera.*pools the grid",
    "resnet18": "ResNet is not timm's VisionTransformer",
}


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_other_families_are_refused_with_the_reason(name):
    with pytest.raises(UnsupportedModelError, match=OTHER_FAMILIES[name]) as error:
        patch(timm.create_model(name, device="meta"), r=2)
    assert "\n" not in str(error.value)
    assert "vit_base_patch16_224" in str(error.value)  # the way out


def test_every_reason_about_a_family_is_tested():
    for part in FAMILY_REASONS:
        assert any(part in reason for reason in OTHER_FAMILIES.values()), part


def test_what_is_no_timm_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="Linear is not timm's VisionTransformer"):
        patch(torch.nn.Linear(2, 2))


def test_a_merging_model_is_not_patched_twice():
    with pytest.raises(UnsupportedModelError, match=r"already merges.*model\.r"):
        patch(patch(tiny_vit()))


class SubBlock(Block):
    """May do anything in its forward."""


def test_a_subclass_of_the_block_is_refused_by_its_place():
    with pytest.raises(UnsupportedModelError, match=r"blocks\.0 is SubBlock"):
        patch(tiny_vit(block_fn=SubBlock))
    vit = tiny_vit()
    vit.blocks[2] = SubBlock(16, 2)
    with pytest.raises(UnsupportedModelError, match=r"blocks\.2 is SubBlock"):
        patch(vit)


def test_another_attention_is_refused_by_its_place():
    vit = tiny_vit()

    class OwnAttention(type(vit.blocks[1].attn)):
        pass

    vit.blocks[1].attn = OwnAttention(16, 2)
    with pytest.raises(UnsupportedModelError, match=r"blocks\.1\.attn is OwnAttention"):
        patch(vit)


@pytest.mark.parametrize("method", ["forward", "forward_features", "forward_head", "pool"])
def test_a_subclass_with_its_own_way_is_refused(method):
    own = type("OwnViT", (VisionTransformer,), {method: lambda self, x: x})
    with pytest.raises(UnsupportedModelError, match=rf"OwnViT has its own {method}\(\)"):
        patch(tiny_vit(cls=own))


@torch.no_grad()
def test_a_subclass_that_only_embeds_differently_is_honoured():
    class Shifted(VisionTransformer):
        def _pos_embed(self, x):
            return super()._pos_embed(x) + 1.0

    vit, x = tiny_vit(cls=Shifted), images()
    assert torch.equal(patch(vit)(x), vit(x))
    assert not torch.equal(vit(x), tiny_vit()(x))


def test_a_pool_that_cannot_weigh_by_size_is_refused():
    with pytest.raises(UnsupportedModelError, match="AttentionPoolPrr"):
        patch(tiny_vit(global_pool="prr"))


def test_a_pool_with_positions_of_its_own_is_refused():
    vit = tiny_vit(global_pool="map")
    vit.attn_pool = AttentionPoolLatent(16, num_heads=2, feat_size=16, pos_embed="abs")
    with pytest.raises(UnsupportedModelError, match="AttentionPoolLatent"):
        patch(vit)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(UnsupportedModelError, match="no blocks"):
        patch(tiny_vit(depth=0))


def test_checking_changes_nothing():
    vit = tiny_vit()
    before = repr(vit), set(vars(vit))
    check_supported(vit)
    assert (repr(vit), set(vars(vit))) == before
