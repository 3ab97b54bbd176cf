"""Frames of clips, starts of test clips, offsets of crops."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datamodules import DataError
from datamodules.videos.clips import (
    SAMPLINGS,
    crop_starts,
    mae_st_span,
    mae_st_test_starts,
    mae_st_train_indices,
    videomae_test_starts,
    videomae_train_indices,
)

NEARLY_ONE = float(np.nextafter(1, 0))  # the greatest draw there is
LENGTHS = [*range(1, 135), 250, 300, 1001, 2**20]
RATES = [1.0, 15.0, 24000 / 1001, 25.0, 29.97, 30.0, 60.0, 240.0]
DRAWS = [0.0, 0.25, 0.5, 0.999, NEARLY_ONE]


def numbers(line: str) -> list[int]:
    return [int(word) for word in line.split()]


@pytest.mark.parametrize(
    ("n", "fps", "expected"),
    [
        (300, 30, "0 4 8 12 16 21 25 29 33 37 42 46 50 54 58 63"),
        (250, 25, "0 3 6 10 13 17 20 24 27 31 34 38 41 45 48 52"),
        (40, 30, "0 4 8 12 16 21 25 29 33 37 39 39 39 39 39 39"),
    ],
)
def test_training_clips_of_mae_st_are_the_published_ones(n: int, fps: int, expected: str) -> None:
    assert mae_st_train_indices(n, fps, 0).tolist() == numbers(expected)
    assert SAMPLINGS["mae_st"]().train(n, fps, 0.0).tolist() == numbers(expected)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (300, "0 4 8 12 17 21 25 29 34 38 42 46 51 55 59 63"),
        (40, "0 4 8 13 17 22 26 31 35 39 39 39 39 39 39 39"),
    ],
)
def test_training_clips_of_videomae_are_the_published_ones(n: int, expected: str) -> None:
    assert videomae_train_indices(n, 64).tolist() == numbers(expected)
    assert SAMPLINGS["videomae"]().train(n, 30, 0.0).tolist() == numbers(expected)


@pytest.mark.parametrize(
    ("clips", "expected"),
    [(10, "0 26 52 78 104 130 156 182 208 234"), (5, "0 59 118 177 236"), (1, "118")],
)
def test_test_clips_of_mae_st_start_where_published(clips: int, expected: str) -> None:
    assert mae_st_test_starts(300, 64, clips).tolist() == numbers(expected)
    chosen = SAMPLINGS["mae_st"]().test(300, 30, clips)
    assert chosen[:, 0].tolist() == numbers(expected)
    spacing = mae_st_train_indices(10_000, 30, 0)
    np.testing.assert_array_equal(chosen - chosen[:, :1], np.tile(spacing, (clips, 1)))


def test_test_clips_of_videomae_start_where_published() -> None:
    starts = videomae_test_starts(300)
    assert starts.tolist() == [0, 14, 29, 44, 59]
    chosen = SAMPLINGS["videomae"]().test(300, 30, 5)
    np.testing.assert_array_equal(chosen, 4 * (starts[:, None] + np.arange(16)))
    assert chosen.max() == 296  # the last of the 75 frames of the strided list


def test_crops_start_where_published() -> None:
    assert crop_starts(398, 224, 3) == [0, 87, 174]
    assert crop_starts(398, 224, 1) == [87]
    assert crop_starts(299, 224, 3) == [0, 37, 75]  # VideoMAE rounds down


def test_crops_of_mae_st_are_rounded_up() -> None:
    assert crop_starts(299, 224, 3, up=True) == [0, 38, 75]
    assert crop_starts(299, 224, 1, up=True) == [38]
    assert crop_starts(398, 224, 3, up=True) == [0, 87, 174]
    assert crop_starts(11, 1, 5, up=True) == [0, 3, 5, 8, 10]
    assert {name: kind.rounds_up for name, kind in SAMPLINGS.items()} == {
        "mae_st": True,
        "videomae": False,
    }


def test_a_single_test_crop_of_mae_st_is_cut_from_256_pixels() -> None:
    mae_st, videomae = SAMPLINGS["mae_st"](), SAMPLINGS["videomae"]()
    assert [mae_st.short_side(224, crops) for crops in (1, 2, 3)] == [256, 224, 224]
    assert mae_st.short_side(320, 1) == 365
    assert [videomae.short_side(224, crops) for crops in (1, 3)] == [224, 224]


@pytest.mark.parametrize("size", [1, 7, 224])
@pytest.mark.parametrize("crops", [1, 2, 3, 4, 5])
def test_crops_reach_both_ends_and_stay_inside(size: int, crops: int) -> None:
    for long_side in range(size, size + 120):
        starts = crop_starts(long_side, size, crops)
        assert starts == sorted(starts)
        assert len(starts) == crops
        if crops == 1:
            assert starts == crop_starts(long_side, size, 3)[1:2]  # the same centre
        else:
            assert (starts[0], starts[-1]) == (0, long_side - size)


@pytest.mark.parametrize("name", list(SAMPLINGS))
@pytest.mark.parametrize(("frames", "rate"), [(16, 4), (8, 8), (16, 1), (1, 1), (1, 4), (5, 3)])
def test_every_clip_lies_in_its_video_and_goes_forward(name: str, frames: int, rate: int) -> None:
    sampling = SAMPLINGS[name](frames, rate)
    for n in LENGTHS:
        for fps in RATES if n % 10 == 0 else RATES[3:4]:
            drawn = [sampling.train(n, fps, u) for u in DRAWS]
            tested = [sampling.test(n, fps, clips) for clips in (1, 2, 5)]
            assert [rows.shape for rows in tested] == [(k, frames) for k in (1, 2, 5)]
            for rows in (np.stack(drawn), *tested):
                assert rows.dtype == np.int64
                assert rows.shape[1] == frames
                assert rows.min() >= 0
                assert rows.max() < n
                assert (np.diff(rows) >= 0).all()


@pytest.mark.parametrize("name", list(SAMPLINGS))
def test_a_later_draw_is_a_later_clip(name: str) -> None:
    clips = np.stack([SAMPLINGS[name]().train(300, 25, u) for u in np.linspace(0, NEARLY_ONE, 500)])
    assert (np.diff(clips, axis=0) >= 0).all()


def test_the_latest_clip_of_mae_st_reaches_the_end_of_the_video() -> None:
    # the draw stays below 1, so start + span - 1 may be rounded down to the frame before the last
    assert SAMPLINGS["mae_st"]().train(300, 30, NEARLY_ONE)[-1] in (298, 299)


@pytest.mark.parametrize("n", [65, 66, 100, 300])
def test_every_end_of_a_videomae_clip_occurs_and_equally_often(n: int) -> None:
    draws = (np.arange(10 * (n - 64)) + 0.5) / (10 * (n - 64))
    ends = np.array([SAMPLINGS["videomae"]().train(n, 30, u)[-1] + 1 for u in draws])
    values, counts = np.unique(ends, return_counts=True)
    assert values.tolist() == list(range(64, n))
    assert set(counts.tolist()) == {10}
    assert SAMPLINGS["videomae"]().train(n, 30, NEARLY_ONE)[-1] == n - 2


def test_a_clip_of_mae_st_lasts_as_long_at_any_frame_rate() -> None:
    for fps in RATES:
        seconds = mae_st_span(fps) / fps
        assert seconds == pytest.approx(64 / 30)


def test_a_clip_of_videomae_does_not_look_at_the_frame_rate() -> None:
    sampling = SAMPLINGS["videomae"]()
    np.testing.assert_array_equal(sampling.train(300, 25, 0.5), sampling.train(300, 60, 0.5))
    np.testing.assert_array_equal(sampling.test(300, 25, 5), sampling.test(300, 60, 5))


@pytest.mark.parametrize(
    # videomae: half a stride of rounding on both sides, and up to 3 frames after the strided list
    ("name", "fps", "off"), [("mae_st", 30, 2), ("mae_st", 25, 2), ("videomae", 30, 4 + 3)],
)  # fmt: skip
def test_one_test_clip_is_the_centre_of_the_video(name: str, fps: float, off: int) -> None:
    for n in range(80, 400):
        clip = SAMPLINGS[name]().test(n, fps, 1)[0]
        before, after = clip[0], n - 1 - clip[-1]
        assert abs(int(before) - int(after)) <= off


@pytest.mark.parametrize("name", list(SAMPLINGS))
def test_several_test_clips_begin_at_the_start_and_end_near_the_end(name: str) -> None:
    for n in range(80, 400):
        for clips in (2, 3, 5, 10):
            chosen = SAMPLINGS[name]().test(n, 30, clips)
            assert chosen[0, 0] == 0
            # mae_st rounds its stride down, so the last clip may stop that much earlier
            assert n - 1 - chosen[-1, -1] <= (clips if name == "mae_st" else 3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 63, 64])
def test_a_video_shorter_than_a_clip_repeats_its_last_frame(n: int) -> None:
    for sampling in (SAMPLINGS["mae_st"](), SAMPLINGS["videomae"]()):
        clip = sampling.train(n, 30, 0.7)
        assert clip[-1] == n - 1
        assert (clip == sampling.train(n, 30, 0.1)).all()  # there is nothing to draw
    tested = SAMPLINGS["videomae"]().test(n, 30, 3)
    np.testing.assert_array_equal(
        tested, np.tile(np.minimum(np.arange(16), (n - 1) // 4) * 4, (3, 1))
    )


def test_samplings_compare_and_pickle_by_their_numbers() -> None:
    for kind in SAMPLINGS.values():
        assert pickle.loads(pickle.dumps(kind(8, 2))) == kind(8, 2) != kind(16, 2)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: SAMPLINGS["mae_st"](frames=0), "frames must be 1 or more, got 0"),
        (lambda: SAMPLINGS["videomae"](rate=-1), "rate must be 1 or more, got -1"),
        (lambda: SAMPLINGS["mae_st"]().test(300, 30, 0), "clips must be 1 or more, got 0"),
        (lambda: SAMPLINGS["videomae"]().test(300, 30, 0), "clips must be 1 or more, got 0"),
        (lambda: crop_starts(398, 224, 0), "crops must be 1 or more, got 0"),
        (lambda: mae_st_train_indices(0, 30, 0), "n must be 1 or more, got 0"),
        (lambda: videomae_train_indices(0, 64), "n must be 1 or more, got 0"),
        (lambda: mae_st_train_indices(300, float("nan"), 0), "a video of nan frames per second"),
        (lambda: mae_st_train_indices(300, 0.0, 0), "a video of 0.0 frames per second"),
    ],
)
def test_what_makes_no_clip_is_one_clear_line(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(DataError, match=line) as error:
        call()
    assert "\n" not in str(error.value)
