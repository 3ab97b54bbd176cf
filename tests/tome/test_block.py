from types import SimpleNamespace

import pytest
import timm.layers.attention as timm_attention
import torch
from timm.layers import Attention, AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tome_lightning.tome import TokenState
from tome_lightning.tome.attention import attend, size_bias
from tome_lightning.tome.block import head_mean, merging_block

from .oracle import Token, run_block
from .tiny import randomise

BLOCKS = {
    "plain": {},
    "no qkv bias": {"qkv_bias": False},
    "qk norm": {"qk_norm": True},
    "layer scale": {"init_values": 0.5},
    "scale attn norm": {"scale_attn_norm": True},
    "scale mlp norm": {"scale_mlp_norm": True},
    "gated": {"attn": {"gated": True}},
    "narrow heads": {"attn": {"attn_head_dim": 4}},
    "all": {
        "init_values": 0.5,
        "scale_mlp_norm": True,
        "attn": {"gated": True, "qk_norm": True, "scale_norm": True},
    },
}


def make_block(fused=True, seed=0, attn=None, **kwargs):
    torch.manual_seed(seed)
    block = Block(16, 2, **{"qkv_bias": True, "mlp_ratio": 2.0, **kwargs})
    if attn:
        block.attn = Attention(16, 2, qkv_bias=True, norm_layer=nn.LayerNorm, **attn)
    block.attn.fused_attn = fused
    return randomise(block, seed).eval()


def random_state(n=12, seed=1, dtype=torch.float32, max_size=5):
    torch.manual_seed(seed)
    x = torch.randn(2, n, 16, dtype=dtype)
    size = torch.randint(1, max_size + 1, (2, n, 1)).float()
    return TokenState(x, size, torch.arange(n).expand(2, -1))


def duplicated(state, image):
    """One image with every token there as many times as its size says: ``[1, sum(size), C]``."""
    return state.x[image].repeat_interleave(state.size[image, :, 0].long(), dim=0).unsqueeze(0)


def metric_of(attn, normed):
    """What a merging block matches the tokens of its normalised input on."""
    return head_mean(attend(attn, normed, None)[1])


def true_keys(block, normed, monkeypatch):
    """The keys that the block's attention multiplies queries with: ``[B, H, N, head_dim]``."""
    seen = []

    def spy(q, k, v, **kwargs):
        seen.append(k)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    with monkeypatch.context() as patch:
        patch.setattr(timm_attention, "F", SimpleNamespace(scaled_dot_product_attention=spy))
        block.attn(normed)
    return seen[0].detach()


