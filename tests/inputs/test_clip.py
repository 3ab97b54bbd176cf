"""Tubelets and the three kinds of positions."""

import copy
import pickle
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tome_lightning.inputs import Clip, Image, InputError
from tome_lightning.inputs.clip import SeparableViT, TubeletEmbed, sinusoid_table
from tome_lightning.optim import layer_decay_groups
from tome_lightning.tome import patch, token_counts

SMALL: dict[str, Any] = {"embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
CLIP = Clip(frames=8, size=32)
SIZES = {"b": (768, 12, 12), "l": (1024, 24, 16), "h": (1280, 32, 16)}


def full_size(size: str, clip: Clip, **kwargs: Any) -> VisionTransformer:
    width, depth, heads = SIZES[size]
    with torch.device("meta"):
        return clip.build(embed_dim=width, depth=depth, num_heads=heads, num_classes=400, **kwargs)


def test_a_tubelet_is_embedded_by_its_own_pixels_alone():
    embed = TubeletEmbed(8, 4, 3, 6, frames=4, tubelet=2)
    x = torch.randn(2, 3, 4, 8, 8)
    tokens = embed(x)
    assert tokens.shape == (2, 2 * 2 * 2, 6)
    for index in range(8):  # time slowest, then rows, then columns
        t, y, x0 = index // 4, index // 2 % 2, index % 2
        cube = x[:, :, 2 * t : 2 * t + 2, 4 * y : 4 * y + 4, 4 * x0 : 4 * x0 + 4]
        expected = cube.flatten(1) @ embed.proj.weight.flatten(1).T + embed.proj.bias
        torch.testing.assert_close(tokens[:, index], expected)


@pytest.mark.parametrize(("frames", "size"), [(16, 224), (32, 224), (16, 320), (8, 112)])
def test_a_clip_has_a_token_for_each_tubelet(frames, size):
    clip = Clip(frames=frames, size=size)
    with torch.device("meta"):
        vit = clip.build(**SMALL)
    t, h, w = clip.grid
    assert clip.shape == (3, frames, size, size)
    assert vit.patch_embed.grid_size == (t, h, w) == (frames // 2, size // 16, size // 16)
    assert vit.patch_embed.num_patches == t * h * w
    assert vit.patch_embed.feat_ratio() == 16
    assert vit.patch_embed.feat_ratio(as_scalar=False) == (2, 16, 16)


@pytest.mark.parametrize(
    ("size", "separable", "sinusoid"),
    [
        ("b", 86_702_224, 86_534_800),
        ("l", 304_506_256, 304_270_736),
        ("h", 632_424_080, 632_119_440),
    ],
)
def test_parameter_counts_are_those_of_the_published_models(size, separable, sinusoid):
    count = sum(p.numel() for p in full_size(size, Clip()).parameters())
    assert count == separable
    vit = full_size(size, Clip(positions="sinusoid"))
    k_bias = vit.embed_dim * len(vit.blocks)  # VideoMAE's keys have none; ours start at 0
    assert sum(p.numel() for p in vit.parameters()) - k_bias == sinusoid


@pytest.mark.parametrize(
    ("clip", "counts"),
    [(Clip(), (1569, 1504, 139, 74, 38)), (Clip(positions="sinusoid"), (1568, 1503, 138, 73, 37))],
)
def test_r_65_on_vit_l_gives_the_published_token_counts(clip, counts):
    model = patch(full_size("l", clip), r=65)
    found = token_counts(model.plan(), model.num_tokens)
    assert (*found[:2], *found[-3:]) == counts


@pytest.mark.parametrize("positions", ["separable", "joint", "sinusoid"])
def test_a_clip_model_merges_pickles_copies_and_compiles(positions):
    clip = Clip(frames=8, size=32, positions=positions)
    vit = clip.build(**SMALL).eval()
    x = torch.randn(2, *clip.shape)
    dense = vit(x)
    model = patch(vit, r=0).eval()
    assert torch.equal(model(x), dense)
    assert torch.equal(pickle.loads(pickle.dumps(vit))(x), dense)
    assert torch.equal(copy.deepcopy(vit)(x), dense)
    model.r = 3
    merged = model(x)
    assert not torch.equal(merged, dense)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), merged)
    _, grids = model.forward_intermediates(x)
    assert grids[-1].shape == (2, 24, *clip.grid)


def test_only_separable_positions_need_more_than_timm_s_own_class():
    assert type(Clip(8, 32, positions="joint").build(**SMALL)) is VisionTransformer
    assert type(Clip(8, 32, positions="sinusoid").build(**SMALL)) is VisionTransformer
    assert isinstance(CLIP.build(**SMALL), SeparableViT)


