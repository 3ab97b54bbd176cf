import itertools

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tome_lightning.tome import (
    Matching,
    TokenState,
    bipartite_soft_matching,
    max_r,
    merge_tokens,
    restore_order,
    unmerge,
)
from tome_lightning.tome.merge import _group_mean, _new_size, output_index


def chain(prefix, steps=3, n=24, batch=2, seed=0, dtype=torch.float32):
    """States and matchings of a few merges in a row, matched on x itself."""
    torch.manual_seed(seed)
    x = torch.randn(batch, n, 6, dtype=dtype)
    states = [TokenState(x, None, torch.arange(n).expand(batch, -1))]
    matchings = []
    for _ in range(steps):
        x = states[-1].x
        matchings.append(bipartite_soft_matching(x, min(5, max_r(x.shape[1], prefix)), prefix))
        states.append(merge_tokens(states[-1], matchings[-1]))
    return states, matchings


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_merging_conserves_size_and_the_weighted_mean(prefix):
    states, _ = chain(prefix, dtype=torch.float64)
    mean = states[0].x.mean(dim=1)
    for before, state in itertools.pairwise(states):
        assert state.x.shape[1] == before.x.shape[1] - 5 or prefix == 5
        assert torch.equal(state.size.sum(dim=1), torch.full((2, 1), 24.0))
        weighted = (state.x * state.size).sum(dim=1) / state.size.sum(dim=1)
        # float64 sums of 24 numbers near 1, each once divided and multiplied
        torch.testing.assert_close(weighted, mean, rtol=0, atol=1e-14)
        assert (state.size > 1).any()


@pytest.mark.parametrize("prefix", [1, 2, 5])
def test_prefix_tokens_come_through_untouched(prefix):
    states, _ = chain(prefix)
    assert torch.equal(states[-1].x[:, :prefix], states[0].x[:, :prefix])
    assert torch.equal(states[-1].size[:, :prefix], torch.ones(2, prefix, 1))
    assert torch.equal(states[-1].source[:, :prefix], torch.arange(prefix).expand(2, -1))


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_every_token_is_the_mean_of_the_patches_that_its_source_names(prefix):
    states, _ = chain(prefix, dtype=torch.float64)
    first, last = states[0], states[-1]
    for image in range(2):
        for token in range(last.x.shape[1]):
            members = first.x[image, last.source[image] == token]
            assert len(members) == last.size[image, token]
            torch.testing.assert_close(members.mean(dim=0), last.x[image, token])


def test_no_size_means_that_every_token_is_one_patch():
    states, (matching, *_) = chain(1)
    ones = states[0]._replace(size=torch.ones(2, 24, 1))
    for a, b in zip(merge_tokens(states[0], matching), merge_tokens(ones, matching), strict=True):
        assert torch.equal(a, b)


def test_several_tokens_can_merge_into_one():
    x = torch.tensor([[[1.0], [10.0], [2.0], [20.0], [6.0], [30.0]]])
    size = torch.tensor([[[1.0], [1.0], [2.0], [3.0], [1.0], [1.0]]])
    matching = Matching(
        keep=torch.tensor([[1, 3, 5]]), src=torch.tensor([[4, 0, 2]]), dst=torch.tensor([[1, 1, 1]])
    )
    merged = merge_tokens(TokenState(x, size), matching)
    assert merged.size.flatten().tolist() == [1, 7, 1]
    torch.testing.assert_close(merged.x.flatten(), torch.tensor([10, (60 + 6 + 1 + 4) / 7, 30]))
    assert merged.source is None


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_unmerging_gives_every_member_the_value_of_its_group(prefix):
    states, (matching, *_) = chain(prefix)
    merged = states[1].x
    restored = unmerge(merged, matching)
    assert restored.shape == states[0].x.shape
    pick = torch.arange(2).unsqueeze(1)
    assert torch.equal(restored[pick, matching.keep], merged)
    assert torch.equal(restored[pick, matching.src], merged[pick, matching.dst])


