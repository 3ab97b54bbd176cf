import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tome_lightning.commands.benchmark.profiling import profile_step
from tome_lightning.tome import attention, patch, recompute
from tome_lightning.tome import model as model_module
from tome_lightning.tome.attention import SPARE, attend, chosen_kernels, fastest_way, size_channels

from .test_block import BLOCKS, duplicated, make_block, random_state
from .tiny import images, tiny_vit


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
    out, _ = attend(attn, state.x, state.size, way)
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
        attend(attn, x, state.size.to(dtype), way)[0].square().sum().backward()
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
        rounded, _ = attend(attn, state.x, state.size, way)
    assert rounded.dtype == dtype
    exact, _ = attend(attn, state.x, state.size, "mask")
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
    assert torch.equal(attend(attn, x, None)[0], expected)
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


CUDA = torch.device("cuda")  # what is chosen for it needs none


def allowed():
    """Attention backends that are on, in torch's order."""
    return torch.nn.attention._cur_sdpa_kernel_backends(with_priority=True)


def test_kernels_are_chosen_in_order_and_cudnn_is_none_of_them():
    before = allowed()
    assert SDPBackend.CUDNN_ATTENTION in before
    with sdpa_kernel(list(reversed(before)), set_priority=True):  # whatever torch's own order is
        with chosen_kernels(CUDA):
            assert allowed() == [
                SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
            ]  # fmt: skip
        assert allowed() == list(reversed(before))
    assert allowed() == before


@pytest.mark.parametrize("choice", [[SDPBackend.CUDNN_ATTENTION], [SDPBackend.MATH]])
def test_a_choice_of_the_users_own_is_left_alone(choice):
    with sdpa_kernel(choice), chosen_kernels(CUDA):
        assert allowed() == choice
    with chosen_kernels(torch.device("cpu")):
        assert SDPBackend.CUDNN_ATTENTION in allowed()


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Kernels are chosen, and sizes enter, on the CPU as on CUDA; the list of what was entered."""
    entered = []

    def entering(device):
        entered.append(device)
        return chosen_kernels(CUDA)

    for module in (model_module, recompute):
        monkeypatch.setattr(module, "chosen_kernels", entering)
    return entered


@pytest.mark.parametrize("r", [0, 3])
@pytest.mark.parametrize("prop_attn", [False, True])
def test_kernels_are_chosen_once_a_forward_pass_for_every_block(
    r, prop_attn, as_on_cuda, monkeypatch
):
    seen = []
    kernel = F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        seen.append(allowed() == attention.KERNELS)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model = patch(tiny_vit(global_pool="map", class_token=False), r=r, prop_attn=prop_attn)
    model(images())
    assert seen == [True] * (model.depth + 1)  # and the pooling's
    assert len(as_on_cuda) == 2
    model.forward_intermediates(images(), intermediates_only=True)
    model.forward_sources(images())
    assert len(as_on_cuda) == 4
    assert seen[4:] == [True] * (len(seen) - 4)


def test_a_recomputed_block_runs_the_kernels_of_its_forward_pass(as_on_cuda, monkeypatch):
    seen = []
    kernel = F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        seen.append(allowed() == attention.KERNELS)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model = patch(tiny_vit(), r=3).train()
    model.set_grad_checkpointing()
    loss = model(images()).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert seen == [True] * (3 * model.depth)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["none", "mask", "channels"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_model_compiles_to_one_graph_with_its_kernels_chosen(
    way, checkpointing, as_on_cuda, monkeypatch
):
    monkeypatch.setattr(attention, "fastest_way", lambda attn, x: way)
    model = patch(tiny_vit(depth=2), r=3, prop_attn=way != "none").train()
    model.set_grad_checkpointing(checkpointing)
    compiled = torch.compile(model.forward, backend="aot_eager", fullgraph=True, dynamic=False)

    def gradient(run):
        x = images().requires_grad_()
        run(x).square().sum().backward()
        return x.grad

    torch.testing.assert_close(gradient(compiled), gradient(model))
    assert SDPBackend.CUDNN_ATTENTION in allowed()


@torch.no_grad()
def test_the_model_is_exported_with_its_kernels_chosen(as_on_cuda):
    model = patch(tiny_vit(depth=2), r=3, prop_attn=True)
    program = torch.export.export(model, (images(),))
    assert as_on_cuda
    assert torch.equal(program.module()(images()), model(images()))
    assert SDPBackend.CUDNN_ATTENTION in allowed()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("n", [64, 192, 197, 1569])  # 64 modulo 128 was wrong in cuDNN
def test_on_cuda_both_ways_agree_with_float64(n, dtype):
    torch.manual_seed(0)
    attn = Attention(128, 2, qkv_bias=True).cuda()
    x = torch.randn(2, n, 128, device="cuda", requires_grad=True)
    size = torch.exp(torch.rand(2, n, 1, device="cuda") * 7).round()
    exact, _ = attend(attn.double(), x.double(), size, "mask")
    (expected,) = torch.autograd.grad(exact.square().sum(), x)
    attn.float()
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for way in ("mask", "channels"):
        autocast = torch.autocast("cuda", dtype, enabled=dtype != torch.float32)
        with autocast, chosen_kernels(x.device):
            out, _ = attend(attn, x, size, way)
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
        out, _ = attend(attn, torch.randn(1, 4, 16), torch.full((1, 4, 1), 2.0), "channels")
    assert out.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("r", "prop_attn"), [(0, False), (3, False), (3, True)])
def test_on_cuda_dense_and_merged_run_flash_attention(r, prop_attn, compiled):
    vit = tiny_vit(embed_dim=128, num_heads=2)
    model, x = patch(vit, r=r, prop_attn=prop_attn).cuda(), images().cuda()
    run = torch.compile(model, fullgraph=True, dynamic=False) if compiled else model

    @torch.no_grad()
    def step():
        with torch.autocast("cuda", torch.bfloat16):
            run(x)

    step()
    assert profile_step(step, x.device).attention == "flash"
    with sdpa_kernel(SDPBackend.MATH):
        assert profile_step(lambda: model.float()(x), x.device).attention == "math"
