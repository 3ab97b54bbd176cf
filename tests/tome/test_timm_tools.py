"""What timm's own tools ask of a ViT, asked of a patched one: the answers are the plain ViT's."""

import copy

import pytest
import timm
import torch
from timm.data import resolve_data_config, resolve_model_data_config
from timm.models import group_modules, group_parameters
from timm.models._features import FeatureGetterNet
from timm.models._input import get_model_args, get_model_input_config, get_model_traits
from timm.models._prune import extract_layer, set_layer
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.task import FeatureDistillationTask
from timm.utils import freeze
from torch import nn

from tome_lightning.tome import patch, restore_order

from .tiny import images, tiny_vit

# Read off timm 1.0.31: what timm.data, .models._*, .optim, .task, .utils and the blocks' owners look up.
ASKED = [
    "pretrained_cfg", "default_cfg", "pretrained_model_args", "_traits", "_model_args", "num_classes",
    "in_chans", "num_features", "head_hidden_size", "embed_dim", "feature_info", "global_pool",
    "num_prefix_tokens", "num_reg_tokens", "has_class_token", "no_embed_class", "pool_include_prefix",
    "dynamic_img_size", "grad_checkpointing", "patch_embed", "cls_token", "reg_token", "pos_embed",
    "pos_drop", "patch_drop", "norm_pre", "blocks", "norm", "attn_pool", "fc_norm", "head_drop", "head",
]  # fmt: skip
TAGS = [
    "vit_tiny_patch16_224.augreg_in21k", "vit_small_patch14_dinov2.lvd142m", "deit3_small_patch16_224",
]  # fmt: skip


def tagged(name, **changes):
    """A timm model with the configuration of its tag and small random weights."""
    return timm.create_model(name, depth=2, embed_dim=24, num_heads=2, **changes).eval()


@pytest.mark.parametrize("name", [*TAGS, "deit_tiny_distilled_patch16_224"])
def test_every_attribute_is_the_vit_s(name):
    vit = tagged(name)
    model = patch(vit, r=4)
    for attribute in ASKED:
        assert getattr(model, attribute) is getattr(vit, attribute), attribute
    assert model.get_classifier() == vit.get_classifier()
    assert not hasattr(model, "output_fmt")  # nor what the ViT has not
    assert hasattr(model, "set_distilled_training") == hasattr(vit, "set_distilled_training")


@pytest.mark.parametrize("name", TAGS)
def test_the_data_configuration_is_the_tag_s(name):
    vit = tagged(name)
    model = patch(vit, r=4)
    assert resolve_model_data_config(model) == resolve_model_data_config(vit)
    assert resolve_data_config({}, model=model) == resolve_data_config({}, model=vit)
    for ask in (get_model_input_config, get_model_traits, get_model_args):
        assert ask(model) == ask(vit)


def test_augreg_and_dinov2_say_what_they_want():
    # not ImageNet's mean and 224 pixels, which timm falls back to
    assert resolve_model_data_config(patch(tagged(TAGS[0])))["mean"] == (0.5, 0.5, 0.5)
    assert resolve_model_data_config(patch(tagged(TAGS[1])))["input_size"] == (3, 518, 518)


def grouped(model, prefix=""):
    """(scale, decay) of each parameter that create_optimizer_v2 makes groups of."""
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.65)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(p)].removeprefix(prefix): (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize(
    "changes", [{}, {"global_pool": "avg"}, {"reg_tokens": 2, "pre_norm": True}], ids=str
)
def test_timm_s_optimizer_has_the_vit_s_groups(changes):
    vit = tiny_vit(**changes)
    assert grouped(patch(vit, r=2), "vit.") == grouped(vit)


def test_a_distilled_model_has_its_groups_too():
    vit = tagged("deit_tiny_distilled_patch16_224")
    assert grouped(patch(vit, r=2), "vit.") == grouped(vit)


def test_weight_decay_leaves_out_what_the_vit_leaves_out():
    vit = tiny_vit()
    model = patch(vit)
    assert model.no_weight_decay() == {f"vit.{name}" for name in vit.no_weight_decay()}
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=0.05)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays[id(vit.pos_embed)] == decays[id(vit.cls_token)] == 0
    assert decays[id(vit.head.weight)] == 0.05


@pytest.mark.parametrize("coarse", [False, True])
def test_layers_are_the_vit_s(coarse):
    vit = tiny_vit()
    model = patch(vit)
    for group in (group_parameters, group_modules):
        theirs = group(vit, vit.group_matcher(coarse), reverse=True)
        ours = group(model, model.group_matcher(coarse), reverse=True)
        ours.pop("vit", None)  # the ViT as a module: for the plain one that is the model
        assert ours == {f"vit.{name}": layer for name, layer in theirs.items()}
    assert len(param_groups_layer_decay(model)) == len(param_groups_layer_decay(vit))


