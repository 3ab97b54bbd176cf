"""Audio in a timm ViT: the order of its tokens, overlapping patches, and masking in training only."""

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tome_lightning import patch
from tome_lightning.inputs import InputError, Spectrogram
from tome_lightning.inputs.spectrogram import GridMasking
from tome_lightning.tome import token_counts

SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}


def test_a_spectrogram_makes_a_stock_timm_vit() -> None:
    spectrogram = Spectrogram(frames=64, mels=32)
    vit = spectrogram.build(**SMALL)
    assert type(vit) is VisionTransformer
    assert (spectrogram.shape, vit.patch_embed.grid_size) == ((1, 64, 32), (4, 2))
    stock = VisionTransformer(
        img_size=(64, 32), patch_size=16, in_chans=1, global_pool="avg", **SMALL
    )
    stock.load_state_dict(vit.state_dict())
    x = torch.randn(2, 1, 64, 32)
    assert torch.equal(vit.eval()(x), stock.eval()(x))


def test_the_defaults_are_audiomae_s_vit_b() -> None:
    with torch.device("meta"):
        vit = Spectrogram().build(num_classes=527)
    positions = vit.pos_embed.numel()
    assert positions == 513 * 768
    assert sum(p.numel() for p in vit.parameters()) - positions == 85_659_407  # its log
    assert type(vit.patch_drop) is torch.nn.Identity


def test_time_is_the_slowest_axis_of_the_tokens() -> None:
    vit = Spectrogram(frames=48, mels=32).build(**SMALL)
    x = torch.randn(1, 1, 48, 32)
    tokens = vit.patch_embed(x)
    for t in range(3):
        for f in range(2):
            cells = x[0, 0, 16 * t : 16 * t + 16, 16 * f : 16 * f + 16]
            by_hand = (vit.patch_embed.proj.weight[:, 0] * cells).sum(dim=(1, 2))
            torch.testing.assert_close(tokens[0, 2 * t + f], by_hand + vit.patch_embed.proj.bias)


def test_patches_overlap_at_audiomae_s_stride_of_ten() -> None:
    vit = Spectrogram(stride=10).build(**SMALL)
    assert vit.patch_embed.grid_size == (101, 12)
    assert vit.pos_embed.shape == (1, 1213, 16)
    x = torch.randn(1, 1, 1024, 128)
    tokens = vit.patch_embed(x)
    cells = x[0, 0, 1000:1016, 110:126]  # the last step, the last band
    by_hand = (vit.patch_embed.proj.weight[:, 0] * cells).sum(dim=(1, 2))
    torch.testing.assert_close(tokens[0, -1], by_hand + vit.patch_embed.proj.bias)
    assert patch(vit, r=100)(x).shape == (1, 5)


def test_masking_keeps_51_steps_and_6_bands_in_order() -> None:
    masking = GridMasking((64, 8), time=0.2, freq=0.2).train()
    tokens = torch.arange(513.0).reshape(1, 513, 1).expand(3, 513, 4)
    kept = masking(tokens)
    assert kept.shape == (3, 307, 4)
    assert masking.num_kept == 306
    for sample in kept[:, :, 0].long():
        assert sample[0] == 0  # the class token
        patches = sample[1:] - 1
        assert torch.equal(patches, patches.sort().values)
        steps, bands = (patches // 8).unique(), (patches % 8).unique()
        assert (len(steps), len(bands)) == (51, 6)
        assert torch.equal(patches, (8 * steps[:, None] + bands).flatten())  # the whole product
    assert not torch.equal(kept[0], kept[1])


def test_every_step_and_band_is_masked_as_often_as_the_others() -> None:
    masking = GridMasking((10, 4), time=0.3, freq=0.5, num_prefix=0).train()
    kept = masking(torch.arange(40.0).reshape(1, 40, 1).expand(4000, 40, 1)).long().flatten()
    share = kept.bincount(minlength=40) / 4000
    # 0.7 x 0.5 of the draws; six standard deviations of a share of 4000
    assert (share - 0.35).abs().max() < 6 * (0.35 * 0.65 / 4000) ** 0.5


def test_nothing_is_masked_in_evaluation() -> None:
    masking = GridMasking((4, 2), time=0.5, freq=0.5).eval()
    x = torch.randn(2, 9, 4)
    assert masking(x) is x


def test_kept_tokens_carry_the_gradient() -> None:
    masking = GridMasking((4, 2), time=0.5, freq=0.5).train()
    x = torch.randn(2, 9, 3, requires_grad=True)
    masking(x).sum().backward()
    assert x.grad is not None
    assert x.grad.sum() == 2 * (1 + 2) * 3
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}


