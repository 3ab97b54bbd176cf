"""Every ending that is listed as a picture, a video or a sound is read by what reads it."""

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from datamodules import ImageNet, Kinetics400
from datamodules.filelist import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from datamodules.images.reading import read_image
from datamodules.sounds.reading import AUDIO_EXTENSIONS, read_waveform
from datamodules.videos.pyav import PyAVVideo

from ..sound_files import RATE, encode, likeness, sweep

av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")

DATA = Path(__file__).parents[2] / "data"
UNWRITTEN = {".psd": "Pillow", ".ape": "FFmpeg"}  # read, but not written by
IMAGE_ENDINGS = sorted({*IMAGE_EXTENSIONS} - {*UNWRITTEN})
AUDIO_ENDINGS = sorted({*AUDIO_EXTENSIONS} - {*UNWRITTEN})
COLOURS = [(250, 10, 10), (10, 120, 250)]  # left and right half
ONE_CHANNEL = {".pgm": "L", ".pfm": "F", ".pbm": "1"}  # modes


def write_halves(path: Path) -> None:
    """A picture of two colours, in the format of its ending."""
    ending = path.suffix
    if ending in (".avif", ".avifs") and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    pixels = np.array(COLOURS, dtype=np.uint8)[None].repeat(32, 0).repeat(16, 1)
    one_channel = ONE_CHANNEL.get(ending)
    picture = Image.fromarray(pixels)
    if one_channel:
        picture = picture.convert("L")
        picture = picture.point([v / 255 for v in range(256)], "F") if ending == ".pfm" else picture
        picture = picture.convert(one_channel)
    kind = {".apng": "PNG", ".ras": None}.get(ending, Image.registered_extensions()[ending])
    if kind is None:  # Sun raster: big-endian magic, width, height, depth, length, type, map
        head = np.array([0x59A66A95, 32, 32, 24, pixels.size, 1, 0, 0], ">u4")
        path.write_bytes(head.tobytes() + pixels[..., ::-1].tobytes())
    else:
        picture.save(path, kind)


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_a_picture_of_each_ending_is_read(ending: str, tmp_path: Path) -> None:
    path, one_channel = tmp_path / f"a{ending}", ONE_CHANNEL.get(ending)
    write_halves(path)
    seen = np.asarray(read_image(str(path), 3)).astype(int)
    left, right = seen[:, : seen.shape[1] // 2 - 2], seen[:, seen.shape[1] // 2 + 2 :]
    for half, (red, green, blue) in zip((left, right), COLOURS, strict=True):
        grey = round(0.299 * red + 0.587 * green + 0.114 * blue)
        wanted = (grey,) * 3 if one_channel in ("L", "F") else (red, green, blue)
        if one_channel != "1":  # dithered
            assert abs(half.reshape(-1, 3).mean(0) - wanted).max() < 12
    assert abs(left.mean() - right.mean()) > 10


VIDEOS: dict[str, tuple[str, str]] = {  # muxer and encoder; others are written as their ending says
    ".ogv": ("ogg", "libvpx"), ".ogm": ("ogg", "libvpx"), ".webm": ("webm", "libvpx"),
    ".ivf": ("ivf", "libvpx"), ".wmv": ("asf", "wmv2"), ".asf": ("asf", "wmv2"), ".rm": ("rm", "rv10"),
    ".rmvb": ("rm", "rv20"), ".mxf": ("mxf", "mpeg2video"), ".dv": ("dv", "dvvideo"),
    ".y4m": ("yuv4mpegpipe", "rawvideo"), ".mj2": ("mov", "jpeg2000"), ".mjpeg": ("mjpeg", "mjpeg"),
    ".mjpg": ("mjpeg", "mjpeg"), ".gif": ("gif", "gif"), ".h264": ("h264", "libx264"),
    ".264": ("h264", "libx264"), ".h265": ("hevc", "libx265"), ".265": ("hevc", "libx265"),
    ".hevc": ("hevc", "libx265"), ".mk3d": ("matroska", "mpeg4"), ".divx": ("avi", "mpeg4"),
    ".mpe": ("mpeg", "mpeg1video"), ".mpg": ("mpeg", "mpeg1video"), ".mpeg": ("mpeg", "mpeg2video"),
    ".m1v": ("mpeg1video", "mpeg1video"), ".m2v": ("mpeg2video", "mpeg2video"),
    ".mp2v": ("mpeg2video", "mpeg2video"), ".vob": ("vob", "mpeg2video"), ".ts": ("mpegts", "libx264"),
    ".mts": ("mpegts", "libx264"), ".m2ts": ("mpegts", "libx264"), ".m2t": ("mpegts", "mpeg2video"),
    ".flv": ("flv", "flv1"), ".f4v": ("mp4", "libx264"), ".m4v": ("mp4", "libx264"),
    ".nut": ("nut", "mpeg4"),
}  # fmt: skip


def write_fading(path: Path) -> None:
    """Ten frames, from black to bright, in the format of its ending."""
    muxer, codec = VIDEOS.get(path.suffix, (None, "libx264"))
    height, width = (480, 720) if codec == "dvvideo" else (64, 64)  # DV has this size alone
    kinds = {"dvvideo": "yuv411p", "gif": "rgb8", "mjpeg": "yuvj420p"}
    with av.open(str(path), "w", format=muxer) as output:
        rate = Fraction(30_000, 1001) if codec == "dvvideo" else 25
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream: Any = output.add_stream(codec, rate=rate, options=quiet)
        stream.width, stream.height = width, height
        stream.pix_fmt = kinds.get(codec, "yuv420p")
        for number in range(10):
            grey = np.full((height, width, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, "rgb24").reformat(format=stream.pix_fmt)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


@pytest.mark.parametrize("ending", VIDEO_EXTENSIONS)
def test_a_video_of_each_ending_is_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    write_fading(path)
    with PyAVVideo(str(path)) as video:
        assert video.num_frames == 10
        levels = video.frames(range(10)).float().mean(dim=(1, 2, 3))
    assert abs(levels - 20 * torch.arange(10)).max() < 12


SOUNDS: dict[str, tuple[str, int, str]] = {  # encoder, rate, and the ending that names the container
    ".mp3": ("libmp3lame", RATE, ".mp3"), ".mpga": ("libmp3lame", RATE, ".mp3"),
    ".webm": ("libopus", 48_000, ".webm"), ".weba": ("libopus", 48_000, ".webm"),
    ".mkv": ("flac", RATE, ".mkv"), ".mka": ("flac", RATE, ".mka"), ".aif": ("pcm_s16be", RATE, ".aiff"),
    ".aiff": ("pcm_s16be", RATE, ".aiff"), ".aifc": ("pcm_s16le", RATE, ".aiff"),
    ".au": ("pcm_s16be", RATE, ".au"), ".snd": ("pcm_s16be", RATE, ".au"),
    ".caf": ("pcm_s16be", RATE, ".caf"), ".w64": ("pcm_s16le", RATE, ".w64"),
    ".wv": ("wavpack", RATE, ".wv"), ".tta": ("tta", RATE, ".tta"), ".wma": ("wmav2", RATE, ".wma"),
    ".wmv": ("wmav2", RATE, ".wmv"), ".asf": ("wmav2", RATE, ".asf"), ".mp2": ("mp2", RATE, ".mp2"),
    ".mpg": ("mp2", RATE, ".mpg"), ".mpeg": ("mp2", RATE, ".mpg"), ".ac3": ("ac3", 48_000, ".ac3"),
    ".eac3": ("eac3", 48_000, ".eac3"), ".amr": ("libopencore_amrnb", 8_000, ".amr"),
    ".avi": ("libmp3lame", RATE, ".avi"), ".flv": ("libmp3lame", 44_100, ".flv"),
    ".ts": ("aac", RATE, ".ts"), ".mts": ("aac", RATE, ".ts"),
}  # fmt: skip
BY_SOUNDFILE = {".ogg": "OGG", ".oga": "OGG", ".spx": "OGG", ".ogv": "OGG", ".opus": "OGG",
                ".wav": "WAV", ".rf64": "RF64", ".flac": "FLAC"}  # fmt: skip


def write_sweep(path: Path) -> None:
    """A rising tone, in the format of its ending."""
    ending = path.suffix
    if ending in BY_SOUNDFILE:
        soundfile.write(path, sweep(), RATE, format=BY_SOUNDFILE[ending])
    else:
        codec, rate, container = SOUNDS.get(ending, ("aac", RATE, ".mp4"))
        if codec not in av.codecs_available:
            pytest.skip(f"this FFmpeg has no {codec}")
        loud = {"b": "32000"} if codec == "wmav2" else None  # its default is beyond 16 kHz
        wave = sweep(rate=rate)
        shutil.move(encode(path.with_name(f"b{container}"), wave, codec, rate, options=loud), path)


@pytest.mark.parametrize("ending", AUDIO_ENDINGS)
def test_a_sound_of_each_ending_is_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    write_sweep(path)
    read = read_waveform(str(path))
    assert likeness(read, sweep())[0] > 0.93  # AMR's, which is made for speech
    assert len(read) == pytest.approx(RATE, rel=0.1)


def test_pictures_with_unusual_endings_count_and_others_are_told(make_folder) -> None:
    root = make_folder()
    shutil.copy(DATA / "1.jfif", root / "val" / "ant" / "1.jfif")
    for name in ("2.GIF", "3.tif", "4.webp"):
        Image.new("RGB", (32, 32)).save(root / "val" / "bee" / name)
    for name in ("5.heic", "6.heic", "labels.txt"):
        (root / "val" / "cat" / name).touch()
    data = ImageNet(str(root), size=16, num_workers=0)
    with pytest.warns(UserWarning, match=r"val: left out: 3 files .*\(\.heic 2, \.txt 1\)"):
        data.setup("validate")
    samples = data.samples("val")
    assert samples.files.class_counts(3).tolist() == [3, 5, 2]
    assert all(y >= 0 for _, y, _ in samples)


def test_videos_with_unusual_endings_count_and_others_are_told(tmp_path: Path) -> None:
    for name, label in (("a", 0), ("b", 1)):
        folder = tmp_path / "val" / name
        folder.mkdir(parents=True)
        for ending in (".wmv", ".3gp", ".ts", ".ogv"):
            (folder / f"{label}{ending.upper()}").touch()
        (folder / "x.mp5").touch()
    data = Kinetics400(str(tmp_path), class_list=None)
    with pytest.warns(UserWarning, match=r"val: left out: 2 files .*\(\.mp5 2\)"):
        files = data.files("val")
    assert files.class_counts(2).tolist() == [4, 4]


def test_thumbnails_and_links_back_train_nothing(make_folder) -> None:
    root = make_folder()
    clean = ImageNet(str(root), size=16)
    clean.setup("fit")
    for name in ("@eaDir", ".thumbnails", "Thumbs"):
        shutil.copytree(root / "train" / "ant", root / "train" / "bee" / name)
    (root / "train" / "cat" / "self").symlink_to(".")
    shutil.copytree(root / "train" / "ant", root / "train" / "@eaDir")
    data = ImageNet(str(root), size=16)
    with pytest.warns(UserWarning, match="4 hidden, thumbnail or system folders .*; 1 links"):
        data.setup("fit")
    assert data.class_names == ["ant", "bee", "cat"]
    assert data.samples("train").files.digest() == clean.samples("train").files.digest()
