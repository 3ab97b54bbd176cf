"""From an input's size to a timm ViT, and what is said where there is none."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tome_lightning.inputs import Image, InputError

SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}


@pytest.mark.parametrize(
    ("image", "patches"),
    [(Image(16, 4), 16), (Image(28, 7, channels=1), 16), (Image(32, 16), 4), (Image(8, 8), 1)],
)
def test_an_image_makes_a_plain_vit_of_its_size(image: Image, patches: int) -> None:
    model = image.build(**SMALL)
    assert type(model) is VisionTransformer
    assert image.shape == (image.channels, image.size, image.size)
    assert model.patch_embed.num_patches == patches
    x = torch.randn(2, *image.shape)
    assert model.forward_features(x).shape == (2, patches + 1, 16)  # the class token too
    assert model(x).shape == (2, 5)


def test_timm_arguments_reach_the_model() -> None:
    model = Image(16, 4).build(**SMALL, global_pool="avg", reg_tokens=2, drop_path_rate=0.2)
    assert (len(model.blocks), model.num_prefix_tokens) == (2, 3)
    assert isinstance(model.fc_norm, torch.nn.LayerNorm)  # average pooling norms after the pool
    assert model.blocks[1].drop_path1.drop_prob == pytest.approx(0.2)


def test_the_defaults_are_timm_s_vit_b() -> None:
    with torch.device("meta"):
        model = Image().build()
    assert (len(model.blocks), model.embed_dim, model.num_classes) == (12, 768, 1000)
    assert model.patch_embed.num_patches == 196


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'drop_path'.*model\.vit\.drop_path.*drop_path_rate"):
        Image(16, 4).build(drop_path=0.1)


@pytest.mark.parametrize(
    ("size", "patch", "nearest"),
    [(30, 16, "16 or 32"), (225, 16, "224 or 240"), (10, 16, "16 or 32"), (0, 16, "16 or 32")],
)
def test_a_size_that_patches_do_not_tile_names_the_nearest_that_they_do(
    size: int, patch: int, nearest: str
) -> None:
    with pytest.raises(InputError, match=f"{size} cannot be cut .* Nearest: {nearest}"):
        Image(size, patch).build(**SMALL)


def test_a_patch_of_no_size_is_refused() -> None:
    with pytest.raises(InputError, match="patches of 0 pixels"):
        Image(16, 0).build(**SMALL)


@pytest.mark.parametrize(
    "wrong",
    [{"num_heads": 3}, {"global_pool": "median"}, {"class_token": False, "global_pool": "token"}],
)
def test_timm_s_own_conditions_become_input_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="timm cannot build a ViT"):
        Image(16, 4).build(**{**SMALL, **wrong})


def test_a_named_architecture_takes_its_own_sizes() -> None:
    image = Image(32, channels=1, timm_model="deit3_small_patch16_224")
    with torch.device("meta"):
        model = image.build(num_classes=5, depth=2)
    assert (model.embed_dim, len(model.blocks), model.head.out_features) == (384, 2, 5)
    assert model.patch_embed.proj.weight.shape[1:] == (1, 16, 16)
    assert model.patch_embed.num_patches == 4
    assert model.no_embed_class  # DeiT-3, not timm's default ViT


def test_only_an_unnamed_architecture_leaves_the_pooling_free() -> None:
    assert Image().chooses_pool
    assert not Image(timm_model="deit3_small_patch16_224").chooses_pool


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'vit_bas_patch16_224'.*vit_base_patch16_224"):
        Image(timm_model="vit_bas_patch16_224").build()


def test_an_unknown_argument_of_a_named_architecture_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"drop_paths.*drop_path_rate"):
        Image(32, timm_model="deit3_small_patch16_224").build(depth=1, drop_paths=0.1)


def test_a_size_that_a_named_architecture_cannot_tile_is_refused() -> None:
    """timm itself builds it and fails at the first batch."""
    with pytest.raises(InputError, match="30"):
        Image(30, timm_model="deit3_small_patch16_224").build(depth=1, num_classes=5)


def test_an_input_is_a_value() -> None:
    assert Image(16, 4) == Image(16, 4)
    assert len({Image(16, 4), Image(16, 4), Image(16, 8)}) == 2
    with pytest.raises(FrozenInstanceError):
        Image(16, 4).size = 32  # type: ignore[misc]
