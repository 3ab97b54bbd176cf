import copy
import io
import pickle

import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

from tome_lightning.tome import PlanError, TokenState, layer_plan, patch
from tome_lightning.tome.merge import restore_order

from . import oracle
from .test_plan import INVALID
from .tiny import images, randomise, tiny_vit

PREFIX = {
    0: {"class_token": False, "reg_tokens": 0},
    1: {"class_token": True, "reg_tokens": 0},
    2: {"class_token": False, "reg_tokens": 2},
    5: {"class_token": True, "reg_tokens": 4, "no_embed_class": True},
}
# fc_norm=False keeps the final norm before the pool, where timm puts it for token and map pooling
POOLS = {
    "token": {"global_pool": "token"},
    "avg": {"global_pool": "avg"},
    "avg after norm": {"global_pool": "avg", "fc_norm": False},
    "avg with prefix": {"global_pool": "avg", "pool_include_prefix": True},
    "max": {"global_pool": "max"},
    "avgmax": {"global_pool": "avgmax"},
    "map": {"global_pool": "map"},
}
RS = {
    "int": 2,
    "clamped": 50,
    "list": [3, 0, 4],
    "early": {"r": 2, "inflection": -1.0},
    "late": {"r": 2, "inflection": 1.0},
    "keep": {"keep": 0.7},
}


def agrees_with_the_oracle(vit, r, prop_attn, seed=1):
    """All that a merging model returns, against the token-by-token one; in float64."""
    vit, x = vit.double(), images(seed=seed, dtype=torch.float64)
    model = patch(vit, r=r, prop_attn=prop_attn, trace_source=True)
    want = oracle.run(vit, x, r, prop_attn)
    assert want.margin > 1e-6  # no tie: decisions stand ten times clear of the float32 log(size)
    # float64, but log(size) is a float32 number: off by up to 1e-7 in each of 3 blocks
    close = {"rtol": 0, "atol": 2e-6 if prop_attn or vit.global_pool == "map" else 1e-11}
    with torch.no_grad():
        torch.testing.assert_close(model(x), want.logits, **close)
        state = model.forward_state(x)
    for image, tokens in enumerate(want.tokens[-1]):
        torch.testing.assert_close(state.x[image], torch.stack([t.x for t in tokens]), **close)
        assert state.size[image, :, 0].tolist() == [len(t.patches) for t in tokens]
        for i, token in enumerate(tokens):
            assert (state.source[image, token.patches] == i).all()
    return want


@pytest.mark.parametrize("prop_attn", [False, True])
@pytest.mark.parametrize("r", RS)
@pytest.mark.parametrize("prefix", PREFIX)
def test_agrees_with_merging_token_by_token(prefix, r, prop_attn):
    vit = tiny_vit(global_pool="avg", **PREFIX[prefix])
    want = agrees_with_the_oracle(vit, RS[r], prop_attn)
    assert len(want.tokens[-1][0]) < 16 + prefix


@pytest.mark.parametrize("prop_attn", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 6])
def test_agrees_at_any_depth(depth, prop_attn):
    agrees_with_the_oracle(tiny_vit(seed=3, depth=depth), 2, prop_attn)


@pytest.mark.parametrize(
    ("pool", "prefix"),
    [
        (pool, prefix)
        for pool in POOLS
        for prefix in PREFIX
        if pool != "token" or PREFIX[prefix]["class_token"]  # which that pool takes
    ],
)
def test_pooling_merged_tokens_is_pooling_duplicated_ones(pool, prefix):
    agrees_with_the_oracle(tiny_vit(seed=2, **POOLS[pool], **PREFIX[prefix]), 3, True)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["avg", "avg after norm", "avg with prefix", "avgmax", "map"])
def test_pooling_would_differ_without_sizes(pool):
    """So the pools above can tell weighted from unweighted."""
    model, x = patch(tiny_vit(**POOLS[pool]), r=3), images()
    features = model.forward_features(x)
    unweighted = model.vit.forward_head(features)
    assert (model.forward_head(features) - unweighted).abs().max() > 1e-2


