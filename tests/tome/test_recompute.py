"""A recomputed block merges the pairs that it merged in the forward pass."""

from collections import Counter

import pytest
import torch
from functorch.compile import min_cut_rematerialization_partition, nop
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table
from torch.utils.checkpoint import checkpoint

from tome_lightning.tome import block as block_module
from tome_lightning.tome import patch, recompute
from tome_lightning.tome.matching import bipartite_soft_matching

from .tiny import images, tiny_vit


def model_of(checkpointing, **kwargs):
    model = patch(tiny_vit(depth=2, **kwargs), r=4, prop_attn=True).train()
    model.set_grad_checkpointing(checkpointing)
    return model


def gradients(model, run=None):
    model.zero_grad()
    loss = (run or model)(images()).square().sum()
    yield loss
    loss.backward()
    yield [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("autocast", [False, True])
def test_the_pairs_of_the_forward_pass_are_kept(autocast, monkeypatch):
    """Also where recomputing would choose others, as another kernel's last digits may."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        (_, expected), model = gradients(model_of(False)), model_of(True)
        steps = gradients(model)
        next(steps)
        chosen = []

        def otherwise(metric, r, num_prefix):
            chosen.append(r)
            return bipartite_soft_matching(-metric.flip(1), r, num_prefix)

        monkeypatch.setattr(block_module, "bipartite_soft_matching", otherwise)
        found = next(steps)
    assert not chosen
    assert len(found) == len(expected) > 20
    assert all(map(torch.equal, found, expected))


def test_a_second_forward_pass_chooses_anew():
    model = model_of(True)
    a, b = (model(images(seed=seed)).square().sum() for seed in (0, 1))
    plain = model_of(False)
    (a + b).backward()
    sum(plain(images(seed=seed)).square().sum() for seed in (0, 1)).backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_what_is_kept_is_some_bytes_a_token(monkeypatch):
    """An int64 for each: of 64 float32 channels the input of a block is 256 bytes."""
    kept = []

    def spy(function, *args, **kwargs):
        kept.append(args[-1])
        return checkpoint(function, *args, **kwargs)

    monkeypatch.setattr(recompute, "checkpoint", spy)
    model = model_of(True, img_size=48)  # 145 tokens
    model(images(size=48))
    assert [len(one) for one in kept] == [1, 1]
    tensors = [tensor for one in kept for tensor in one[0]]
    assert {tensor.dtype for tensor in tensors} == {torch.int64}
    assert sum(tensor.nbytes for tensor in tensors) < 9 * 2 * (145 + 141)


@pytest.mark.slow
@pytest.mark.parametrize("decompositions", [{}, "inductor"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_compiled_backward_pass_chooses_nothing(qk_norm, decompositions):
    ops = {}

    def listing(name):
        def compiler(graph, inputs):
            ops[name] = Counter(
                node.target.overloadpacket.__name__
                for node in graph.graph.nodes
                if isinstance(node.target, torch._ops.OpOverload)
            )
            return nop(graph, inputs)

        return compiler

    backend = aot_autograd(
        fw_compiler=listing("forward"), bw_compiler=listing("backward"),
        partition_fn=min_cut_rematerialization_partition,
        decompositions=decompositions and select_decomp_table(),
    )  # fmt: skip
    model = model_of(True, qk_norm=qk_norm)
    run = torch.compile(model.forward, backend=backend, fullgraph=True, dynamic=False)
    _, found = gradients(model, run)
    choosing = {"max", "amax", "argmax", "sort", "topk"}
    assert ops["forward"]["sort"] == 4  # of similarities, and of positions
    assert not choosing & set(ops["backward"])
    assert ops["backward"]["native_layer_norm"] or ops["backward"]["rsqrt"]  # it does recompute
    _, expected = gradients(model)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
