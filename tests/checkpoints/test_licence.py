"""The licence of weights, as far as a name tells it."""

import pytest

from checkpoints.licence import licence_of


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("mae_pretrain_vit_base", "CC-BY-NC"),
        ("tome_vit_base_r16", "CC-BY-NC"),
        ("runs/old/mae_pretrain_vit_large.pth", "CC-BY-NC"),
        ("videomae_vit_base_k400_finetuned", "CC-BY-NC"),
        ("pyslowfast_mae_vit_base_k400", "CC-BY-NC"),
        ("vit_base_patch16_224.mae", "cc-by-nc"),
        ("vit_base_patch16_224.augreg_in1k", "apache"),
        ("nothing/known.pth", None),
        (None, None),
    ],
)
def test_the_licence_of_a_name(weights: str | None, told: str | None):
    found = licence_of(weights)
    assert (found is None) if told is None else (found is not None and told in found)