@pytest.mark.parametrize(
    "kwargs",
    [{"qk_norm": True}, {"init_values": 0.5}, {"scale_attn_norm": True}, {"pre_norm": True}],
    ids=str,
)
def test_variants_of_the_block_agree_with_the_oracle(kwargs):
    agrees_with_the_oracle(tiny_vit(**kwargs), 3, True)


def test_a_distilled_model_protects_both_tokens():
    vit = tiny_vit(cls=VisionTransformerDistilled)
    x = images()
    model = patch(vit, r=50, trace_source=True)
    assert model.num_prefix == 2
    state = model.forward_state(x)
    assert (state.size[:, :2] == 1).all()
    assert torch.equal(state.source[:, :2], torch.tensor([[0, 1], [0, 1]]))


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_proportional_attention_changes_the_logits_once_tokens_have_merged(fused):
    vit, x = tiny_vit(), images()
    for block in vit.blocks:
        block.attn.fused_attn = fused
    on, off = (patch(vit, r=4, prop_attn=prop_attn) for prop_attn in (True, False))
    assert (on(x) - off(x)).abs().max() > 1e-2
    on.r = off.r = [0, 0, 4]  # sizes differ only after the last attention
    assert torch.equal(on(x), off(x))
    on.r = off.r = 0
    assert torch.equal(on(x), off(x))


@torch.no_grad()
def test_a_forward_leaves_nothing_behind():
    model, x = patch(tiny_vit(), r=3, prop_attn=True), images()
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    r, plan, first = model.r, model.plan(), model(x)
    model.forward_features(x)
    model.forward_state(x)
    assert torch.equal(model(x), first)
    assert (model.r, model.plan()) == (r, plan)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other():
    model, x = patch(tiny_vit(), r=3, prop_attn=True), images(batch=3)
    alone = torch.cat([model(image.unsqueeze(0)) for image in x])
    # float32 matrix products may be blocked differently for another batch size
    torch.testing.assert_close(model(x), alone, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [12, 16, 24])
