import pytest
import torch

from tome_lightning.tome import Matching, TokenState, bipartite_soft_matching, max_r, merge_tokens

from .oracle import Token, merge

SHAPES = [(n, prefix) for prefix in (0, 1, 2, 5) for n in (9, 12, 17)]


def random_metric(n, batch=2, seed=0):
    torch.manual_seed(seed)
    return torch.randn(batch, n, 8)


@pytest.mark.parametrize(("n", "prefix"), SHAPES)
def test_agrees_with_matching_token_by_token(n, prefix):
    metric = random_metric(n, seed=n)
    for r in range(1, max_r(n, prefix) + 1):
        matching = bipartite_soft_matching(metric, r, prefix)
        source = torch.arange(n).expand(2, -1)
        source = merge_tokens(TokenState(metric, None, source), matching).source
        for image in range(2):
            tokens = [Token(x, [i]) for i, x in enumerate(metric[image])]
            merged, margin = merge(tokens, list(metric[image]), r, prefix)
            assert margin > 1e-5  # float32 cosines err by 1e-7, so no decision is a tie
            groups = [(source[image] == i).nonzero().flatten().tolist() for i in range(n - r)]
            assert groups == [sorted(token.patches) for token in merged]


@pytest.mark.parametrize(("n", "prefix"), SHAPES)
def test_every_token_is_kept_or_merged_exactly_once(n, prefix):
    matching = bipartite_soft_matching(random_metric(n), max_r(n, prefix), prefix)
    everything = torch.cat([matching.keep, matching.src], dim=1).sort(dim=1).values
    assert torch.equal(everything, torch.arange(n).expand(2, -1))


@pytest.mark.parametrize(("n", "prefix"), SHAPES)
def test_prefix_tokens_neither_merge_nor_are_merged_into(n, prefix):
    metric = random_metric(n)
    metric[:, :prefix] = metric[:, prefix : prefix + 1]  # as alike as can be to a patch
    matching = bipartite_soft_matching(metric, max_r(n, prefix), prefix)
    assert torch.equal(matching.keep[:, :prefix], torch.arange(prefix).expand(2, -1))
    assert (matching.src >= prefix).all()
    assert (matching.dst >= prefix).all()


@pytest.mark.parametrize(("n", "prefix"), SHAPES)
def test_even_positions_merge_into_odd_ones(n, prefix):
    matching = bipartite_soft_matching(random_metric(n), 2, prefix)
    assert (matching.src % 2 == 0).all()
    assert (matching.keep.gather(1, matching.dst) % 2 == 1).all()


def test_sources_come_most_similar_first():
    metric = random_metric(17)
    matching = bipartite_soft_matching(metric, 8, 1)
    landed = matching.keep.gather(1, matching.dst)
    pick = torch.arange(2).unsqueeze(1)
    scores = torch.cosine_similarity(metric[pick, matching.src], metric[pick, landed], dim=-1)
    assert (scores.diff(dim=1) < 0).all()


