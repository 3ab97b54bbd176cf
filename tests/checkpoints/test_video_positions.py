"""Position tables of clips of another length and size."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from checkpoints import CheckpointError, interpolate_positions, load
from checkpoints.positions import interpolate_joint, interpolate_time, materialise, steps_of


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(6))


def on_half_pixels(table, steps):
    """numpy's linear interpolation at centres (i + 0.5) * T / steps - 0.5, the ends carried on."""
    old = table.shape[1]
    at = (np.arange(steps) + 0.5) * old / steps - 0.5
    columns = [np.interp(at, np.arange(old), column) for column in table[0].T.numpy()]
    return torch.from_numpy(np.stack(columns, 1)).float()[None]


@pytest.mark.parametrize("steps", [1, 3, 8, 12, 16])
def test_time_is_linear(steps):
    table = draw(1, 8, 5)
    got = interpolate_time(table, steps)
    torch.testing.assert_close(got, on_half_pixels(table, steps), atol=1e-6, rtol=0)


def test_the_same_length_and_size_are_the_identity():
    table = draw(1, 1 + 3 * 16, 5)
    assert torch.equal(interpolate_time(table, 49), table)
    torch.testing.assert_close(
        interpolate_joint(table, 3, (3, 4, 4), num_prefix=1), table, atol=0, rtol=0
    )


@pytest.mark.parametrize("grid", [(3, 4, 4), (5, 4, 4), (3, 6, 5), (8, 7, 7), (1, 2, 3)])
def test_a_constant_table_stays_constant(grid):
    row = draw(1, 1, 5)
    got = interpolate_joint(row.expand(1, 3 * 16, 5), 3, grid, num_prefix=0)
    assert got.shape == (1, grid[0] * grid[1] * grid[2], 5)
    # Bicubic weights sum to one up to rounding.
    torch.testing.assert_close(got, row.expand_as(got), atol=1e-5, rtol=0)


def test_a_joint_table_is_bicubic_in_space_and_linear_in_time():
    prefix, table = draw(1, 1, 5), draw(1, 3 * 16, 5)
    volume = table.reshape(3, 4, 4, 5).permute(0, 3, 1, 2)  # [T, D, H, W]
    space = interpolate(volume, (6, 5), mode="bicubic", align_corners=False, antialias=False)
    rows = space.permute(0, 2, 3, 1).reshape(1, 3, 30 * 5)
    expected = on_half_pixels(rows, 7).reshape(1, 7 * 30, 5)
    got = interpolate_joint(torch.cat([prefix, table], 1), 3, (7, 6, 5), num_prefix=1)
    assert torch.equal(got[:, :1], prefix)
    torch.testing.assert_close(got[:, 1:], expected, atol=1e-6, rtol=0)


def test_interpolating_and_summing_separable_tables_commute():
    spatial, temporal, prefix = draw(1, 16, 5), draw(1, 3, 5), draw(1, 1, 5)
    small = materialise(spatial, temporal, prefix)
    fitted = materialise(
        interpolate_positions(spatial, (6, 6), 0), interpolate_time(temporal, 5), prefix
    )
    got = interpolate_joint(small, 3, (5, 6, 6), num_prefix=1)
    torch.testing.assert_close(got, fitted, atol=1e-5, rtol=0)


def test_each_token_of_a_summed_table_is_its_place_and_its_time():
    spatial, temporal, prefix = draw(1, 16, 5), draw(1, 3, 5), draw(1, 1, 5)
    table = materialise(spatial, temporal, prefix)[0]
    assert torch.equal(table[0], prefix[0, 0])
    for t in range(3):
        for s in range(16):
            assert torch.equal(table[1 + t * 16 + s], spatial[0, s] + temporal[0, t])
    assert torch.equal(materialise(spatial, temporal, None)[0], table[1:])


@pytest.mark.parametrize(
    ("count", "grid", "steps"),
    [
        (1568, (8, 20, 20), 8),  # another size
        (1568, (16, 14, 14), 8),  # another length
        (1568, (32, 14, 14), 8),  # 32x7x7 would have the model's steps
        (1568, (2, 14, 14), 8),  # 2x28x28 would
        (1568, (8, 7, 7), 8),  # 32x7x7 would have the model's size
        (1568, (5, 9, 9), 8),  # both changed: as published
        (3136, (8, 14, 14), 16),  # ours, of 32 frames
        (3136, (4, 14, 14), 16),  # 4x28x28 would have the model's steps
        (392, (2, 18, 18), 2),  # ours, of 4 frames; 8x7x7 has neither size nor steps
        (3 * 25, (5, 4, 4), 3),  # the only way
    ],
)
def test_the_steps_of_a_joint_table_are_found(count, grid, steps):
    assert steps_of(count, grid) == steps