def test_unmerging_restores_tokens_that_were_copies():
    """Where all members of a group are equal, nothing is lost."""
    torch.manual_seed(0)
    x = torch.randint(-4, 5, (1, 4, 6)).float().repeat_interleave(2, dim=1)  # pairs of copies
    matching = bipartite_soft_matching(x, 4, 0)
    assert torch.equal(unmerge(merge_tokens(TokenState(x), matching).x, matching), x)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_the_traced_source_undoes_all_merges_at_once(prefix):
    states, matchings = chain(prefix)
    stepwise = states[-1].x
    for matching in reversed(matchings):
        stepwise = unmerge(stepwise, matching)
    assert torch.equal(restore_order(states[-1].x, states[-1].source), stepwise)
    assert stepwise.shape == states[0].x.shape


def test_the_output_index_says_where_each_token_went():
    matching = Matching(
        keep=torch.tensor([[0, 4, 1, 3, 5]]), src=torch.tensor([[2]]), dst=torch.tensor([[3]])
    )
    assert output_index(matching).tolist() == [[0, 2, 3, 3, 1, 4]]


def test_sizes_of_bfloat16_tokens_count_past_256():
    """bfloat16 has no 257; nor could it sum up 600 patches."""
    n = 600
    torch.manual_seed(0)
    x = torch.randn(1, n, 8).bfloat16()
    state = TokenState(x)
    while state.x.shape[1] > 2:
        tokens = state.x.shape[1]
        everything_into_one = Matching(
            keep=torch.cat([torch.arange(1, tokens, 2)[None], torch.arange(2, tokens, 2)[None]], 1),
            src=torch.tensor([[0]]),
            dst=torch.tensor([[0]]),
        )
        state = merge_tokens(state, everything_into_one)
    assert state.size.dtype == torch.float32
    assert state.x.dtype == torch.bfloat16
    assert state.size.sum() == n
    assert state.size.max() > 256


@pytest.mark.parametrize("sizes", ["none yet", "some"])
def test_bfloat16_tokens_are_summed_in_float32(sizes):
    torch.manual_seed(0)
    x = torch.randn(1, 200, 6).bfloat16()
    size = torch.randint(1, 400, (1, 200, 1)).float() if sizes == "some" else None
    matching = bipartite_soft_matching(x, 90, 1)
    merged = merge_tokens(TokenState(x, size), matching)
    exact = merge_tokens(TokenState(x.float(), size), matching)
    assert torch.equal(merged.x, exact.x.bfloat16())  # rounded once, at the end
    assert torch.equal(merged.size, exact.size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tokens_keep_their_dtype(dtype):
    states, _ = chain(1, dtype=dtype)
    assert states[-1].x.dtype == dtype
    assert states[-1].size.dtype == torch.float32


def test_each_member_gets_its_share_of_the_gradient():
    """d merged / d member = size of the member / size of the group."""
    torch.manual_seed(0)
    x = torch.randn(2, 17, 4, dtype=torch.float64, requires_grad=True)
    size = torch.randint(1, 9, (2, 17, 1)).float()
    matching = bipartite_soft_matching(x, 6, 1)
    merged = merge_tokens(TokenState(x, size), matching)
    weight = torch.randn_like(merged.x)
    (merged.x * weight).sum().backward()
    group = output_index(matching).unsqueeze(-1)
    share = size.double() / merged.size.gather(1, group)
    expected = share * weight.gather(1, group.expand(-1, -1, 4))
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=1e-14)  # float64, one product


def test_merging_does_not_write_to_its_input():
    states, matchings = chain(1)
    state = states[1]
    before = [t.clone() for t in state]
    merge_tokens(state, matchings[1])
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