def test_separable_positions_are_the_joint_ones_they_add_up_to():
    separable = CLIP.build(**SMALL).eval()
    joint = Clip(8, 32, positions="joint").build(**SMALL).eval()
    weights = separable.state_dict()
    space, time = weights.pop("pos_embed_spatial"), weights.pop("pos_embed_temporal")
    rows = [space[0, s] + time[0, t] for t in range(4) for s in range(4)]
    weights["pos_embed"] = torch.stack([weights.pop("pos_embed_class")[0, 0], *rows])[None]
    joint.load_state_dict(weights)
    x = torch.randn(2, *CLIP.shape)
    torch.testing.assert_close(separable(x), joint(x))


def test_separable_positions_without_a_class_token():
    vit = CLIP.build(**SMALL, class_token=False)
    assert vit.positions().shape == (1, 16, 24)
    assert "pos_embed_class" not in vit.state_dict()
    assert vit(torch.randn(1, *CLIP.shape)).shape == (1, 5)


def test_the_sinusoid_has_videomae_s_values():
    table = sinusoid_table(1568, 768)[0]
    assert table.shape == (1568, 768)
    first = torch.tensor([0.8415, 0.5403, 0.8284, 0.5601, 0.8153, 0.5791])
    second = torch.tensor([0.9093, -0.4161, 0.9280, -0.3726, 0.9442, -0.3293])
    torch.testing.assert_close(table[1, :6], first, atol=5e-5, rtol=0)  # given to four digits
    torch.testing.assert_close(table[2, :6], second, atol=5e-5, rtol=0)
    torch.testing.assert_close(table[0], torch.tensor([0.0, 1.0]).repeat(384))


def test_the_sinusoid_is_added_and_is_no_weight():
    vit = Clip(8, 32, positions="sinusoid").build(**SMALL)
    assert not vit.has_class_token
    assert "pos_embed" not in vit.state_dict()
    assert "pos_embed" not in dict(vit.named_parameters())
    tokens = vit.patch_embed(x := torch.randn(1, 3, 8, 32, 32))
    torch.testing.assert_close(vit._pos_embed(tokens), tokens + sinusoid_table(16, 24))
    with_class = Clip(8, 32, positions="sinusoid").build(**SMALL, class_token=True)
    assert torch.equal(with_class.pos_embed[:, 1:], vit.pos_embed)
    assert not with_class.pos_embed[:, 0].any()
    assert with_class(x).shape == (1, 5)


@pytest.mark.parametrize("positions", ["separable", "joint"])
def test_positions_learn_as_the_first_layer_and_do_not_decay(positions):
    vit = Clip(8, 32, positions=positions).build(**SMALL)
    groups = layer_decay_groups(vit, lr=1.0, weight_decay=0.05, layer_decay=0.5)
    (group,) = [g for g in groups if any(n.startswith("pos_embed") for n in g["param_names"])]
    assert group["lr"] == 0.5**4  # three blocks, then the head
    assert group["weight_decay"] == 0
    assert "cls_token" in group["param_names"]


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip(frames=15), r"Number of frames 15 .* tubelets of 2 frames.*Nearest: 14 or 16"),
        (Clip(size=230), r"Frame size 230 .* patches of 16 pixels.*Nearest: 224 or 240"),
        (Clip(tubelet=0), r"tubelets of 0 frames"),
        (Clip(positions="rope"), r"model\.input\.positions is one of separable, joint, sinusoid"),
    ],
)
def test_a_clip_that_cannot_be_cut_is_refused(clip, message):
    with pytest.raises(InputError, match=message):
        clip.build(**SMALL)


def test_what_video_models_lack_is_refused():
    with pytest.raises(InputError, match="register tokens"):
        CLIP.build(**SMALL, reg_tokens=4)
    with pytest.raises(InputError, match="'depht'"):
        CLIP.build(depht=3)


def test_frames_of_another_size_are_named():
    vit = CLIP.build(**SMALL)
    with pytest.raises(
        ValueError, match=r"reads clips \[B, C, 8, 32, 32\].*got \[1, 3, 16, 32, 32\]"
    ):
        vit(torch.zeros(1, 3, 16, 32, 32))


def test_a_clip_of_one_frame_repeated_is_the_image():
    """With the kernel spread over the tubelet and no time in the positions, space is all there is."""
    image: nn.Module = Image(32, 16).build(**SMALL, global_pool="avg").eval()
    clip = Clip(frames=2, size=32).build(**SMALL).eval()
    weights: dict[str, Tensor] = image.state_dict()
    table = weights.pop("pos_embed")
    kernel = weights["patch_embed.proj.weight"]
    weights["patch_embed.proj.weight"] = kernel[:, :, None].expand(-1, -1, 2, -1, -1) / 2
    weights["pos_embed_class"], weights["pos_embed_spatial"] = table[:, :1], table[:, 1:]
    weights["pos_embed_temporal"] = torch.zeros(1, 1, 24)
    clip.load_state_dict(weights)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(clip(x[:, :, None].expand(-1, -1, 2, -1, -1)), image(x))
