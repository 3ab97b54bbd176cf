import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tome_lightning.tome import TokenState, attention
from tome_lightning.tome.attention import SPARE, attend, fastest_way, size_channels
from tome_lightning.tome.block import merging_block

from .test_block import BLOCKS, duplicated, make_block, random_state


def inputs(dtype=torch.float32, n=197, d=64, largest=1568, grad=False):
    """Queries, keys, values ``[2, 3, n, d]`` and sizes from one patch to a whole clip's."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, n, d).to(dtype).requires_grad_(grad).unbind(0)
    size = torch.exp(torch.rand(2, n, 1) * math.log(largest)).round()
    return q, k, v, size


def exact_weights(q, k, size):
    """Attention weights ``[B, H, N, N]`` in float64 of what the dtype's rounding left."""
    scores = q.double() @ k.double().transpose(-2, -1) / math.sqrt(q.shape[-1])
    return (scores + size.double().log().transpose(1, 2).unsqueeze(1)).softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize("d", [16, 32, 64, 80, 96, 128])
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-3), (torch.float16, 1e-3)]
)
def test_spare_channels_give_the_exact_weights(d, dtype, error):
    q, k, v, size = inputs(dtype, d=d)
    wide_q, wide_k, wide_v = size_channels(q, k, v, size)
    assert {t.dtype for t in (wide_q, wide_k, wide_v)} == {dtype}
    assert {t.shape[-1] for t in (wide_q, wide_k, wide_v)} == {d + SPARE}
    # products exact in float64: what is wrong is what the channels round
    scores = wide_q.double() @ wide_k.double().transpose(-2, -1) / math.sqrt(d)
    expected = exact_weights(q, k, size)
    assert ((scores.softmax(-1) / expected) - 1).abs().max() < error
    assert (wide_v[..., d:] == 0).all()


@torch.no_grad()
def test_one_channel_of_bfloat16_would_not_be_enough():
    q, k, v, size = inputs(torch.bfloat16)
    q, k, _ = size_channels(q, k, v, size)
    low = q.shape[-1] - SPARE + 1
    k[..., low] = 0
    scores = q.double() @ k.double().transpose(-2, -1) / 8
    expected = exact_weights(q[..., :64], k[..., :64], size)
    assert ((scores.softmax(-1) / expected) - 1).abs().max() > 5e-3


@torch.no_grad()
@pytest.mark.parametrize("way", ["mask", "channels"])
@pytest.mark.parametrize("name", BLOCKS)
def test_both_ways_are_attention_over_duplicated_tokens(name, way):
    attn = make_block(**BLOCKS[name]).attn
    state = random_state()
    out = attend(attn, state.x, state.size, way)
    for image in range(2):
        copies = duplicated(state, image)
        first = (state.size[image, :, 0].cumsum(0) - state.size[image, :, 0]).long()
        torch.testing.assert_close(out[image], attn(copies)[0, first], rtol=0, atol=1e-5)
    assert (out - attn(state.x)).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["plain", "all"])