@pytest.mark.parametrize("prefix", [1, 2, 5])
def test_with_prefix_tokens_what_stays_is_in_order_of_position(prefix):
    matching = bipartite_soft_matching(random_metric(17), 2, prefix)
    keep = matching.keep[:, prefix:]
    targets = keep[:, -((17 - prefix) // 2 + (prefix % 2) * ((17 - prefix) % 2)) :]
    assert (targets % 2 == 1).all()
    unmerged = keep[:, : keep.shape[1] - targets.shape[1]]
    assert (unmerged % 2 == 0).all()
    assert (unmerged.diff(dim=1) > 0).all()
    assert (targets.diff(dim=1) > 0).all()


def test_without_prefix_tokens_unmerged_sources_stay_in_order_of_similarity():
    metric = random_metric(17)
    all_sources = bipartite_soft_matching(metric, 8, 0).src  # most similar first
    matching = bipartite_soft_matching(metric, 3, 0)
    assert torch.equal(matching.src, all_sources[:, :3])
    assert torch.equal(matching.keep[:, :5], all_sources[:, 3:])


def test_only_the_direction_of_the_metric_counts():
    metric = random_metric(17)
    scaled = metric * (2.0 ** torch.randint(-6, 7, (2, 17, 1)))  # powers of two round nothing
    for a, b in zip(
        bipartite_soft_matching(metric, 5, 1), bipartite_soft_matching(scaled, 5, 1), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_equal_scores_keep_the_order_of_position(prefix):
    n = 1568 + prefix  # at video length an unstable sort would show
    metric = torch.zeros(2, n, 4)
    metric[..., 0] = 1.0  # all tokens alike, and exactly so
    matching = bipartite_soft_matching(metric, 100, prefix)
    first = prefix + prefix % 2
    sources = torch.arange(first, n, 2)
    assert torch.equal(matching.src, sources[:100].expand(2, -1))
    unmerged = matching.keep[:, prefix : prefix + len(sources) - 100]
    assert torch.equal(unmerged, sources[100:].expand(2, -1))
    assert (matching.dst == prefix + len(sources) - 100).all()  # the first of equal partners


def test_a_zero_source_is_last_among_similar_ones():
    torch.manual_seed(0)
    metric = torch.rand(1, 12, 4) + 0.1  # all cosines positive
    metric[:, 4] = 0
    matching = bipartite_soft_matching(metric, 6, 0)
    assert matching.src[0, -1] == 4
    assert 4 not in bipartite_soft_matching(metric, 5, 0).src


def test_a_zero_destination_attracts_nothing():
    torch.manual_seed(0)
    metric = torch.rand(1, 12, 4) + 0.1
    metric[:, 5] = 0
    matching = bipartite_soft_matching(metric, 6, 0)
    assert 5 not in matching.keep.gather(1, matching.dst)


def test_all_keys_zero_is_no_nan_and_no_error():
    matching = bipartite_soft_matching(torch.zeros(1, 9, 4), 4, 1)
    assert matching.src.tolist() == [[2, 4, 6, 8]]
    merged = merge_tokens(TokenState(torch.ones(1, 9, 3)), matching)
    assert torch.equal(merged.x, torch.ones(1, 5, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_metrics_are_compared_in_float32(dtype):
    metric = random_metric(400).to(dtype)
    half, full = (bipartite_soft_matching(m, 150, 1) for m in (metric, metric.float()))
    assert all(torch.equal(a, b) for a, b in zip(half, full, strict=True))


def test_autocast_does_not_reach_the_comparison():
    metric = random_metric(400)
    full = bipartite_soft_matching(metric, 150, 1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = bipartite_soft_matching(metric, 150, 1)
    assert all(torch.equal(a, b) for a, b in zip(inside, full, strict=True))
    normed = torch.nn.functional.normalize(metric, dim=-1).bfloat16()
    rounded = bipartite_soft_matching(normed, 150, 1)
    assert not torch.equal(rounded.src, full.src)  # so this metric can tell the difference


def test_no_gradient_goes_through_the_choice():
    metric = random_metric(9).requires_grad_()
    assert not any(index.requires_grad for index in bipartite_soft_matching(metric, 3, 1))


@pytest.mark.parametrize("r", [-1, 0, 5])
def test_an_r_that_was_not_clamped_is_an_error(r):
    with pytest.raises(ValueError, match=f"between 1 and 4 for 9 tokens.*got {r}.*layer_plan"):
        bipartite_soft_matching(random_metric(9), r, 1)


@pytest.mark.parametrize(
    ("n", "prefix", "most"),
    [
        (197, 1, 98), (198, 2, 98), (196, 0, 98), (3, 1, 1), (2, 1, 0), (4, 1, 1), (3, 2, 0),
        (5, 2, 1), (2, 0, 1), (1, 0, 0), (1, 1, 0), (1, 5, 0), (21, 5, 8),
    ],
)  # fmt: skip
def test_at_most_half_of_the_patches_merge(n, prefix, most):
    assert max_r(n, prefix) == most
    if most:
        matching = bipartite_soft_matching(random_metric(n), most, prefix)
        assert isinstance(matching, Matching)
        assert matching.keep.shape == (2, n - most)
