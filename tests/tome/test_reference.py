"""Agreement with numbers that the authors' functions produced (see the file's own ``meta``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tome_lightning.tome import (
    Matching,
    PlanError,
    TokenState,
    bipartite_soft_matching,
    layer_plan,
    max_r,
    merge_tokens,
    patch,
    requested_plan,
    token_counts,
    unmerge,
)
from tome_lightning.tome.merge import output_index

VECTORS = json.loads((Path(__file__).parents[1] / "data/tome_reference_vectors.json").read_text())
MATCHINGS = {case["name"]: case for case in VECTORS["bipartite_soft_matching"]}
# The file is rounded to 4 to 6 decimals, and its merges are float32 sums of a few numbers near 1.
ROUNDING = {"rtol": 0.0, "atol": 1e-5}


def ours(r, form):
    return {"r": r[0], "inflection": r[1]} if form == "tuple" else r


def num_prefix(case):
    return int(case["class_token"]) + int(case["distill_token"])


def match(case):
    prefix = num_prefix(case)
    (r,) = layer_plan(case["r"], 1, case["N"], prefix)
    return bipartite_soft_matching(torch.tensor(case["metric"]), r, prefix)


def groups(matching):
    """For each image, the input positions in each output token."""
    index = output_index(matching)
    return [[(row == i).nonzero().flatten() for i in range(row.max() + 1)] for row in index]


def merges(case):
    return not case["expected"]["noop"]


@pytest.mark.parametrize("name", [name for name, case in MATCHINGS.items() if merges(case)])
class TestMatching:
    def test_chooses_the_same_tokens(self, name):
        case, want = MATCHINGS[name], MATCHINGS[name]["expected"]
        matching, prefix = match(case), num_prefix(case)
        assert matching.src.shape[1] == want["r_eff"]
        assert matching.keep.shape[1] == want["tokens_out"]
        assert matching.src.div(2, rounding_mode="floor").tolist() == want["src_idx"]
        assert (matching.src % 2 == 0).all()

        odd = torch.arange(1, case["N"], 2)
        landed = matching.keep.gather(1, matching.dst)  # input position of each destination
        assert landed.tolist() == odd[torch.tensor(want["dst_idx"])].tolist()

        # Theirs holds the class token among the unmerged, and the distillation token among the
        # destinations; prefix tokens lead ours.
        protected_even = (prefix + 1) // 2
        unmerged = case["N"] - len(odd) - want["r_eff"]
        even = matching.keep[:, prefix : prefix + unmerged - protected_even] // 2
        first = torch.arange(protected_even).expand(case["B"], -1)
        assert torch.cat([first, even], dim=1).tolist() == want["unm_idx"]
        last = matching.keep[:, prefix + unmerged - protected_even :]
        assert last.tolist() == [odd[prefix // 2 :].tolist()] * case["B"]

    @pytest.mark.parametrize("mode", ["mean", "sum", "amax"])
    def test_groups_reduce_to_the_same_values(self, name, mode):
        case = MATCHINGS[name]
        x = torch.tensor(case["x"])
        reduced = [
            torch.stack([getattr(image[group], mode)(dim=0) for group in image_groups])
            for image, image_groups in zip(x, groups(match(case)), strict=True)
        ]
        want = torch.tensor(case["expected"][f"merge_{mode}"])
        torch.testing.assert_close(torch.stack(reduced), want, **ROUNDING)

    def test_weighted_means_and_sizes_are_the_same(self, name):
        case, want = MATCHINGS[name], MATCHINGS[name]["expected"]
        x, size = torch.tensor(case["x"]), torch.tensor(case["size"]).unsqueeze(-1)
        for state, key in [(TokenState(x), "default"), (TokenState(x, size), "given")]:
            merged = merge_tokens(state, match(case))
            torch.testing.assert_close(merged.x, torch.tensor(want[f"wavg_{key}_x"]), **ROUNDING)
            assert merged.size.squeeze(-1).tolist() == want[f"wavg_{key}_size"]

    def test_the_source_is_the_same(self, name):
        case, want = MATCHINGS[name], torch.tensor(MATCHINGS[name]["expected"]["source_default"])
        source = torch.arange(case["N"]).expand(case["B"], -1)
        state = merge_tokens(TokenState(torch.tensor(case["x"]), None, source), match(case))
        assert torch.equal(state.source, want.argmax(dim=1))

    def test_unmerging_restores_the_same_values(self, name):
        case, want = MATCHINGS[name], MATCHINGS[name]["expected"]
        matching = match(case)
        mean = merge_tokens(TokenState(torch.tensor(case["x"])), matching).x
        restored = unmerge(mean, matching)
        if "unmerge_of_merge_mean" in want:
            expected = torch.tensor(want["unmerge_of_merge_mean"])
            torch.testing.assert_close(restored, expected, **ROUNDING)
        else:  # theirs is wrong with a distillation token, so ours is held against their groups
            source = torch.tensor(want["source_default"]).float()  # [B, groups, inputs]
            groups_mean = torch.tensor(want["merge_mean"])
            torch.testing.assert_close(restored, source.transpose(1, 2) @ groups_mean, **ROUNDING)


@pytest.mark.parametrize("name", [name for name, case in MATCHINGS.items() if not merges(case)])
def test_nothing_merges_where_nothing_merged_there(name):
    case = MATCHINGS[name]
    assert case["expected"]["tokens_out"] == case["N"]
    if case["r"] < 0:  # a silent no-op there, refused here
        with pytest.raises(PlanError, match="0 or more"):
            layer_plan(case["r"], 1, case["N"], num_prefix(case))
    else:
        assert layer_plan(case["r"], 1, case["N"], num_prefix(case)) == (0,)
        assert min(case["r"], max_r(case["N"], num_prefix(case))) == 0


def test_three_merges_in_a_row_carry_size_and_source_alike():
    chain = VECTORS["chain"]
    x = torch.tensor(chain["x"])
    state = TokenState(x, None, torch.arange(x.shape[1]).unsqueeze(0))
    assert len(chain["steps"]) == 3
    for step in chain["steps"]:
        state = merge_tokens(
            state, bipartite_soft_matching(torch.tensor(step["metric"]), step["r"], 1)
        )
        torch.testing.assert_close(state.x, torch.tensor(step["x_after"]), **ROUNDING)
        assert state.size.squeeze(-1).tolist() == step["size_after"]
        assert state.source.tolist() == step["group_of_input_token"]
        assert torch.equal(state.source, torch.tensor(step["source_after"]).argmax(dim=1))
    patches, size = state.x[:, 1:], state.size[:, 1:]
    mean = (patches * size).sum(dim=1) / size.sum(dim=1)
    torch.testing.assert_close(
        mean, torch.tensor(chain["size_weighted_patch_mean_over_12"]), **ROUNDING
    )


@pytest.mark.parametrize(
    "case", VECTORS["parse_r"], ids=lambda c: f"{c['num_layers']}-{c['form']}-{c['r']}"
)
def test_r_over_depth_is_the_same(case):
    r, depth = ours(case["r"], case["form"]), case["num_layers"]
    if case["form"] == "list" and len(case["r"]) > depth:  # passed on uncut there, refused here
        with pytest.raises(PlanError, match=f"{len(case['r'])} values but the model has {depth}"):
            requested_plan(r, depth)
    else:
        assert requested_plan(r, depth) == tuple(case["expected"])


@pytest.mark.parametrize(
    "case",
    VECTORS["token_counts"],
    ids=lambda c: f"{c['tokens']}-{c['protected']}-{c['depth']}-{c['form']}-{c['r']}",
)
def test_token_counts_are_the_same(case):
    r = ours(case["r"], case["form"])
    plan = layer_plan(r, case["depth"], case["tokens"], case["protected"])
    assert list(token_counts(plan, case["tokens"])) == case["tokens_per_layer"]


TINY = VECTORS["tiny_vit"]
POOLS = {"token": "token_pool_timm_patch", "avg": "mae_global_pool_patch"}
RUNS = [
    pytest.param(pool, run, id=f"{pool}-{run['form']}-{run['r']}-prop{run['prop_attn']:d}")
    for pool, key in POOLS.items()
    for run in TINY[key]["runs"]
]
# Twelve float32 matrix products in another order and 5 printed decimals; the file recommends 1e-4.
LOGITS = {"rtol": 0.0, "atol": 2e-5}


def reference_vit(pool):
    config = TINY["config"]
    vit = VisionTransformer(
        img_size=config["img_size"],
        patch_size=config["patch_size"],
        in_chans=config["in_chans"],
        num_classes=config["num_classes"],
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
        qkv_bias=config["qkv_bias"],
        class_token=config["class_token"],
        global_pool=pool,
        norm_layer=lambda dim, **kwargs: torch.nn.LayerNorm(dim, config["norm_eps"], **kwargs),
    )
    weights = {k: torch.tensor(v["data"]).view(v["shape"]) for k, v in TINY["state_dict"].items()}
    if pool == "avg":  # timm normalises after average pooling
        weights = {k.replace("norm.", "fc_norm.") if k.startswith("norm.") else k: v
                   for k, v in weights.items()}  # fmt: skip
    vit.load_state_dict(weights, strict=True)
    return vit.eval()


@pytest.mark.parametrize("pool", POOLS)
def test_the_unpatched_vit_is_the_same(pool):
    logits = reference_vit(pool)(torch.tensor(TINY["input"]))
    torch.testing.assert_close(
        logits, torch.tensor(TINY[POOLS[pool]]["unpatched_logits"]), **LOGITS
    )


def test_all_runs_of_the_tiny_vit_are_compared():
    assert len(RUNS) == 36


@torch.no_grad()
@pytest.mark.parametrize(("pool", "run"), RUNS)
def test_the_patched_vit_is_the_same(pool, run):
    x = torch.tensor(TINY["input"])
    model = patch(
        reference_vit(pool),
        r=ours(run["r"], run["form"]),
        prop_attn=run["prop_attn"],
        trace_source=True,
    )
    torch.testing.assert_close(model(x), torch.tensor(run["logits"]), **LOGITS)
    assert list(token_counts(model.plan(), 17)[1:]) == run["tokens_after_block"]
    seen = model.forward_intermediates(x, output_fmt="NLC", intermediates_only=True)
    assert [tokens.shape[1] + 1 for tokens in seen] == run["tokens_after_block"]

    state = model.forward_state(x)
    if run["final_size"] is None:  # nothing merged
        assert torch.equal(state.size, torch.ones(2, 17, 1))
        assert torch.equal(state.source, torch.arange(17).expand(2, -1))
    else:
        assert state.size.squeeze(-1).tolist() == run["final_size"]
        assert state.source.tolist() == run["group_of_input_token"]


def test_a_matching_names_input_and_output_positions():
    """What the conversion above relies on, on a case small enough to check by eye."""
    metric = torch.eye(4)[[0, 1, 2, 2, 1, 3]].unsqueeze(0)  # 4 is like 1, 2 is like 3
    matching = bipartite_soft_matching(metric, 2, num_prefix=0)
    assert isinstance(matching, Matching)
    assert matching.src.tolist() == [[2, 4]]
    assert matching.keep.tolist() == [[0, 1, 3, 5]]
    assert matching.dst.tolist() == [[2, 1]]
