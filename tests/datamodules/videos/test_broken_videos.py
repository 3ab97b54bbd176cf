"""Files that are no video or are damaged: each read ends, and says why."""

import multiprocessing
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.shards.member import Source
from datamodules.videos import decoding
from datamodules.videos.decoding import VideoError, _OtherVideo, open_video

from ..clip_files import write_clip, write_sound
from .decoders import LIMIT, clip, every_decoder, numbers, read

av = pytest.importorskip("av")


@every_decoder
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("place", ["index in front", "b-frames"])
def test_a_truncated_file_raises(place: str, share: float, decoder: str, tmp_path) -> None:
    data = Path(clip(place)[0]).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(Exception, match=r"cut short|Invalid data|End of file"):
        read(str(path), decoder)


@every_decoder
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "No such file"),
        ("folder", "directory"),
        ("empty", "Invalid data|End of file"),
        ("text", "Invalid data"),
        ("audio", "no video stream"),
        ("no frames", "no video stream|no frames|Invalid data|no decoder"),
    ],
)
def test_what_is_no_video_says_why(kind: str, message: str, decoder: str, tmp_path) -> None:
    path = tmp_path / "clip.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("404: not found\n" * 50)
    elif kind == "audio":
        write_sound(path)
    elif kind == "no frames":
        write_clip(path, frames=0)
    with pytest.raises(Exception, match=message):
        read(str(path), decoder)


@every_decoder
def test_decoders_are_silent(decoder: str, tmp_path: Path, capfd) -> None:
    data = bytearray(Path(clip("index in front")[0]).read_bytes())
    data[5000:5400] = b"\xff" * 400
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    for bad in (path, tmp_path / "missing.mp4"):
        with pytest.raises(Exception):  # noqa: B017, PT011
            read(str(bad), decoder)
    assert capfd.readouterr() == ("", "")


def damaged(data: bytes, seed: int) -> bytes:
    """A copy cut at a random place, or with 1 to 256 random bytes."""
    draw, copy = random.Random(seed), bytearray(data)
    if draw.random() < 0.25:
        return bytes(copy[: draw.randrange(len(copy))])
    for _ in range(draw.choice([1, 4, 16, 64, 256])):
        copy[draw.randrange(len(copy))] = draw.randrange(256)
    return bytes(copy)


def read_damaged(data: bytes, path: Path, decoder: str, answer: Any) -> None:
    ends = {"frames": 0, "error": 0}
    for seed in range(200):
        path.write_bytes(damaged(data, seed))
        try:
            frames = read(str(path), decoder)
            ends["frames"] += int(frames.shape[-1] == 3)
        except MemoryError:  # would end a run
            answer.put(f"MemoryError, seed {seed}")
            return
        except Exception:
            ends["error"] += 1
    answer.put((ends, LIMIT.abandoned))


@every_decoder
@pytest.mark.parametrize("name", ["index in front", "mpeg4 avi, b-frames", "webm"])
def test_200_damaged_copies_neither_hang_nor_crash(name: str, decoder: str, tmp_path) -> None:
    path, _ = clip(name)
    context = multiprocessing.get_context("fork")  # a crash must not end the tests
    answer, copy = context.SimpleQueue(), tmp_path / Path(path).name
    arguments = (Path(path).read_bytes(), copy, decoder, answer)
    process = context.Process(target=read_damaged, args=arguments)
    process.start()
    process.join(240)
    assert process.exitcode == 0
    ends, abandoned = answer.get()
    assert abandoned == 0
    assert ends["frames"] + ends["error"] == 200
    assert min(ends.values()) >= 5, ends  # the damage is neither too light nor too heavy


DATA = Path(__file__).parents[2] / "data"


@every_decoder
def test_a_cover_picture_is_no_video(decoder: str) -> None:
    with pytest.raises(VideoError, match="no video stream but a cover picture"):
        read(str(DATA / "audiocover.mp4"), decoder)


@pytest.fixture(scope="module", params=["sound", "video"])
def covered(request, tmp_path_factory) -> tuple[str, str]:
    """A Matroska file with a cover, and what else is in it."""
    sound = request.param == "sound"
    source, kind = (DATA / "audiocover.mp4", "audio") if sound else (clip("b-frames")[0], "video")
    path = tmp_path_factory.mktemp("covered") / "covered.mkv"
    with av.open(str(DATA / "audiocover.mp4")) as pictures:
        jpeg = bytes(next(pictures.demux(pictures.streams.video[0])))
    with av.open(str(source)) as origin, av.open(str(path), "w") as target:
        if not hasattr(target, "add_attachment"):
            pytest.skip("this PyAV cannot write a cover")
        stream = target.add_stream_from_template(origin.streams.best(kind))
        target.add_attachment("cover.jpg", "image/jpeg", jpeg)
        for packet in origin.demux(origin.streams.best(kind)):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return str(path), request.param


@every_decoder
def test_an_attached_cover_neither_is_nor_hides_a_video(covered, decoder: str) -> None:
    path, beside = covered
    if beside == "video":
        assert numbers(read(path, decoder, [5, 47])) == [5, 47]
        return
    with pytest.raises(VideoError, match="no video stream but a cover picture"):
        read(path, decoder)


@every_decoder
@pytest.mark.parametrize("width", [8, 16, 24, 48, 72])
def test_pyav_reads_what_another_fails_to_decode(width: int, decoder: str, tmp_path) -> None:
    path = write_clip(tmp_path / "clip.mp4", size=(48, width), frames=12)
    with open_video(str(path), decoder) as video:
        assert torch.equal(video.frames([9, 3]), read(str(path), "pyav", [9, 3]))
        assert video.size == (48, width)
        with pytest.raises(IndexError):
            video.frames([12])


@every_decoder
def test_a_small_phone_video_is_read(decoder: str) -> None:
    assert read(str(DATA / "h264_72x72.mp4"), decoder).shape == (12, 72, 72, 3)


def test_pyav_stands_in_for_the_rest_of_a_video(monkeypatch) -> None:
    class Failing(_OtherVideo):
        """Reads its first frames and no others."""

        num_frames = 48

        def __init__(self, source: Source, threads: int, fps: float) -> None:
            super().__init__(source, threads, fps)
            self.asked: list[list[int]] = []

        def _read(self, wanted: list[int]) -> torch.Tensor:
            self.asked.append(wanted)
            if wanted[-1] > 9:
                raise RuntimeError("cannot decode")
            assert isinstance(self._source, str)
            return read(self._source, "pyav", wanted)

    monkeypatch.setattr(decoding, "TorchCodecVideo", Failing)
    with open_video(clip("b-frames")[0], "torchcodec") as video:
        for indices in ([2, 5], [9, 10], [3]):
            assert numbers(video.frames(indices)) == indices
        assert isinstance(video, Failing)
        assert video.asked == [[2, 5], [9, 10]]
