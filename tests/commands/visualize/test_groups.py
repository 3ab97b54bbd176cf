"""Which patches are in one token."""

import itertools
from typing import Any

import numpy as np
import pytest
import timm
import torch

from tome_lightning.commands.visualize.groups import Groups, trace_groups
from tome_lightning.inputs import Clip, Spectrogram
from tome_lightning.tome import PlanError, ToMeViT, patch

SIZES = {"embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 4}


def image_model(**changes: Any) -> ToMeViT:
    vit = timm.models.VisionTransformer(img_size=32, patch_size=8, **SIZES, **changes)
    return patch(vit, r=2).eval()


MODELS = {
    "image": image_model,
    "no class token": lambda: image_model(class_token=False, global_pool="avg"),
    "clip": lambda: patch(Clip(frames=4, size=16, patch=8).build(**SIZES), r=2).eval(),
    "sound": lambda: patch(
        Spectrogram(frames=48, mels=32, patch=8, stride=8).build(**SIZES)
    ).eval(),
}
SHAPES = {"image": (3, 32, 32), "clip": (3, 4, 16, 16), "sound": (1, 48, 32)}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[ToMeViT, torch.Tensor]:
    shape = SHAPES[request.param.replace("no class token", "image")]
    return MODELS[request.param](), torch.randn(2, *shape)


def test_groups_are_those_of_the_tokens_at_the_end(case: tuple[ToMeViT, torch.Tensor]):
    model, x = case
    found = trace_groups(model, x, [1, 2])
    for r, place in ((1, 0), (2, 1)):
        model.r, model.trace_source = r, True
        state = model.forward_state(x)
        for sample, groups in enumerate(found):
            ids = groups[place].ids
            assert ids.shape == tuple(model.vit.patch_embed.grid_size)
            assert groups[place].tokens == state.x.shape[1]
            # sizes of the groups are those that attention counts
            expected = state.size[sample, model.num_prefix :, 0].sort().values
            assert sorted(groups[place].sizes) == expected.tolist()
            source = state.source[sample, model.num_prefix :].numpy()
            same = source[:, None] == source[None]
            assert (same == (ids.ravel()[:, None] == ids.ravel()[None])).all()


def test_depths_are_snapshots_on_the_way_and_only_ever_join(case: tuple[ToMeViT, torch.Tensor]):
    model, x = case
    (groups, _) = trace_groups(model, x, [2], [1, 2, 3])
    for before, after in itertools.pairwise(groups):
        assert len(after.sizes) == len(before.sizes) - 2
        for number in range(len(before.sizes)):  # a group never comes apart again
            assert len(np.unique(after.ids[before.ids == number])) == 1


def test_zero_r_leaves_every_patch_alone_and_nothing_of_the_model_changes():
    model, x = image_model(), torch.randn(1, 3, 32, 32)
    before = model(x)
    ((groups,),) = trace_groups(model, x, [0])
    assert groups.sizes.tolist() == [1] * 16
    assert groups.label == "r 0, block 3: 17 tokens"
    assert model.r == 2
    assert not model.trace_source
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("r", "words"),
    [
        (8, "r 8, block 2: 9 tokens"),
        ([4, 2], "r 4,2, block 2: 9 tokens"),
        ({"r": 16, "inflection": -1.0}, "r 16, inflection -1, block 2: 9 tokens"),
        ({"keep": 0.9}, "keep 0.9, block 2: 9 tokens"),
        ([100] * 12, "r 100,100,100,100,100,10.., block 2: 9 tokens"),
    ],
)
def test_captions(r: Any, words: str):
    assert Groups(r, 2, 9, np.zeros((1, 1), np.int64)).label == words


def test_what_cannot_be_is_refused():
    model, x = image_model(), torch.randn(1, 3, 32, 32)
    with pytest.raises(PlanError, match="at most 8"):
        trace_groups(model, x, [9])
    with pytest.raises(ValueError, match="1 to 3"):
        trace_groups(model, x, [1], [4])
    assert model.r == 2


def test_sources_of_no_block_are_the_patches_themselves():
    model, x = image_model(), torch.randn(2, 3, 32, 32)
    none, last = model.forward_sources(x, [0, 3])
    assert torch.equal(none, torch.arange(17).expand(2, -1))
    assert torch.equal(last, model.forward_sources(x)[0])
    assert last.max() == 17 - 6 - 1