@pytest.mark.parametrize(
    ("count", "line"),
    [(3136, "4x28x28 or 16x14x14 or"), (30, "no steps of square images"), (0, "no steps")],
)
def test_steps_that_cannot_be_told_are_refused(count, line):
    with pytest.raises(CheckpointError, match=rf"{count} positions are.*{line}.*5x9x9"):
        steps_of(count, (5, 9, 9))


@pytest.mark.parametrize(
    ("changes", "reshaped"),
    [
        ({}, ()),
        ({"frames": 12}, ("pos_embed_temporal",)),
        ({"size": 48}, ("pos_embed_spatial",)),
        ({"frames": 4, "size": 24}, ("pos_embed_spatial", "pos_embed_temporal")),
    ],
    ids=str,
)
@pytest.mark.parametrize("class_token", [True, False])
def test_separable_tables_follow_length_and_size_each_on_its_own(
    mae_st, build_video, save, class_token, changes, reshaped
):
    weights = mae_st("full", class_token=class_token)
    vit = build_video(class_token=class_token, **changes)
    report = load(vit, save(weights))
    assert report.reshaped == reshaped
    steps, *grid = vit.patch_embed.grid_size
    spatial = interpolate_positions(weights["pos_embed_spatial"], tuple(grid), 0)
    assert torch.equal(vit.pos_embed_spatial, spatial)
    assert torch.equal(
        vit.pos_embed_temporal, interpolate_time(weights["pos_embed_temporal"], steps)
    )
    if class_token:
        assert torch.equal(vit.pos_embed_class, weights["pos_embed_class"])
    named = [*report.matched, *report.new, *report.reshaped]
    assert sorted(named) == sorted(vit.state_dict())


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("changes", [{}, {"frames": 12}, {"size": 48}, {"frames": 2, "size": 40}])
def test_joint_tables_follow_length_and_size(mae_st, build_video, save, class_token, changes):
    weights = mae_st("full", "joint", class_token)
    vit = build_video("joint", class_token=class_token, **changes)
    # 48 = 3x4x4 could also be 12x2x2: with length and size both changed nothing tells.
    if len(changes) == 2:
        with pytest.raises(CheckpointError, match="3x4x4 or 12x2x2"):
            load(vit, save(weights))
        return
    report = load(vit, save(weights))
    assert report.reshaped == (("pos_embed",) if changes else ())
    expected = interpolate_joint(weights["pos_embed"], 3, vit.patch_embed.grid_size, class_token)
    torch.testing.assert_close(vit.pos_embed, expected, atol=0, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"frames": 12}, {"size": 48}, {"frames": 4, "size": 24}])
@pytest.mark.parametrize("class_token", [True, False])
def test_a_separable_file_computes_the_same_in_a_joint_model(
    mae_st, build_video, save, class_token, changes
):
    path = save(mae_st("fine-tuned", class_token=class_token))
    separable = build_video(class_token=class_token, **changes)
    joint = build_video("joint", class_token=class_token, **changes)
    load(separable, path)
    report = load(joint, path)
    assert report.reshaped == ("pos_embed",)
    assert report.matched == tuple(name for name in joint.state_dict() if name != "pos_embed")
    assert report.dropped == ()
    clips = draw(2, 3, changes.get("frames", 6), *[changes.get("size", 32)] * 2)
    with torch.no_grad():  # the same numbers in the same order
        torch.testing.assert_close(joint(clips), separable(clips), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("changes", [{"frames": 12}, {"size": 48}])
def test_fixed_positions_fit_every_length_and_size(videomae, build_video, save, changes):
    vit = build_video("sinusoid", **changes)
    report = load(vit, save(videomae("fine-tuned")))
    assert (report.matched, report.reshaped) == (tuple(vit.state_dict()), ())


def test_half_precision_tables_are_resampled_in_float32(mae_st, build_video, save):
    weights = {name: value.half() for name, value in mae_st("full").items()}
    vit = build_video(frames=12, size=48)
    load(vit, save(weights))
    expected = interpolate_time(weights["pos_embed_temporal"].float(), 6)
    assert torch.equal(vit.pos_embed_temporal, expected)


def test_places_that_fill_no_square_are_refused(mae_st, build_video, save):
    weights = mae_st("full") | {"pos_embed_spatial": torch.zeros(1, 12, 32)}
    with pytest.raises(CheckpointError, match=r"12 rows.*fill no square"):
        load(build_video(), save(weights))


@pytest.mark.parametrize("shape", [(16, 32), (1, 16, 64), (2, 16, 32)])
@pytest.mark.parametrize("inflated", [True, False])
def test_a_table_of_another_shape_is_refused(mae_st, official, build_video, save, shape, inflated):
    name = "pos_embed" if inflated else "pos_embed_spatial"
    weights = official("encoder") if inflated else mae_st("full")
    path = save(weights | {name: torch.zeros(shape)})
    with pytest.raises(CheckpointError, match=rf"{name} is \[[\d, ]+\].*\[1, rows, 32\]"):
        load(build_video("joint"), path, inflate=inflated)
