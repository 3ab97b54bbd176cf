"""Groups as colours."""

import numpy as np
import pytest

from tome_lightning.pictures.drawing import enlarge, paint, scale_for, sheet
from tome_lightning.pictures.groups import Groups


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


def test_a_line_can_be_seen_on_black():
    painted = paint(np.zeros((1, 8, 8, 3), np.uint8), groups_of([[0, 1], [2, 2]]), scale=4)
    assert (painted[0, 4, 15] > 50).all()
    assert (painted[0, 4, 4] == 0).all()


def test_a_group_of_a_clip_has_one_colour_in_all_frames():
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    groups = groups_of([[[0, 1], [2, 3]], [[4, 0], [2, 5]]])  # 0 moves right
    for distinct in (False, True):
        painted = paint(frames, groups, distinct=distinct)
        assert (painted[:2, 1, 1] == painted[2:, 1, 5]).all()
        assert (painted[0, 6, 1] == painted[3, 6, 1]).all()
    plain = paint(frames, groups)
    # a single patch keeps its own colour where others are given a hue
    assert (painted[0, 1, 5] == plain[0, 1, 5]).all()
    assert (painted[0, 1, 1] != plain[0, 1, 1]).any()


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