def test_another_resolution_gets_a_plan_of_its_own(size):
    model = patch(
        tiny_vit(dynamic_img_size=True, global_pool="avg"), r={"keep": 0.8}, prop_attn=True
    )
    x = images(size=size)
    tokens = (size // 4) ** 2 + 1
    state = model.forward_state(x)
    assert state.size.sum(dim=1).tolist() == [[tokens]] * 2
    plan = layer_plan({"keep": 0.8}, 3, tokens, 1)
    assert plan == model.plan(tokens)
    assert state.x.shape[1] == tokens - sum(plan)
    model.r = 0
    assert torch.equal(model(x), model.vit(x))


@torch.no_grad()
def test_dropped_patches_get_a_plan_of_their_own():
    model = patch(tiny_vit(patch_drop_rate=0.5, global_pool="avg"), r=50).train()
    state = model.forward_state(images())
    assert state.size.sum(dim=1).tolist() == [[9], [9]]  # class token and half of the patches
    assert state.x.shape[1] == 9 - sum(layer_plan(50, 3, 9, 1))


# r


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_r_is_refused_when_it_is_set_and_changes_nothing(name):
    model = patch(tiny_vit(depth=12), r=2)
    with pytest.raises(PlanError, match=INVALID[name][1]) as error:
        model.r = INVALID[name][0]
    assert "\n" not in str(error.value)
    assert model.r == 2
    with pytest.raises(PlanError):
        patch(model.vit, r=INVALID[name][0])


@torch.no_grad()
def test_r_can_be_set_between_forwards():
    model, x = patch(tiny_vit()), images()
    counts = {}
    for r in (0, 2, [4], {"r": 2, "inflection": 1.0}, {"keep": 0.5}, 0):
        model.r = r
        counts[str(r)] = model.forward_state(x).x.shape[1]
        assert counts[str(r)] == 17 - sum(model.plan())
    assert list(counts.values()) == [17, 11, 13, 17 - 0 - 2 - 4, 3]
    assert torch.equal(model(x), model.vit(x))


def test_the_plan_is_that_of_the_models_own_size():
    model = patch(tiny_vit(reg_tokens=4), r=6)
    assert (model.depth, model.num_prefix, model.num_tokens) == (3, 5, 21)
    assert model.plan() == (6, 5, 2)
    assert model.plan(9) == (2, 1, 0)
    assert "r=6, prop_attn=False" in repr(model)


# Gradients


def gradients(model, x):
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(7)  # for drop path
    model(x).square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("r", [0, 3])
@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_checkpointing_changes_no_gradient(pool, r):
    vit = tiny_vit(drop_path_rate=0.3, init_values=1.0, **POOLS[pool])
    model, x = patch(vit, r=r, prop_attn=True).train(), images(batch=4)
    plain = gradients(model, x)
    model.set_grad_checkpointing()
    recomputed = gradients(model, x)
    assert len(plain) == len(recomputed) > 30
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    assert all(grad.abs().sum() > 0 for grad in plain[:2])


@pytest.mark.parametrize(
    ("checkpointing", "grad", "calls"),
    [(False, True, 1), (True, True, 2), (True, False, 1)],
)
def test_checkpointing_recomputes_every_block_once(checkpointing, grad, calls):
    model, x = patch(tiny_vit(), r=3, prop_attn=True, trace_source=True).train(), images()
    model.set_grad_checkpointing(checkpointing)
    assert model.vit.grad_checkpointing is checkpointing
    seen = dict.fromkeys(range(3), 0)
    for i, block in enumerate(model.vit.blocks):
        for part in (
            block.norm1,
            block.norm2,
        ):  # recomputing stops before the MLP's last layer ends
            part.register_forward_hook(lambda *_, i=i: seen.__setitem__(i, seen[i] + 1))
    with torch.set_grad_enabled(grad):
        loss = model(x).sum()
    if grad:
        loss.backward()
    assert seen == dict.fromkeys(range(3), 2 * calls)


def test_a_whole_model_can_be_checkpointed_from_outside():
    """Reentrant checkpointing runs the forward without gradients first."""
    model, x = patch(tiny_vit(), r=3, prop_attn=True).train(), images().requires_grad_()
    model(x).sum().backward()
    plain, x.grad = x.grad, None
    for reentrant in (False, True):
        checkpoint(model, x, use_reentrant=reentrant).sum().backward()
        assert torch.equal(x.grad, plain)
        x.grad = None


@pytest.mark.parametrize("prop_attn", [False, True])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_gradients_are_those_of_finite_differences(pool, prop_attn):
    vit = tiny_vit(depth=2, in_chans=1, img_size=8, patch_size=2, **POOLS[pool]).double()
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    # Finite steps of 1e-6 must not change who merges: 1e-4 is well clear of that.
    assert oracle.run(vit, x.detach(), 4, prop_attn).margin > 1e-4
    assert torch.autograd.gradcheck(patch(vit, r=4, prop_attn=prop_attn), (x,))


def test_every_parameter_learns_through_merged_tokens():
    model = patch(tiny_vit(global_pool="avg"), r=4, prop_attn=True).train()
    model(images()).square().sum().backward()
    for name, parameter in model.vit.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


# Precision


@torch.no_grad()
def test_bfloat16_models_and_autocast_count_all_patches():
    vit = tiny_vit(img_size=96, global_pool="avg")  # 576 patches
    x = images(size=96)
    model = patch(vit, r=[288, 144, 72], prop_attn=True)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model.forward_state(x)
        assert model(x).isfinite().all()
    model.bfloat16()
    half = model.forward_state(x.bfloat16())
    assert half.x.dtype == torch.bfloat16
    for state in (autocast, half):
        assert state.size.dtype == torch.float32
        assert state.size.sum(dim=1).tolist() == [[577], [577]]
    assert model(x.bfloat16()).isfinite().all()


@torch.no_grad()
def test_constant_images_give_no_nan():
    """All patches alike: every score ties, and normed tokens may be zero."""
    model = patch(tiny_vit(pos_embed="none", global_pool="avg"), r=8, prop_attn=True)
    assert model(torch.zeros(1, 3, 16, 16)).isfinite().all()


# The timm interface


@torch.no_grad()
@pytest.mark.parametrize("r", [0, 3])
@pytest.mark.parametrize("pool", POOLS)
def test_features_and_head_make_the_forward(pool, r):
    model, x = patch(tiny_vit(**POOLS[pool]), r=r, prop_attn=True), images()
    features = model.forward_features(x)
    assert features.shape == (2, 17 - 3 * r, 16)
    assert torch.equal(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, 16)
    assert torch.equal(model.vit.head(pooled), model(x))
    size = model.forward_state(x).size
    if r:
        assert torch.equal(model.forward_head(features.clone(), size=size), model(x))
    else:
        assert torch.equal(features, model.vit.forward_features(x))
        assert torch.equal(pooled, model.vit.forward_head(features, pre_logits=True))


@torch.no_grad()
@pytest.mark.parametrize("pool", ["avg", "avgmax", "map", "avg with prefix"])
def test_a_head_that_needs_sizes_does_not_guess_them(pool):
    model, x = patch(tiny_vit(**POOLS[pool]), r=3), images()
    features = model.forward_features(x).clone()  # the copy has lost them
    with pytest.raises(ValueError, match=r"size=.*forward_state") as error:
        model.forward_head(features)
    assert "\n" not in str(error.value)
    model.r = 0
    assert model.forward_head(model.vit.forward_features(x)).shape == (2, 5)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["token", "max"])