def test_a_masked_model_plans_for_the_tokens_that_are_left() -> None:
    vit = Spectrogram(mask_time=0.2, mask_freq=0.2).build(**{**SMALL, "depth": 12})
    model = patch(vit, r=40)
    assert (model.num_tokens, model.train_tokens) == (513, 307)
    # the reference's values: r=40 is not scaled silently
    assert token_counts(model.plan(307), 307) == (
        307, 267, 227, 187, 147, 107, 67, 34, 18, 10, 6, 4, 3,
    )  # fmt: skip
    assert token_counts(model.plan(), 513)[-1] == 37
    model.r = 24
    assert token_counts(model.plan(model.train_tokens), 307)[-2:] == (43, 22)


@pytest.mark.parametrize("training", [True, False])
def test_the_plan_is_what_the_blocks_merge(training: bool) -> None:
    spectrogram = Spectrogram(frames=128, mels=64, mask_time=0.25, mask_freq=0.5)
    model = patch(spectrogram.build(**SMALL), r=4).train(training)
    tokens = model.train_tokens if training else model.num_tokens
    assert tokens == (13 if training else 33)
    state = model.forward_state(torch.randn(2, 1, 128, 64))
    assert state.x.shape[1] == tokens - sum(model.plan(tokens))
    assert torch.equal(state.size.sum(dim=1), torch.full((2, 1), float(tokens)))


def test_timm_s_patch_dropout_counts_as_well() -> None:
    vit = Spectrogram(frames=64, mels=32).build(**SMALL, patch_drop_rate=0.5)
    model = patch(vit, r=1).train()
    assert model.train_tokens == 5
    assert model.forward_state(torch.randn(1, 1, 64, 32)).x.shape[1] == 5 - 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask_time": 0.99}, r"mask_time=0.99 leaves none of 64; at most 0.984"),
        ({"mask_freq": 0.9}, r"mask_freq=0.9 leaves none of 8; at most 0.875"),
        ({"mask_time": 1.0}, r"mask_time is the share that is dropped.* got 1.0"),
        ({"mask_freq": -0.1}, r"mask_freq is the share .* got -0.1"),
        ({"frames": 1000}, r"Number of frames 1000 .* Nearest: 992 or 1008"),
        ({"mels": 100}, r"Number of mels 100 .* Nearest: 96 or 112"),
        ({"stride": 17}, r"stride is the distance between patches, 1 to their side 16.* got 17"),
        ({"stride": 0}, r"got 0"),
        ({"mels": 8, "stride": 10}, r"Number of mels 8 is smaller than a patch"),
    ],
)
def test_a_spectrogram_that_makes_no_tokens_is_refused(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Spectrogram(**settings).build(**SMALL)


def test_the_greatest_share_that_is_named_leaves_one() -> None:
    assert GridMasking((64, 8), 0.984, 0.875).kept == (1, 1)
    assert GridMasking((10, 10), 0.9, 0.9).kept == (1, 1)  # 10 * (1 - 0.9) is below 1 in floats


def test_two_ways_to_drop_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="patch_drop_rate and the masking"):
        Spectrogram(mask_time=0.2).build(**SMALL, patch_drop_rate=0.1)


def test_what_the_input_sets_is_not_free() -> None:
    with pytest.raises(InputError, match=r"model\.vit\.in_chans is not free for a Spectrogram"):
        Spectrogram().build(in_chans=3)