def test_both_ways_have_the_gradients_of_float64(name):
    state = random_state()
    attn = make_block(**BLOCKS[name]).attn

    def gradients(way, dtype):
        attn.to(dtype).zero_grad()
        x = state.x.to(dtype, copy=True).requires_grad_()
        attend(attn, x, state.size.to(dtype), way).square().sum().backward()
        return [x.grad, *(p.grad.clone() for p in attn.parameters())]

    expected = gradients("mask", torch.float64)
    for way in ("mask", "channels"):
        for ours, exact in zip(gradients(way, torch.float32), expected, strict=True):
            torch.testing.assert_close(ours, exact.float(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("way", ["mask", "channels"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_weights_are_right_to_the_dtypes_rounding(dtype, way):
    attn = make_block().attn
    state = random_state(n=40, max_size=500)
    with torch.autocast("cpu", dtype):
        rounded = attend(attn, state.x, state.size, way)
    assert rounded.dtype == dtype
    exact = attend(attn, state.x, state.size, "mask")
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.05)


@torch.no_grad()
def test_without_sizes_attention_is_timms_bit_for_bit(monkeypatch):
    attn = make_block().attn
    x = torch.randn(2, 9, 16)
    expected = attn(x)
    masks = []
    kernel = F.scaled_dot_product_attention

    def spy(*args, attn_mask=None, **kwargs):
        masks.append(attn_mask)
        return kernel(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    assert torch.equal(attend(attn, x, None), expected)
    assert masks == [None]
    attend(attn, x, torch.full((2, 9, 1), 2.0), "channels")
    assert masks == [None, None]  # no mask: flash attention stays possible


@torch.no_grad()
def test_dropout_of_attention_weights_is_kept(monkeypatch):
    attn = Attention(16, 2, attn_drop=0.3)
    attn.fused_attn = True
    seen = []
    kernel = F.scaled_dot_product_attention

    def spy(q, k, v, dropout_p=0.0, **kwargs):
        seen.append(dropout_p)
        return kernel(q, k, v, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    for training in (True, False):
        attn.train(training)
        attend(attn, torch.randn(1, 4, 16), torch.full((1, 4, 1), 2.0), "channels")
    assert seen == [0.3, 0.0]


def test_the_way_follows_device_and_precision():
    attn = make_block().attn
    x = torch.randn(1, 4, 16)
    assert fastest_way(attn, x) == "mask"
    with torch.autocast("cpu", torch.bfloat16):
        assert fastest_way(attn, x) == "mask"

    class OnCuda:
        device = torch.device("cuda")
        dtype = torch.bfloat16

    assert fastest_way(attn, OnCuda()) == "channels"
    OnCuda.dtype = torch.float32  # flash attention has no float32
    assert fastest_way(attn, OnCuda()) == "mask"
    attn.fused_attn = False
    OnCuda.dtype = torch.bfloat16
    assert fastest_way(attn, OnCuda()) == "mask"


def test_a_mask_never_meets_cudnn_attention():
    assert SDPBackend.CUDNN_ATTENTION not in attention.WITHOUT_CUDNN
    from torch.backends.cuda import cudnn_sdp_enabled

    before = cudnn_sdp_enabled()
    with attention.masked_kernels(torch.device("cuda")):
        assert not cudnn_sdp_enabled()
    assert cudnn_sdp_enabled() == before


@pytest.mark.parametrize("way", ["mask", "channels"])
def test_both_ways_compile_to_one_graph(way, monkeypatch):
    # as on CUDA, kernels chosen around the call
    monkeypatch.setattr(
        attention, "masked_kernels", lambda device: sdpa_kernel(attention.WITHOUT_CUDNN)
    )
    monkeypatch.setattr(attention, "fastest_way", lambda attn, x: way)
    block = make_block()

    def run(x, size):
        return merging_block(block, TokenState(x, size), 3, 1, True).x

    state = random_state()
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(state.x, state.size), run(state.x, state.size))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("n", [64, 192, 197, 1569])  # 64 modulo 128 was wrong in cuDNN
def test_on_cuda_both_ways_agree_with_float64(n, dtype):
    torch.manual_seed(0)
    attn = Attention(128, 2, qkv_bias=True).cuda()
    x = torch.randn(2, n, 128, device="cuda", requires_grad=True)
    size = torch.exp(torch.rand(2, n, 1, device="cuda") * 7).round()
    exact = attend(attn.double(), x.double(), size, "mask")
    (expected,) = torch.autograd.grad(exact.square().sum(), x)
    attn.float()
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for way in ("mask", "channels"):
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            out = attend(attn, x, size, way)
        (grad,) = torch.autograd.grad(out.float().square().sum(), x)
        assert out.isfinite().all()
        assert grad.isfinite().all()
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=tolerance)
        assert (grad - expected).norm() / expected.norm() < tolerance


def test_a_norm_may_give_queries_and_keys_another_dtype():
    """Under autocast a norm of the keys gives float32, the values are bfloat16."""
    attn = make_block(**BLOCKS["qk norm"]).attn
    assert isinstance(attn.q_norm, nn.LayerNorm)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(attn, torch.randn(1, 4, 16), torch.full((1, 4, 1), 2.0), "channels")
    assert out.isfinite().all()