def test_a_head_that_needs_no_sizes_takes_any_tokens(pool):
    model, x = patch(tiny_vit(**POOLS[pool]), r=3), images()
    assert torch.equal(model.forward_head(model.forward_features(x).clone()), model(x))


@torch.no_grad()
@pytest.mark.parametrize("pool", POOLS)
def test_the_head_drops_out_in_training_as_timms_does(pool):
    model = patch(tiny_vit(drop_rate=0.999, **POOLS[pool]), r=3).train()
    pooled = model.forward_head(model.forward_features(images()), pre_logits=True)
    assert (pooled == 0).sum() >= 30  # of 32; more than 2 survive once in 5e5 draws


@torch.no_grad()
def test_without_a_pool_the_tokens_come_out():
    model = patch(tiny_vit(global_pool=""), r=3)
    assert model(images()).shape == (2, 8, 5)


@torch.no_grad()
def test_the_state_before_any_merge_says_so():
    model, x = patch(tiny_vit()), images()
    state = model.forward_state(x)
    assert isinstance(state, TokenState)
    assert torch.equal(state.size, torch.ones(2, 17, 1))
    assert state.source is None
    model.trace_source = True
    assert torch.equal(model.forward_state(x).source, torch.arange(17).expand(2, -1))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))


@torch.no_grad()
@pytest.mark.parametrize("output_fmt", ["NCHW", "NLC"])
@pytest.mark.parametrize("return_prefix_tokens", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("prefix", [0, 5])
def test_without_merging_intermediates_are_timms(prefix, norm, return_prefix_tokens, output_fmt):
    vit, x = tiny_vit(global_pool="avg", fc_norm=False, **PREFIX[prefix]), images()
    model = patch(vit, prop_attn=True)
    for indices in (None, 2, [0, 2], [1], [-1]):
        for stop_early in (False, True):
            for only in (False, True):
                kwargs = {
                    "indices": indices, "norm": norm, "stop_early": stop_early,
                    "return_prefix_tokens": return_prefix_tokens, "output_fmt": output_fmt,
                    "intermediates_only": only,
                }  # fmt: skip
                ours, timms = (m.forward_intermediates(x, **kwargs) for m in (model, vit))
                assert same(ours, timms), kwargs


@torch.no_grad()
@pytest.mark.parametrize("prefix", PREFIX)
def test_merged_intermediates_spread_over_the_patches_they_stand_for(prefix):
    vit = tiny_vit(global_pool="avg", **PREFIX[prefix]).double()
    x = images(dtype=torch.float64)
    model = patch(vit, r=[3, 0, 4])
    want = oracle.run(vit, x, [3, 0, 4], prop_attn=False)
    assert want.margin > 1e-6
    grids, unmerged, merged = (
        model.forward_intermediates(x, intermediates_only=True, return_prefix_tokens=True, **kwargs)
        for kwargs in ({}, {"output_fmt": "NLC", "unmerge": True}, {"output_fmt": "NLC"})
    )
    for block, tokens_of_images in enumerate(want.tokens):
        parts = [grids[block], unmerged[block], merged[block]]
        if prefix:
            for _, prefix_tokens in parts:
                assert prefix_tokens.shape == (2, prefix, 16)
                assert torch.equal(prefix_tokens, parts[0][1])
            parts = [patches for patches, _ in parts]
        grid, spread, tokens = parts
        assert grid.shape == (2, 16, 4, 4)
        assert grid.is_contiguous()
        assert torch.equal(grid.flatten(2).transpose(1, 2), spread)
        for image, want_tokens in enumerate(tokens_of_images):
            expected = torch.stack([token.x for token in want_tokens[prefix:]])
            torch.testing.assert_close(tokens[image], expected, rtol=0, atol=1e-11)  # float64
            for i, token in enumerate(want_tokens[prefix:]):
                for position in token.patches:
                    assert torch.equal(spread[image, position - prefix], tokens[image, i])


@torch.no_grad()
def test_intermediates_come_with_the_merged_final_tokens():
    model, x = patch(tiny_vit(), r=3, trace_source=True), images()
    final, taken = model.forward_intermediates(
        x, indices=1, norm=True, output_fmt="NLC", unmerge=True
    )
    assert torch.equal(final, model.forward_features(x))
    spread = restore_order(final, model.forward_state(x).source)
    assert torch.equal(taken[0], spread[:, 1:])


@torch.no_grad()
def test_stopping_early_runs_no_later_block():
    model = patch(tiny_vit(), r=3)
    model.vit.blocks[2].norm1.register_forward_hook(lambda *_: pytest.fail("ran block 2"))
    taken = model.forward_intermediates(
        images(), indices=[1], stop_early=True, intermediates_only=True
    )
    assert [grid.shape for grid in taken] == [(2, 16, 4, 4)]


@torch.no_grad()
def test_intermediates_of_another_resolution_have_its_grid():
    model = patch(tiny_vit(dynamic_img_size=True), r=3)
    x = torch.randn(2, 3, 24, 16)
    grids = model.forward_intermediates(x, intermediates_only=True)
    assert [grid.shape for grid in grids] == [(2, 16, 6, 4)] * 3


def test_a_grid_of_merged_tokens_is_refused():
    model = patch(tiny_vit(), r=3)
    with pytest.raises(ValueError, match="NLC"):
        model.forward_intermediates(images(), unmerge=False)
    with pytest.raises(ValueError, match="NHWC"):
        model.forward_intermediates(images(), output_fmt="NHWC")


# Saving, copying, exporting


@torch.no_grad()
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_a_copy_is_the_same_model_and_nobody_elses(copied):
    model, x = patch(tiny_vit(), r={"r": 2, "inflection": -1.0}, prop_attn=True), images()
    other = copied(model)
    expected = model(x)
    assert torch.equal(other(x), expected)
    assert (other.r, other.prop_attn, other.trace_source) == (model.r, True, False)
    other.r = 0
    for parameter in other.parameters():
        parameter.zero_()
    assert torch.equal(model(x), expected)


@torch.no_grad()
def test_the_weights_are_stock_timm_weights():
    name = "vit_tiny_patch16_224"
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "num_classes": 5}
    vit = randomise(timm.create_model(name, **small)).eval()
    model, x = patch(vit, r=3, prop_attn=True), images(size=64)
    file = io.BytesIO()
    torch.save(model.vit.state_dict(), file)
    file.seek(0)
    fresh = timm.create_model(name, **small).eval()
    assert not torch.equal(fresh(x), vit(x))
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh(x), vit(x))
    assert torch.equal(patch(fresh, r=3, prop_attn=True)(x), model(x))
    assert {f"vit.{key}" for key in vit.state_dict()} == set(model.state_dict())