def test_torchs_function_transforms_see_through_a_merge():
    torch.manual_seed(0)
    x = torch.randn(3, 9, 4, dtype=torch.float64)
    matching = bipartite_soft_matching(x[:1], 3, 1)

    def energy(one: torch.Tensor) -> torch.Tensor:
        return merge_tokens(TokenState(one.unsqueeze(0)), matching).x.square().sum()

    each = torch.func.vmap(torch.func.grad(energy))(x)
    for one, grad in zip(x, each, strict=True):
        wanted = one.clone().requires_grad_()
        energy(wanted).backward()
        torch.testing.assert_close(grad, wanted.grad)


class Passes(TorchDispatchMode):
    """Counts operations that go through at least so many numbers; a sum that copies first is two."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers, self.count = numbers, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        views = func.is_view or func in VIEWS
        if isinstance(out, torch.Tensor) and out.numel() >= self.numbers and not views:
            self.count += 2 if func is torch.ops.aten.index_add.default else 1
        return out


VIEWS = (torch.ops.aten._unsafe_view.default,)


def out_of_place(x, size, matching):
    """The group mean in the plainest operations, and its number of passes."""
    keep, src, dst = (index.unsqueeze(-1).expand(-1, -1, x.shape[-1]) for index in matching)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide * size
    total = wide.gather(1, keep).scatter_add(1, dst, wide.gather(1, src))
    groups = size.gather(1, matching.keep.unsqueeze(-1))
    groups = groups.scatter_add(
        1, matching.dst.unsqueeze(-1), size.gather(1, matching.src.unsqueeze(-1))
    )
    return (total / groups).to(x.dtype)


@pytest.mark.parametrize(
    ("dtype", "sizes", "passes"),
    # [N] sizes times tokens, both gathers, sum, division, rounding
    [
        (torch.bfloat16, True, 6),
        (torch.float32, True, 5),
        (torch.float32, False, 4),
        (torch.float64, True, 5),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_the_group_mean_is_few_passes_and_the_same_to_the_last_bit(dtype, sizes, passes, grad):
    torch.manual_seed(0)
    x = torch.randn(3, 41, 64).to(dtype).requires_grad_(grad)
    size = torch.randint(1, 9, (3, 41, 1)).float() if sizes else None
    matching = bipartite_soft_matching(x, 20, 1)  # half of them: the gathers are of one size
    with Passes(3 * 20 * 64) as counter:
        merged = merge_tokens(TokenState(x, size), matching)
    assert counter.count == passes
    ones = torch.ones(3, 41, 1)
    assert torch.equal(merged.x, out_of_place(x, ones if size is None else size, matching))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_its_gradient_is_a_gather_and_a_product(dtype):
    torch.manual_seed(0)
    x = torch.randn(3, 41, 64).to(dtype).requires_grad_()
    size = torch.randint(1, 9, (3, 41, 1)).float()
    matching = bipartite_soft_matching(x, 20, 1)
    merged = merge_tokens(TokenState(x, size), matching)
    weight = torch.randn_like(merged.x)
    with Passes(3 * 41 * 64) as counter:
        (grad,) = torch.autograd.grad(merged.x, x, weight)
    assert counter.count == 2
    group = output_index(matching).unsqueeze(-1)
    of_group = merged.size.gather(1, group)
    spread = weight.gather(1, group.expand(-1, -1, 64))
    assert torch.equal(grad, (spread * (size / of_group)).to(dtype))


class Results(TorchFunctionMode):
    """What each call of torch gives back."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.found.append(out)
        return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_group_mean_is_no_tensor_that_was_there_before(dtype):
    """torch.compile of torch 2.11 gives such a one's gradient to nobody: zero for all below it."""
    matching = bipartite_soft_matching(torch.randn(2, 9, 4), 3, 1)
    x, size = torch.randn(2, 9, 4, dtype=dtype), torch.ones(2, 9, 1)
    with Results() as results:
        mean = _group_mean(x, size, _new_size(size, matching), matching)
    assert sum(one is mean for one in results.found) == 1