def test_a_reset_classifier_is_the_one_that_runs():
    model = patch(tiny_vit(), r=2)
    model.reset_classifier(7, "avg")
    assert (model.num_classes, model.vit.num_classes, model.global_pool) == (7, 7, "avg")
    assert model(images()).shape == (2, 7)
    model.reset_classifier(0)
    assert model(images()).shape == (2, 16)


def test_what_is_set_is_set_on_the_vit():
    # nn.Module would register the new head beside the ViT: trained, saved and never run
    model = patch(tiny_vit(), r=2)
    names = list(model.state_dict())
    model.head = nn.Linear(16, 9)
    assert model.vit.head is model.head
    assert list(model.state_dict()) == names
    assert model(images()).shape == (2, 9)
    set_layer(model, "head", nn.Linear(16, 3))
    assert model(images()).shape == (2, 3)
    assert extract_layer(model, "blocks.1.attn") is model.vit.blocks[1].attn
    model.pos_embed = nn.Parameter(torch.zeros_like(model.pos_embed))
    assert model.vit.pos_embed.sum() == 0
    model.head = None
    assert model.vit.head is None


def test_its_own_attributes_stay_its_own():
    model = patch(tiny_vit(), r=2)
    model.r, model.prop_attn, model.note = 3, True, "mine"
    assert not {"r", "_r", "prop_attn", "note"} & model.vit.__dict__.keys()
    model.eval()
    model.train()
    assert model.training
    assert model.vit.training
    with pytest.raises(AttributeError, match="no attribute 'heads'"):
        _ = model.heads
    twin = copy.deepcopy(model)
    assert twin.head is twin.vit.head is not model.head


def test_another_input_size_is_taken_over():
    model = patch(tiny_vit(), r=2)
    model.set_input_size(img_size=(24, 24))
    assert model.num_tokens == 37
    assert model(images(size=24)).shape == (2, 5)
    assert get_model_input_config(model)["input_size"] == (3, 24, 24)


@pytest.mark.parametrize("r", [2, [3, 1, 2], {"r": 2, "inflection": -1.0}, {"keep": 0.8}])
def test_layers_pruned_away_leave_the_others_plan(r):
    model, x = patch(tiny_vit(), r=r), images()
    plan = model.plan()
    whole = model.forward_intermediates(x, [1], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([1], prune_norm=True) == [1]
    assert model.depth == 2
    assert model.plan() == plan[:2]
    pruned = model.forward_intermediates(x, [1], intermediates_only=True)[0]
    assert torch.equal(pruned, whole)


def test_timm_s_feature_extractor_takes_it():
    vit, x = tiny_vit(), images()
    want = FeatureGetterNet(copy.deepcopy(vit), [0, 2])
    got = FeatureGetterNet(patch(vit), [0, 2])
    assert got.feature_info.channels() == want.feature_info.channels()
    assert got.feature_info.reduction() == want.feature_info.reduction()
    assert all(map(torch.equal, got(x), want(x)))


def test_intermediate_layers_are_merged_ones():
    vit, x = tiny_vit(), images()
    model = patch(vit, r=2)
    (last,) = model.get_intermediate_layers(x, 1)
    assert last.shape == (2, 16 - 6, 16)
    (grid,) = model.get_intermediate_layers(x, 1, reshape=True)
    assert grid.shape == (2, 16, 4, 4)
    model.r = 0
    same = zip(model.get_intermediate_layers(x, 2), vit.get_intermediate_layers(x, 2), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


@pytest.mark.parametrize("changes", [{}, {"global_pool": "avg"}, {"global_pool": "map"}], ids=str)
def test_pooling_by_hand_weighs_by_size(changes):
    vit, x = tiny_vit(**changes), images()
    model = patch(vit, r=3)
    features = model.forward_features(x)
    pooled = vit.head(vit.head_drop(vit.fc_norm(model.pool(features))))
    assert torch.equal(pooled, model(x))
    state = patch(vit, r=3, trace_source=True).forward_state(x)
    spread = restore_order(vit.norm(state.x), state.source)  # every patch with its token's value
    close = {"rtol": 1e-5, "atol": 1e-6}  # float32: two orders of the same sum
    torch.testing.assert_close(model.pool(features), vit.pool(spread), **close)


def test_feature_distillation_trains_it():
    student = patch(tagged(TAGS[0], num_classes=5), r=8)
    task = FeatureDistillationTask(
        student, tagged(TAGS[0], num_classes=5), criterion=nn.CrossEntropyLoss(), verbose=False
    )
    assert task.student_mean.flatten().tolist() == [0.5] * 3
    loss = task(torch.randn(2, 3, 224, 224), torch.tensor([0, 4]))["loss"]
    loss.backward()
    assert student.head.weight.grad.abs().sum() > 0


def test_parts_are_frozen_by_the_vit_s_names():
    model = patch(tiny_vit())
    freeze(model, ["blocks.0", "patch_embed"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(name.startswith(("vit.blocks.0.", "vit.patch_embed.")) for name in frozen)
