"""Frames per second follow the times of the packets, not what a container calls itself."""

from fractions import Fraction
from pathlib import Path

import pytest

from datamodules.videos.clips import MAESTSampling
from datamodules.videos.decoding import open_video
from datamodules.videos.frame_rate import frame_rate

from ..clip_files import write_clip
from .decoders import every_decoder

DATA = Path(__file__).parents[2] / "data"
MS, THIRTY = Fraction(1, 1000), Fraction(30)


def test_times_rounded_to_a_tick_do_not_move_a_constant_rate():
    times = [round(1000 * n / 30) for n in range(300)]
    assert frame_rate(times[::-1], MS, 33, [THIRTY]) == 30.0
    assert frame_rate(times, MS, 33, [Fraction(25), None, THIRTY]) == 30.0
    ntsc = Fraction(30000, 1001)
    times = [int(1000 * n / ntsc) + 1 for n in range(300)]
    assert frame_rate(times, MS, 33, [THIRTY, ntsc]) == float(ntsc)


def test_other_times_overrule_the_nominal_rate():
    times = [80 * n for n in range(50)]  # 12.5 a second
    assert frame_rate(times, MS, 80, [THIRTY]) == pytest.approx(12.5)
    assert frame_rate(times, MS, 0, [Fraction(1000)]) == pytest.approx(12.5)
    # 10 frames in one second, 30 in the next, whose last one is shown for a thirtieth, too
    mixed = [100 * n for n in range(10)] + [1000 + round(1000 * n / 30) for n in range(30)]
    assert frame_rate(mixed, MS, 33, [THIRTY, Fraction(20)]) == pytest.approx(20, rel=1e-3)


def test_a_coarse_tick_hides_no_dropped_frame():
    tick = 1 / THIRTY
    assert frame_rate([0, 2, 4], tick, 2, [THIRTY]) == 15
    assert frame_rate([0, 1, 3, 4], tick, 1, [THIRTY]) == 24
    assert frame_rate(range(48), tick, 1, [THIRTY]) == 30
    film = [round(n * 60 / 24) for n in range(48)]
    assert frame_rate(film, Fraction(1, 60), 2, [Fraction(60), Fraction(24)]) == 24


def test_where_no_times_tell_the_container_is_believed():
    assert frame_rate([], MS, 0, [None, THIRTY]) == 30.0
    assert frame_rate([7], MS, 33, [THIRTY]) == 30.0
    assert frame_rate([], MS, 0, [None, None]) == 0.0


@every_decoder
def test_the_same_frames_and_times_give_the_same_clip_in_each_container(decoder: str):
    clips = {}
    for name in ("vfr.mp4", "vfr.mkv"):  # 25 frames in 2 seconds; the mkv calls itself 30 a second
        with open_video(str(DATA / name), decoder) as video:
            assert video.fps == pytest.approx(12.5, rel=1e-3)
            clips[name] = MAESTSampling().test(video.num_frames, video.fps, 1)[0].tolist()
    assert clips["vfr.mkv"] == clips["vfr.mp4"]
    assert len(set(clips["vfr.mkv"])) == 16


@pytest.mark.parametrize("extension", ["mkv", "mp4", "ts", "flv"])
@pytest.mark.parametrize(
    ("times", "fps"),
    [
        ([5 * n for n in range(48)], 6),  # a muxer that was told 30
        ([n if n < 24 else 24 + 4 * (n - 24) for n in range(48)], 48 / ((20 + 96 + 4) / 30)),
        (list(range(48)), 30),
    ],
)
def test_any_container_s_rate_is_that_of_its_frames(times, fps, extension, tmp_path: Path):
    path = write_clip(tmp_path / f"clip.{extension}", times=times, b_frames=0)
    with open_video(str(path), "pyav") as video:
        # the length of the last frame, an eighth of a second at most, is not stored everywhere
        assert video.fps == pytest.approx(fps, rel=0.04)
        if fps == 30:
            assert video.fps == 30
