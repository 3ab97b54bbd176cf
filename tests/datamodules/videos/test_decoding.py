"""The same index is the same frame in each decoder."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.videos import decoding
from datamodules.videos.decoding import open_video
from datamodules.videos.pyav import PyAVVideo

from ..clip_files import picture, write_clip
from .decoders import CLIPS, FIXED_GOP, clip, every_decoder, numbers, read

av = pytest.importorskip("av")


def remux(path: str, to: Path, shift: int = 0, rotation: int = 0) -> str:
    """Copy the packets; those before time 0, after a shift by so many frames, are not shown."""
    with av.open(path) as source, av.open(str(to), "w") as target:
        origin = source.streams.video[0]
        stream = target.add_stream_from_template(origin)
        if rotation:
            stream.set_display_rotation(rotation)
        ticks = round(shift / (origin.average_rate * origin.time_base))
        for packet in source.demux(origin):
            if packet.size:
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = stream
                target.mux(packet)
    return str(to)


def skip_gradual_refresh_but_for_pyav(name: str, decoder: str) -> None:
    if name == "gradual refresh" and decoder != "pyav":
        pytest.skip("the others lose frames there, and only decoding would tell")


@every_decoder
@pytest.mark.parametrize("name", CLIPS)
def test_an_index_is_the_frame_of_that_number(name: str, decoder: str) -> None:
    skip_gradual_refresh_but_for_pyav(name, decoder)
    path, frames = clip(name)
    draw = random.Random(name)
    start = draw.randrange(frames - 40)
    for indices in (
        [draw.randrange(frames) for _ in range(8)],  # in any order
        sorted(draw.sample(range(frames), 8)),
        range(start, start + 40, 4),
        [frames - 1, 0, frames - 1, 5, 5],
        [frames - 1],
    ):
        assert numbers(read(path, decoder, indices)) == list(indices)


@every_decoder
@pytest.mark.parametrize("name", CLIPS)
def test_decoders_agree_on_the_pixels(name: str, decoder: str) -> None:
    skip_gradual_refresh_but_for_pyav(name, decoder)
    path, frames = clip(name)
    ours, theirs = (read(path, d, range(0, frames, 5)).int() for d in ("pyav", decoder))
    # decoding is exact by the standards; the conversion to RGB may round otherwise in another
    # FFmpeg, by a level or two of 255
    assert (ours - theirs).abs().float().mean() < 1
    assert (ours - theirs).abs().max() <= 3


@every_decoder
@pytest.mark.parametrize("name", ["b-frames", "odd size", "variable rate", "stream 1"])
def test_facts_of_a_video(name: str, decoder: str) -> None:
    path, frames = clip(name)
    with open_video(path, decoder) as video:
        assert video.num_frames == frames
        assert video.size == CLIPS[name][1].get("size", (64, 64))
        assert video.fps == pytest.approx(30 if name != "variable rate" else 30 / 2, rel=0.05)
        clip_ = video.frames([3, 1])
        assert (clip_.dtype, tuple(clip_.shape)) == (torch.uint8, (2, *video.size, 3))


@every_decoder
def test_colours_are_in_the_order_red_green_blue(decoder: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", size=(96, 96))
    expected = picture(7, (96, 96)).mean(axis=(0, 1))
    # the texture is chroma at half resolution, and lossy: a few levels
    np.testing.assert_allclose(
        read(str(path), decoder, [7])[0].numpy().mean((0, 1)), expected, atol=4
    )


@every_decoder
def test_frames_that_an_edit_list_hides_have_no_index(decoder: str, tmp_path: Path) -> None:
    path, frames = clip("long groups")
    cut = remux(path, tmp_path / "cut.mp4", shift=-21)
    with open_video(cut, decoder) as video:
        assert video.num_frames == frames - 21
    assert numbers(read(cut, decoder, [0, 1, 100, 278, 250])) == [21, 22, 121, 299, 271]


@every_decoder
@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_rotated_video_stands_upright(degrees: int, decoder: str, tmp_path: Path) -> None:
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a rotation")
    path = str(write_clip(tmp_path / "plain.mp4", size=(64, 96)))
    turned = remux(path, tmp_path / "turned.mp4", rotation=degrees)
    expected = torch.rot90(read(path, "pyav", [9]), degrees // 90, (1, 2))
    assert torch.equal(read(turned, decoder, [9]), expected)
    with open_video(turned, decoder) as video:
        assert video.size == ((64, 96) if degrees == 180 else (96, 64))


@every_decoder
def test_more_threads_give_the_same_frames(decoder: str) -> None:
    path, _ = clip("long groups")
    with open_video(path, decoder) as one, open_video(path, decoder, threads=2) as two:
        assert torch.equal(one.frames(range(60, 290, 9)), two.frames(range(60, 290, 9)))


@every_decoder
@pytest.mark.parametrize("indices", [[-1], [48], [0, 999], []])
def test_an_index_outside_the_video_is_refused(indices: list[int], decoder: str) -> None:
    with open_video(clip("b-frames")[0], decoder) as video:
        with pytest.raises((IndexError, ValueError), match=r"frame"):
            video.frames(indices)
        assert numbers(video.frames([7])) == [7]  # still of use


@pytest.mark.parametrize("name", CLIPS)
def test_leaving_out_frames_changes_no_pixel(name: str) -> None:
    path, frames = clip(name)
    indices = list(range(3, frames, 7))
    with PyAVVideo(path) as video:
        thorough = dict(video._thorough(indices))
        fast = video.frames(indices)
    assert torch.equal(fast, torch.from_numpy(np.stack([thorough[n] for n in indices])))


def count_calls(video: PyAVVideo, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Packets read and frames converted from now on."""
    counts = {"packets": 0, "frames": 0}
    packets, rgb = video._packets, video._rgb

    def count_packets(key: int | None) -> Any:
        for packet in packets(key):
            counts["packets"] += 1
            yield packet

    def count_frames(frame: av.VideoFrame) -> np.ndarray:
        counts["frames"] += 1
        return rgb(frame)

    monkeypatch.setattr(video, "_packets", count_packets)
    monkeypatch.setattr(video, "_rgb", count_frames)
    return counts


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_only_what_is_needed_is_decoded(extension: str, tmp_path: Path, monkeypatch) -> None:
    path = write_clip(tmp_path / f"clip.{extension}", frames=300, gop=50, options=FIXED_GOP)
    with PyAVVideo(str(path)) as video:
        counts = count_calls(video, monkeypatch)
        video.frames([255, 255, 103])
        # from the key frames 100 and 250 to the frames' own places in the file
        assert counts["packets"] == (video._order[103] - 99) + (video._order[255] - 249)
        assert counts["frames"] == 2
        counts.update(packets=0)
        video.frames([298, 299])
        assert counts["packets"] == 50


@pytest.mark.parametrize("name", ["mpeg4 avi, b-frames", "open groups", "transport stream", "raw"])
def test_pyav_reads_what_decord_would_number_otherwise(name: str) -> None:
    pytest.importorskip("decord")
    with open_video(clip("b-frames")[0], "decord") as video:
        assert isinstance(video, decoding.DecordVideo)
    with open_video(clip(name)[0], "decord") as video:
        assert isinstance(video, PyAVVideo)


def test_pyav_reads_what_the_other_cannot_open(monkeypatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("no such codec")

    monkeypatch.setattr(decoding, "DecordVideo", refuse)
    with open_video(clip("b-frames")[0], "decord") as video:
        assert isinstance(video, PyAVVideo)
        assert numbers(video.frames([5])) == [5]