@torch.no_grad()
def test_the_patched_vit_is_untouched():
    vit, x = tiny_vit(), images()
    before, printed, attributes = vit(x), repr(vit), set(vars(vit))
    model = patch(vit, r=4, prop_attn=True, trace_source=True)
    model(x)
    assert torch.equal(vit(x), before)
    assert (repr(vit), set(vars(vit))) == (printed, attributes)
    assert model.vit is vit


def test_training_mode_and_device_reach_the_vit():
    model = patch(tiny_vit())
    assert model.train().vit.training
    assert not model.eval().vit.blocks[0].training
    assert model.double().vit.cls_token.dtype == torch.float64


@torch.no_grad()
@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_a_merging_model_can_be_exported(pool):
    model, x = patch(tiny_vit(**POOLS[pool]), r=3, prop_attn=True), images()
    exported = torch.export.export(model, (x,)).module()
    for batch in (x, images(seed=9)):  # the second shows that no choice was frozen
        # one graph of the same float32 operations, some of them decomposed
        torch.testing.assert_close(exported(batch), model(batch), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_merging_model_compiles_to_one_graph():
    torch._dynamo.reset()
    model, x = patch(tiny_vit(), r=3, prop_attn=True), images()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    # the counter runs each graph eagerly, so it is the same float32 operations
    for batch in (x, images(seed=9)):
        assert torch.equal(compiled(batch), model(batch))
    assert counter.frame_count == 1
    model.r = 2
    assert torch.equal(compiled(x), model(x))
    assert counter.frame_count == 2  # a new r is a new graph, and
    model.r = 3
    assert torch.equal(compiled(x), model(x))
    assert counter.frame_count == 2  # an old one is not
    torch._dynamo.reset()


def test_a_merging_model_compiles_for_training():
    torch._dynamo.reset()
    model, x = patch(tiny_vit(global_pool="avg"), r=3, prop_attn=True).train(), images()
    plain = gradients(model, x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = x.clone().requires_grad_()
    model.zero_grad()
    compiled(x).square().sum().backward()
    assert torch.equal(x.grad, plain[0])
    torch._dynamo.reset()


def test_intermediates_come_as_timm_s_dict_on_request():
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=3
    ).eval()
    x = torch.randn(2, 3, 32, 32)
    ask = {"indices": [0, 2], "return_prefix_tokens": True, "norm": True, "output_dict": True}
    want = vit.forward_intermediates(x, **ask)
    got = patch(vit).forward_intermediates(x, **ask)
    assert got.keys() == want.keys()
    assert torch.equal(got["image_features"], want["image_features"])
    for name in ("image_intermediates", "image_intermediates_prefix"):
        assert all(torch.equal(a, b) for a, b in zip(got[name], want[name], strict=True))


@pytest.mark.parametrize("prefix", PREFIX.values(), ids=str)
@pytest.mark.parametrize("prop_attn", [False, True])
def test_sources_after_each_block_are_what_undoes_its_merges(prefix: dict, prop_attn: bool):
    vit = tiny_vit(**prefix, global_pool="token" if prefix["class_token"] else "avg")
    model, x = patch(vit, r=[3, 0, 4], prop_attn=prop_attn), images()
    merged, apart = (
        model.forward_intermediates(x, output_fmt="NLC", unmerge=unmerge, intermediates_only=True)
        for unmerge in (False, True)
    )
    first = model.num_prefix
    sources = model.forward_sources(x, [3, 1, 2])
    for source, depth in zip(sources, (3, 1, 2), strict=True):
        # patches point past the prefix tokens, which forward_intermediates has cut off
        again = restore_order(merged[depth - 1], source[:, first:] - first)
        assert torch.equal(again, apart[depth - 1])
        assert torch.equal(source[:, :first], torch.arange(first).expand(2, -1))
    model.trace_source = True
    assert torch.equal(sources[0], model.forward_state(x).source)
    assert torch.equal(model.forward_sources(x)[0], sources[0])
