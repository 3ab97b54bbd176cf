"""The inference-only model against `ToMeViT`."""

from typing import Any

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled

from tome_lightning.commands.export import MergedForInference
from tome_lightning.inputs import Clip, Spectrogram
from tome_lightning.tome import (
    TokenState,
    ToMeViT,
    bipartite_soft_matching,
    max_r,
    merge_tokens,
    patch,
)
from tome_lightning.tome.static import matched

from ..commands.export.small import SIZES
from .tiny import randomise, tiny_vit

SMALL = {**SIZES, "num_classes": 5}
MODELS: dict[str, Any] = {
    "token": lambda: tiny_vit(img_size=32),
    "average": lambda: tiny_vit(img_size=32, global_pool="avg"),
    "average and maximum": lambda: tiny_vit(img_size=32, global_pool="avgmax"),
    "attention pooling": lambda: tiny_vit(img_size=32, global_pool="map", class_token=False),
    "no prefix": lambda: tiny_vit(img_size=32, global_pool="avg", class_token=False),
    "registers": lambda: tiny_vit(img_size=32, reg_tokens=2),
    "key norm": lambda: tiny_vit(img_size=32, qk_norm=True, init_values=0.5),
    "distilled": lambda: tiny_vit(img_size=32, cls=VisionTransformerDistilled),
    "clip": lambda: randomise(Clip(8, 32, 2, 8, channels=1).build(**SMALL)),
    "sinusoid clip": lambda: randomise(Clip(8, 32, 2, 8, "sinusoid", 1).build(**SMALL)),
    "overlapping spectrogram": lambda: randomise(
        Spectrogram(64, 32, 8, 6, mask_time=0.2).build(**SMALL)
    ),
}
SHAPES = {"clip": (1, 8, 32, 32), "sinusoid clip": (1, 8, 32, 32)}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[ToMeViT, torch.Tensor]:
    vit = MODELS[request.param]().eval()
    channels = vit.patch_embed.proj.weight.shape[1]
    shape = SHAPES.get(request.param, (channels, *vit.patch_embed.img_size))
    torch.manual_seed(3)
    return patch(vit), torch.randn(3, *shape)


@torch.no_grad()
@pytest.mark.parametrize("prop_attn", [False, True])
@pytest.mark.parametrize("scatter", [False, True])
def test_logits_are_the_models(model: tuple[ToMeViT, torch.Tensor], prop_attn: bool, scatter: bool):
    net, x = model
    net.r, net.prop_attn = 8, prop_attn
    assert any(net.plan())
    merged = net(x)
    torch.testing.assert_close(MergedForInference(net, scatter)(x), merged, rtol=1e-5, atol=1e-5)
    net.r = 0
    dense = net(x)
    torch.testing.assert_close(MergedForInference(net, scatter)(x), dense, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(dense, merged, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("r", [[0, 4, 2], {"keep": 0.5}, 100])
def test_any_form_of_r_is_followed(r: Any):
    net = patch(tiny_vit(img_size=32, global_pool="avg"), r=r, prop_attn=True)
    x = torch.randn(2, 3, 32, 32)
    static = MergedForInference(net)
    expected = net(x)
    net.r = 0  # what is exported does not change any more
    torch.testing.assert_close(static(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scatter", [False, True])
@pytest.mark.parametrize("prefix", [0, 1, 2, 3])
@pytest.mark.parametrize("tokens", [14, 17])
def test_a_step_merges_and_orders_as_the_reference(tokens: int, prefix: int, scatter: bool):
    metric, x = torch.randn(3, tokens, 6), torch.randn(3, tokens, 4)
    size = torch.randint(1, 9, (3, tokens, 1)).float()
    for r in (1, 3, max_r(tokens, prefix)):
        expected = merge_tokens(TokenState(x, size), bipartite_soft_matching(metric, r, prefix))
        fold = matched(metric, r, prefix, scatter)
        torch.testing.assert_close(fold(size), expected.size)
        torch.testing.assert_close(fold(x * size) / fold(size), expected.x)


def test_onnx_runtimes_topk_puts_the_lower_index_first_where_values_tie():
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("TopK", ["x", "k"], ["values", "order"])],
        "ties",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 200])],
        [helper.make_tensor_value_info("order", TensorProto.INT64, [1, 200])],
        [helper.make_tensor("k", TensorProto.INT64, [1], [200])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = torch.randint(0, 3, (1, 200)).float()
    (order,) = session.run(["order"], {"x": x.numpy()})
    stable = x.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(torch.from_numpy(order), stable)
