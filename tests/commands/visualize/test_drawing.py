"""Groups as colours."""

import numpy as np
import pytest

from tome_lightning.commands.visualize.drawing import (
    enlarge,
    film,
    group_hues,
    paint,
    scale_for,
    sheet,
)
from tome_lightning.commands.visualize.groups import Groups


def groups_of(ids: list) -> Groups:
    return Groups(2, 1, 3, np.array(ids))


def test_each_group_has_the_mean_colour_of_its_pixels_and_a_line_around_it():
    frames = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    groups = groups_of([[0, 0], [1, 0]])
    painted = paint(frames, groups, scale=4)
    assert painted.shape == (1, 32, 32, 3)
    lower_left = frames[0, 4:, :4].reshape(-1, 3).mean(axis=0)
    others = np.concatenate([frames[0, :4].reshape(-1, 3), frames[0, 4:, 4:].reshape(-1, 3)])
    assert np.abs(painted[0, 24, 4] - lower_left).max() <= 0.5
    for place in ((4, 4), (4, 24), (24, 24)):
        assert np.abs(painted[0, *place] - others.mean(axis=0)).max() <= 0.5
    assert (painted[0, 15, 4] != painted[0, 14, 4]).any()  # the line between upper and lower left
    assert (painted[0, 4, 15] == painted[0, 4, 4]).all()  # none within a group


def test_borders_tell_which_places_are_one_group():
    frames = np.full((1, 8, 16, 3), 128, np.uint8)
    painted = paint(frames, groups_of([[0, 1, 0, 2], [3, 1, 4, 2]]), scale=8)[0]
    left, right = painted[8, 31], painted[8, 95]  # of group 0, at its right side twice
    assert (left == right).all()
    assert (left != painted[8, 32]).any()  # beside it group 1's
    assert len(np.unique(np.stack([left, painted[8, 32], painted[8, 96]]), axis=0)) == 3


def test_the_hues_of_many_groups_differ():
    hues = group_hues(np.array([1, *range(2, 42)]))
    assert (hues[0] == 1).all()
    assert len(np.unique(hues.round(3), axis=0)) == 41


def test_a_line_can_be_seen_on_black():
    painted = paint(np.zeros((1, 8, 8, 3), np.uint8), groups_of([[0, 1], [2, 2]]), scale=4)
    assert (painted[0, 4, 15] >= 50).all()
    assert painted[0, 16, 4].max() > 50
    assert (painted[0, 4, 4] == 0).all()


def test_a_group_of_a_clip_has_one_colour_in_all_frames():
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    groups = groups_of([[[0, 1], [2, 3]], [[4, 0], [2, 5]]])  # 0 moves right
    painted = paint(frames, groups)
    assert (painted[:2, 1, 1] == painted[2:, 1, 6]).all()
    assert (painted[0, 6, 1] == painted[3, 6, 1]).all()


def test_distinct_groups_are_their_pixels_in_one_hue():
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).repeat(3, -1).astype(np.uint8)
    groups = groups_of([[[0, 1], [2, 3]], [[4, 0], [2, 5]]])
    painted = paint(frames, groups, distinct=True).astype(float)
    assert (painted[0, 1, 6] == frames[0, 1, 6]).all()  # merged with none
    share = painted / frames.clip(1)
    assert np.abs(share[:2, 1, 1] - share[2:, 1, 6]).max() < 0.1  # of 0, in both places
    assert np.abs(share[0, 6, 1] - share[0, 1, 1]).max() > 0.3  # 2 has another hue
    assert (
        np.abs(painted.max(axis=-1) - frames[..., 0])[:, :2, :2].max() <= 1
    )  # as bright as it was


def test_a_film_moves_below_its_captions():
    frames = np.random.default_rng(0).integers(0, 256, (3, 41, 41, 3)).astype(np.uint8)
    moving = film([("one", frames), ("two", frames[::-1])])
    assert len(moving) == 3
    assert not moving.shape[1] % 2
    assert not moving.shape[2] % 2
    for t in range(3):
        assert (moving[t, 32:73, 10:51] == frames[t]).all()
        assert (moving[t, 32:73, 61:102] == frames[2 - t]).all()
    assert (moving[0, :32] == moving[2, :32]).all()
    assert moving[0, :32].min() < 128  # something is written


def test_small_frames_are_enlarged_pixel_by_pixel():
    frames = np.arange(28 * 28 * 3, dtype=np.uint8).reshape(1, 28, 28, 3)
    scale = scale_for(frames)
    big = enlarge(frames, scale)
    assert 300 <= big.shape[1] <= 400
    assert (big[:, ::scale, ::scale] == frames).all()
    assert scale_for(np.zeros((1, 512, 512, 3), np.uint8)) == 1


def test_a_sheet_has_a_panel_for_each_caption():
    red, blue = (np.full((20, 30, 3), c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))
    page = np.asarray(sheet([[("one", red), ("two", blue)], [("a caption that is too long", red)]]))
    for colour, count in (((255, 0, 0), 2), ((0, 0, 255), 1)):
        assert (page == colour).all(axis=-1).sum() == count * 20 * 30
    assert page.shape[1] == pytest.approx(2 * 30, abs=40)
