"""A member of a shard becomes what the same file on disk becomes, or is refused alike."""

import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.filelist import VIDEO_EXTENSIONS
from datamodules.images.check import ImageCheck
from datamodules.images.reading import read_image
from datamodules.shards.member import MemberError, cell, file_of, member
from datamodules.sounds.check import AudioCheck
from datamodules.sounds.features import FrontEnd
from datamodules.sounds.reading import AudioReader, probe, read_waveform
from datamodules.videos.check import VideoCheck
from datamodules.videos.clip_reader import Decoding, EvalClipReader, TrainClipReader
from datamodules.videos.clips import SAMPLINGS
from datamodules.videos.decoding import TorchCodecVideo, open_video

from ..images import test_check as pictures
from ..sound_files import RATE, cut, encode, streamed_wav, sweep, write
from ..sounds.test_endings import (
    AUDIO_ENDINGS,
    IMAGE_ENDINGS,
    write_fading,
    write_halves,
    write_sweep,
)
from ..videos.decoders import CLIPS, LIMIT, clip, every_decoder, read
from ..videos.test_broken_videos import damaged
from .shard_files import in_tar

BROKEN = {**pictures.CUT, **pictures.OTHER}
DATA = Path(__file__).parents[2] / "data"
FRONT = FrontEnd(frames=64, mels=16, mean=-4.0, std=4.0)


def read_frames(path: str) -> torch.Tensor:
    return read(path, "pyav")


def read_picture(path: str) -> Image.Image:
    return read_image(path, 3)


def read_sound(path: str) -> torch.Tensor:
    return LIMIT.call(read_waveform, path)


IMAGE_CHECKS = [ImageCheck(3), ImageCheck(3, quick=True)]
VIDEO_CHECK = VideoCheck(Decoding("pyav"))
AUDIO_CHECK = AudioCheck(AudioReader(FRONT.seconds, 30.0), FRONT)
IMAGE_READS = [read_picture, lambda path: read_image(path, 1, exif=False), *IMAGE_CHECKS]
AUDIO_READS = [read_sound, lambda path: read_waveform(path, 0.3), probe, AUDIO_CHECK]


class Refused(NamedTuple):
    kind: type[Exception]
    words: str


def outcome(of: Callable[[str], Any], path: str) -> Any:
    """What a reader makes of a path, or its error, which calls the file by its own name."""
    try:
        return of(path)
    except Exception as error:  # decoders have their own
        words = str(error).replace(repr(os.fsencode(path)), repr(path))  # as soundfile is given it
        words = re.sub(r"<_io\.BufferedReader name=(.*?)>", r"\1", words)  # as Pillow is
        return Refused(type(error), words.replace(path, Path(path).name))


def check_alike(path: Path, *reads: Callable[[str], Any], broken: bool | None = None) -> None:
    """Compare what readers make of a file and of a copy in a tar file.

    Args:
        path: The file.
        reads: The readers.
        broken: Whether it has to be refused, or must not be.
    """
    copy = in_tar(path)
    for of in reads:
        expected, found = outcome(of, str(path)), outcome(of, copy)
        if isinstance(expected, torch.Tensor):
            assert torch.equal(found, expected)
        else:
            assert found == expected
        if broken is not None:
            assert isinstance(expected, Refused) == broken


# ---- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", pictures.GOOD)
def test_pictures(case: str, tmp_path: Path) -> None:
    check_alike(pictures.GOOD[case](tmp_path), *IMAGE_READS, broken=False)


