"""A projection whose keys have no bias, as VideoMAE's."""

import copy

import torch
import torch.nn.functional as F

from tome_lightning.tome import patch
from tome_lightning.tome.attention import attend
from tome_lightning.tome.block import head_mean
from tome_lightning.tome.projection import KeysWithoutBias, remove_key_bias

from .tiny import images, tiny_vit


def keyless(vit):
    """A copy without key bias, and the plain model with the same weights."""
    plain, without = copy.deepcopy(vit), copy.deepcopy(vit)
    remove_key_bias(without)
    for block in plain.blocks:
        block.attn.qkv.bias.data.chunk(3)[1].zero_()
    without.load_state_dict(plain.state_dict())
    return without, plain


def test_it_is_timm_s_model_with_a_key_bias_of_zero():
    without, plain = keyless(tiny_vit())
    assert list(without.state_dict()) == list(plain.state_dict())
    assert torch.equal(without(images()), plain(images()))
    merged, expected = patch(without, r=3, prop_attn=True), patch(plain, r=3, prop_attn=True)
    assert torch.equal(merged(images()), expected(images()))


def test_the_keys_bias_has_no_gradient_and_adamw_leaves_it():
    without, plain = keyless(tiny_vit(global_pool="avg"))
    drift = {}
    for name, vit in (("without", without), ("plain", plain)):
        model = patch(vit, r=2)
        optimizer = torch.optim.AdamW(vit.parameters(), lr=1e-3, weight_decay=0.05)
        for seed in range(3):
            loss = F.cross_entropy(model(images(seed=seed)), torch.tensor([0, 1]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        drift[name] = max(b.attn.qkv.bias.chunk(3)[1].abs().max().item() for b in vit.blocks)
    assert drift["without"] == 0
    assert drift["plain"] > 1e-4  # rounding noise, made into steps by AdamW
    q, _, v = without.blocks[0].attn.qkv.bias.grad.chunk(3)
    assert q.abs().sum() > 0
    assert v.abs().sum() > 0


def test_a_key_bias_of_another_family_is_not_taken_over():
    without = tiny_vit()
    remove_key_bias(without)
    without.load_state_dict(tiny_vit(seed=5).state_dict())
    for block in without.blocks:
        assert isinstance(block.attn.qkv, KeysWithoutBias)
        q, k, v = block.attn.qkv.bias.chunk(3)
        assert not k.any()
        assert q.any()
        assert v.any()
    attn, x = without.blocks[0].attn, torch.randn(2, 5, 16)
    keys = attn.qkv(x)[..., 16:32].unflatten(-1, (2, 8)).mean(dim=2)
    torch.testing.assert_close(
        head_mean(attend(attn, x, None)[1]), keys, rtol=0, atol=1e-6
    )  # float32


def test_a_model_without_any_bias_stays_as_it_is():
    vit = tiny_vit(qkv_bias=False)
    remove_key_bias(vit)
    assert type(vit.blocks[0].attn.qkv) is torch.nn.Linear