@torch.no_grad()
@pytest.mark.parametrize("prop_attn", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_without_merging_a_block_is_timms_own(name, fused, prop_attn):
    block = make_block(fused, **BLOCKS[name])
    x = random_state().x
    state = merging_block(block, TokenState(x), 0, 1, prop_attn)
    assert torch.equal(state.x, block(x))
    assert state.size is None


@torch.no_grad()
@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("prop_attn", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_merging_block_agrees_with_one_written_out_token_by_token(name, prop_attn, prefix):
    block = make_block(**BLOCKS[name]).double()
    state = random_state(dtype=torch.float64)
    state = state._replace(size=torch.cat([torch.ones(2, prefix, 1), state.size[:, prefix:]], 1))
    merged = merging_block(block, state, 4, prefix, prop_attn)
    for image in range(2):
        sizes = state.size[image, :, 0].long().tolist()
        tokens = [
            Token(x, [i] * s) for i, (x, s) in enumerate(zip(state.x[image], sizes, strict=True))
        ]
        want, margin = run_block(block, tokens, 4, prefix, prop_attn)
        assert margin > 1e-5
        assert merged.size[image, :, 0].tolist() == [len(token.patches) for token in want]
        for i, token in enumerate(want):
            assert set(token.patches) == set(
                (merged.source[image] == i).nonzero().flatten().tolist()
            )
        # float64, but log(size) is a float32 number: off by up to 1e-7 where it is used
        tolerance = 1e-6 if prop_attn else 1e-12
        torch.testing.assert_close(
            merged.x[image], torch.stack([token.x for token in want]), rtol=0, atol=tolerance
        )


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_proportional_attention_is_attention_over_duplicated_tokens(name, fused):
    block = make_block(fused, **BLOCKS[name]).double()
    state = random_state(dtype=torch.float64)
    out = merging_block(block, state, 0, 0, prop_attn=True)
    for image in range(2):
        over_duplicates = block(duplicated(state, image))
        expected = duplicated(state._replace(x=out.x), image)
        # float64, but log(size) is a float32 number: off by up to 1e-7
        torch.testing.assert_close(over_duplicates, expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_proportional_attention_matters_once_sizes_differ_and_not_before(fused):
    block = make_block(fused)
    state = random_state()
    same = state._replace(size=torch.full_like(state.size, 3.0))
    for sizes in (same, state._replace(size=None)):
        on, off = (merging_block(block, sizes, 0, 0, prop_attn) for prop_attn in (True, False))
        # equal sizes shift all logits alike, which softmax takes out up to rounding
        torch.testing.assert_close(on.x, off.x, rtol=0, atol=1e-5)
    on, off = (merging_block(block, state, 0, 0, prop_attn) for prop_attn in (True, False))
    assert (on.x - off.x).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_attention_pooling_with_sizes_is_pooling_duplicated_tokens(fused):
    pool = randomise(AttentionPoolLatent(16, num_heads=2)).double()
    pool.fused_attn = fused
    state = random_state(dtype=torch.float64)
    pooled = pool(state.x, attn_mask=size_bias(state.size, state.x))
    for image in range(2):
        expected = pool(duplicated(state, image))[0]
        torch.testing.assert_close(pooled[image], expected, rtol=0, atol=1e-6)  # float32 log
    assert (pooled - pool(state.x)).abs().max() > 1e-2


def test_tokens_of_one_patch_have_no_bias():
    assert size_bias(None, torch.zeros(1, 3, 4)) is None
    assert torch.equal(size_bias(torch.ones(2, 3, 1), torch.zeros(1)), torch.zeros(2, 1, 1, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_bias_has_the_dtype_that_attention_runs_in(dtype):
    size = torch.tensor([[[1.0], [300.0], [1568.0]]])
    bias = size_bias(size, torch.zeros(1, 3, 4, dtype=dtype))
    assert bias.dtype == dtype
    # the log is taken in float32 or better, so bfloat16 rounds once
    exact = size.flatten().to(torch.promote_types(dtype, torch.float32)).log()
    assert torch.equal(bias.flatten(), exact.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert size_bias(size, torch.zeros(1, 3, 4)).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("name", BLOCKS)
def test_the_metric_is_the_mean_over_heads_of_the_true_keys(name, monkeypatch):
    block = make_block(**BLOCKS[name])
    normed = block.norm1(random_state().x)
    keys = true_keys(block, normed, monkeypatch)
    assert keys.shape == (2, 2, 12, block.attn.head_dim)
    metric = metric_of(block.attn, normed)
    # float32 products of 16 numbers near 1, summed in another order
    torch.testing.assert_close(metric, keys.mean(dim=1), rtol=0, atol=5e-6)


class LoRALinear(nn.Linear):
    """As adapter libraries do it: a Linear whose forward adds a low-rank update."""

    def __init__(self, base):
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.load_state_dict(base.state_dict())
        self.down = nn.Parameter(torch.randn(2, base.in_features))
        self.up = nn.Parameter(torch.randn(base.out_features, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


class Wrapped(nn.Module):
    """And as other libraries do: no Linear at all, but something that calls one."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = LoRALinear(base)

    def forward(self, x):
        return self.base_layer(x)


@torch.no_grad()
@pytest.mark.parametrize("adapter", [LoRALinear, Wrapped])
def test_an_adapter_on_qkv_is_part_of_the_metric(adapter, monkeypatch):
    block = make_block()
    normed = block.norm1(random_state().x)
    bare = metric_of(block.attn, normed)
    torch.manual_seed(3)
    block.attn.qkv = adapter(block.attn.qkv)
    metric = metric_of(block.attn, normed)
    keys = true_keys(block, normed, monkeypatch)
    torch.testing.assert_close(metric, keys.mean(dim=1), rtol=0, atol=2e-5)  # float32 order of sums
    assert (metric - bare).abs().max() > 0.1


@torch.no_grad()
def test_a_parametrised_qkv_is_part_of_the_metric(monkeypatch):
    block = make_block()
    nn.utils.parametrizations.weight_norm(block.attn.qkv)
    block.attn.qkv.parametrizations.weight.original0.mul_(torch.rand(48, 1) + 0.5)
    normed = block.norm1(random_state().x)
    keys = true_keys(block, normed, monkeypatch)
    metric = metric_of(block.attn, normed)
    torch.testing.assert_close(metric, keys.mean(dim=1), rtol=0, atol=5e-6)  # float32 order of sums


def test_the_metric_has_no_gradient():
    block = make_block()
    for attn in (block.attn, make_block(qk_norm=True).attn):
        assert not metric_of(attn, torch.randn(1, 4, 16, requires_grad=True)).requires_grad


@torch.no_grad()
@pytest.mark.parametrize("name", ["plain", "no qkv bias", "qk norm", "adapter"])
def test_autocast_chooses_nearly_all_pairs_that_float32_chooses(name):
    """At video length, in as few as 8 channels, where most similarities nearly tie."""
    block = make_block(**BLOCKS.get(name, {}))
    if name == "adapter":
        block.attn.qkv = LoRALinear(block.attn.qkv)
    state = random_state(n=1569)
    exact = merging_block(block, state, 500, 1, prop_attn=True)
    with torch.autocast("cpu", torch.bfloat16):
        merged = merging_block(block, state, 500, 1, prop_attn=True)
    assert merged.size.dtype == torch.float32
    assert torch.equal(merged.size.sum(dim=1), exact.size.sum(dim=1))
    assert partners(merged, exact) > 0.9


def partners(one, other):
    """Share of the merged tokens whose group is the same in two states."""
    groups = [[set() for _ in range(state.x.shape[1])] for state in (one, other)]
    for state, members in zip((one, other), groups, strict=True):
        for token, into in enumerate(state.source[0].tolist()):
            members[into].add(token)
    merged = [{frozenset(group) for group in side if len(group) > 1} for side in groups]
    return len(merged[0] & merged[1]) / len(merged[1])


@pytest.mark.parametrize("name", ["plain", "qk norm", "adapter"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_projection_runs_once_and_in_the_precision_of_attention(name, dtype):
    block = make_block(**BLOCKS.get(name, {}))
    if name == "adapter":
        block.attn.qkv = Wrapped(block.attn.qkv)
    calls = []
    block.attn.qkv.register_forward_hook(lambda *_: calls.append(1))
    products = Products()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32), products:
        merging_block(block, random_state(), 4, 1, prop_attn=True)
    assert len(calls) == 1
    similarities = [torch.float32]  # the one product that merging adds
    assert [d for d in products.dtypes if d != dtype] == [d for d in similarities if d != dtype]


class Products(TorchDispatchMode):
    """The dtypes of all matrix products."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.dtypes.append(args[1].dtype)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_bfloat16_block_matches_on_the_float32_mean_of_its_keys():
    block = make_block().bfloat16()
    state = random_state(n=301, dtype=torch.bfloat16)
    normed = block.norm1(state.x)
    _, keys = attend(block.attn, normed, state.size)
    metric = head_mean(keys)
    assert keys.dtype == torch.bfloat16
    assert torch.equal(metric, keys.float().mean(dim=1))
    assert metric.dtype == torch.float32
    merged = merging_block(block, state, 100, 1, prop_attn=True)
    assert merged.x.dtype == torch.bfloat16
    assert merged.size.sum() == state.size.sum()


@torch.no_grad()
def test_a_zero_key_is_no_nan():
    """Where the normalised input is zero and there is no bias."""
    block = make_block(qkv_bias=False)
    nn.init.zeros_(block.norm1.bias)
    state = random_state()
    state.x[:, 4] = 1.0  # constant: layer norm makes it zero
    state.x[:, 7] = 0.0
    merged = merging_block(block, state, 5, 1, prop_attn=True)
    assert (metric_of(block.attn, block.norm1(state.x))[:, [4, 7]] == 0).all()
    assert merged.x.isfinite().all()
    assert torch.equal(merged.size.sum(dim=1), state.size.sum(dim=1))


def test_a_block_is_only_read():
    block = make_block()
    before = {name: value.clone() for name, value in block.state_dict().items()}
    attributes = set(vars(block)), set(vars(block.attn))
    state = random_state()
    inputs = [t.clone() for t in state]
    first, second = (merging_block(block, state, 3, 1, True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state, inputs, strict=True))
    assert (set(vars(block)), set(vars(block.attn))) == attributes
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name])


class Kernels(TorchDispatchMode):
    """Names of the operations that compute something, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if not func.is_view and name not in ("promote_types", "_unsafe_view", "new_empty"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("prop_attn", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_merging_adds_few_operations_and_waits_for_no_device(grad, prop_attn):
    """Each is a launch on a GPU, where reading a number back would wait for the whole queue."""
    block, state = make_block(), random_state()._replace(source=None)
    state = state._replace(x=state.x.requires_grad_(grad))

    def run(r):
        block.zero_grad()
        state.x.grad = None
        with torch.set_grad_enabled(grad), Kernels() as kernels:
            out = merging_block(block, state, r, 1, prop_attn)
        with Kernels() as backward:
            if grad:
                out.x.sum().backward()
        return kernels.names, backward.names

    (dense, dense_backward), (merged, merged_backward) = run(0), run(3)
    assert len(merged) - len(dense) <= 35
    assert len(merged_backward) - len(dense_backward) <= 10
    waiting = {"_local_scalar_dense", "nonzero", "masked_select", "item", "unique", "is_nonzero"}
    assert not waiting & {*merged, *merged_backward}
    assert not {"scatter_add", "index_add", "index_add_", "index_put", "index_put_"} & {
        *merged_backward
    }
    assert merged.count("index_add_") == 1  # features are summed once