@pytest.mark.parametrize("case", sorted({*BROKEN} - {"missing"}))
def test_broken_pictures(case: str, tmp_path: Path) -> None:
    check_alike(BROKEN[case](tmp_path), *IMAGE_READS, broken=True)


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_pictures_of_each_ending(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    write_halves(path)
    check_alike(path, *IMAGE_READS, broken=False)


@pytest.mark.parametrize("name", ["1.jfif", "exif3_left.jpg", "float01.tif", "gray16.png"])
def test_deep_and_turned_pictures(name: str, tmp_path: Path) -> None:
    check_alike(Path(shutil.copy(DATA / name, tmp_path)), *IMAGE_READS, broken=False)


# ---- videos ------------------------------------------------------------------------------------


@every_decoder
@pytest.mark.parametrize("name", CLIPS)
def test_videos_by_each_decoder(name: str, decoder: str, tmp_path: Path) -> None:
    path, frames = clip(name)
    copy = in_tar(Path(shutil.copy(path, tmp_path)))
    draw = random.Random(name)
    orders = [[draw.randrange(frames) for _ in range(6)] for _ in range(3)]
    with open_video(path, decoder) as one, open_video(copy, decoder) as other:
        assert type(one) is type(other)
        assert (one.num_frames, one.fps, one.size) == (other.num_frames, other.fps, other.size)
        for indices in orders:  # back and forth: some are found by opening the video anew
            assert torch.equal(one.frames(indices), other.frames(indices))


@pytest.mark.parametrize("ending", VIDEO_EXTENSIONS)
def test_videos_of_each_ending(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    write_fading(path)
    check_alike(path, read_frames, VIDEO_CHECK, broken=False)


@pytest.mark.parametrize("name", ["index in front", "mpeg4 avi, b-frames", "webm", "raw"])
def test_damaged_videos(name: str, tmp_path: Path) -> None:
    whole = Path(clip(name)[0])
    for seed in range(25):
        path = tmp_path / whole.name
        path.write_bytes(damaged(whole.read_bytes(), seed))
        check_alike(path, read_frames)


@every_decoder
@pytest.mark.parametrize("content", [b"", b"404: not found\n" * 50, bytes(5000)])
def test_what_is_no_video(content: bytes, decoder: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    check_alike(path, lambda path: read(path, decoder), VIDEO_CHECK, broken=True)


@pytest.mark.parametrize("name", ["audiocover.mp4", "vfr.mkv", "h264_72x72.mp4", "late_start.webm"])
def test_videos_of_others(name: str, tmp_path: Path) -> None:
    check_alike(Path(shutil.copy(DATA / name, tmp_path)), read_frames, VIDEO_CHECK)


@every_decoder
def test_clips_are_the_same_in_training_and_evaluation(decoder: str, tmp_path: Path) -> None:
    path = shutil.copy(clip("long groups")[0], tmp_path)
    copy, how, sampling = in_tar(Path(path)), Decoding(decoder), SAMPLINGS["mae_st"](4, 2)
    for reader in (TrainClipReader(how, sampling), EvalClipReader(how, sampling, 3)):
        random.seed(7)
        expected = reader(path)
        random.seed(7)
        assert torch.equal(reader(copy), expected)


def test_torchcodec_is_given_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(shutil.copy(clip("b-frames")[0], tmp_path))

    class VideoDecoder:
        """Stands in for torchcodec's, whatever of it is installed."""

        def __init__(self, source: bytes, **_: object) -> None:
            assert source == path.read_bytes()
            self.frames = read_frames(str(path))

        def __len__(self) -> int:
            return len(self.frames)

        def get_frames_at(self, wanted: list[int]) -> Any:
            return SimpleNamespace(data=self.frames[wanted])

    decoders = SimpleNamespace(VideoDecoder=VideoDecoder)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    with open_video(in_tar(path), "torchcodec") as video:
        assert isinstance(video, TorchCodecVideo)
        assert torch.equal(video.frames([5, 2]), read_frames(str(path))[[5, 2]])


# ---- sounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", AUDIO_ENDINGS)
def test_sounds_of_each_ending(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    write_sweep(path)
    check_alike(path, *AUDIO_READS, broken=False)


@pytest.mark.parametrize(
    "ending", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mkv", ".au"]
)
def test_damaged_sounds(ending: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a{ending}"
    write_sweep(path)
    whole = path.read_bytes()
    for seed in range(12):
        path.write_bytes(damaged(whole, seed))
        check_alike(path, *AUDIO_READS)
    assert capfd.readouterr() == ("", "")  # a callback that fails would print


@pytest.mark.parametrize("ending", [".wav", ".flac", ".m4a"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>\n" * 300, bytes(9000)])
def test_what_is_no_sound(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    check_alike(path, *AUDIO_READS, broken=True)


def test_sounds_that_were_cut_short_or_streamed(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        short = Path(cut(write(tmp_path / name, sweep(4.0)), 0.5))
        check_alike(short, read_sound, broken=True)
        check_alike(short, lambda path: read_waveform(path, 1.0), broken=False)
    for name, codec, rate in (("a.m4a", "aac", RATE), ("a.webm", "libopus", 48_000)):
        path = cut(encode(tmp_path / name, sweep(4.0, rate), codec, rate), 0.5)
        check_alike(Path(path), read_sound, broken=True)
    (tmp_path / "b.wav").write_bytes(streamed_wav(sweep(0.5)))
    check_alike(tmp_path / "b.wav", *AUDIO_READS, broken=False)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "DOUBLE"])
def test_sounds_of_each_depth_and_two_channels(subtype: str, tmp_path: Path) -> None:
    stereo = np.stack([sweep(0.5, 44_100), -0.3 * sweep(0.5, 44_100)], axis=1)
    write(tmp_path / "a.wav", stereo, 44_100, subtype=subtype)
    check_alike(tmp_path / "a.wav", *AUDIO_READS, broken=False)


def test_a_name_that_lies_about_a_sound(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp3", sweep(), "libmp3lame")
    check_alike((tmp_path / "a.mp3").rename(tmp_path / "a.wav"), *AUDIO_READS, broken=False)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".webm"])
def test_a_member_without_an_ending_is_read_by_what_it_holds(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    write_sweep(path)
    copy = in_tar(path, "0-17")
    assert torch.equal(read_waveform(copy), read_waveform(str(path)))
    assert probe(copy) == probe(str(path))
    path.write_bytes(b"nothing" * 100)
    with pytest.raises(Exception, match="'0-17'"):
        read_waveform(in_tar(path, "0-17"))


# ---- all ---------------------------------------------------------------------------------------

KINDS: dict[str, tuple[str, Callable[[Path], object], list[Callable[[str], Any]]]] = {
    "picture": ("a.png", write_halves, IMAGE_READS),
    "video": ("a.mp4", write_fading, [read_frames, VIDEO_CHECK]),
    "sound": ("a.wav", write_sweep, AUDIO_READS),
    "sound by PyAV": ("a.m4a", write_sweep, AUDIO_READS),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_become_of_the_shard_is_told(kind: str, tmp_path: Path) -> None:
    name, make, reads = KINDS[kind]
    make(tmp_path / name)
    copy = in_tar(tmp_path / name)
    shard, place = Path(file_of(copy)), member(copy)
    assert place is not None
    stale = place._replace(first=place.first - 512).path
    whole = shard.read_bytes()
    for of in reads:
        with pytest.raises(MemberError, match="is not where its shard had it"):
            of(stale)
        shard.write_bytes(whole[: place.first + place.second - 1])
        with pytest.raises(MemberError, match="cut short"):
            of(copy)
        shard.unlink()
        with pytest.raises(FileNotFoundError, match=shard.name):
            of(copy)
        shard.write_bytes(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_of_a_table_is_read_as_the_file(kind: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    name, make, reads = KINDS[kind]
    make(tmp_path / name)
    rows = [
        {"bytes": b"another", "path": "b"},
        {"bytes": (tmp_path / name).read_bytes(), "path": name},
    ]
    shard = str(tmp_path / "a.parquet")
    parquet.write_table(pa.table({"file": rows}), shard)
    for called in (name, ""):  # whose name is not told is called by its place
        for of in reads:
            expected, found = (
                of(path) for path in (str(tmp_path / name), cell(shard, "file", called, 0, 1).path)
            )
            same = torch.equal(found, expected) if torch.is_tensor(found) else found == expected
            assert same


@pytest.mark.parametrize("kind", KINDS)
def test_several_threads_read_one_member(kind: str, tmp_path: Path) -> None:
    name, make, (of, *_) = KINDS[kind]
    make(tmp_path / name)
    expected = np.asarray(of(str(tmp_path / name)))
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(of, [in_tar(tmp_path / name)] * 16):
            assert np.array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_unpacked(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, make, reads = KINDS[kind]
    make(tmp_path / name)
    copy = in_tar(tmp_path / name)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file is made")

    for maker in ("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile"):
        monkeypatch.setattr(tempfile, maker, refuse)
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.chdir(scratch)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for of in reads:
        of(copy)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("of", [*IMAGE_CHECKS, read_sound, probe])
def test_a_shard_that_is_a_pipe_is_not_waited_for(of: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(ValueError, match=r"no regular file|pipe or a device"):
        of(f"{tmp_path}/a.tar::a.wav@512+100")


@pytest.mark.parametrize("name", ["größe.mp4", "cl\udcffp.mp4", "a b::c@1+2.mp4", "100%d?.mp4"])
def test_odd_names_of_members(name: str, tmp_path: Path) -> None:
    for make, ending, of in (
        (write_halves, ".png", lambda path: np.asarray(read_picture(path)).tolist()),
        (write_fading, ".mp4", lambda path: read_frames(path).tolist()),
        (write_sweep, ".flac", lambda path: read_sound(path).tolist()),
    ):
        path = tmp_path / f"a{ending}"
        make(path)
        assert of(in_tar(path, name.replace(".mp4", ending))) == of(str(path))
