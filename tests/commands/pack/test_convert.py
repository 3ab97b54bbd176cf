"""Smaller pictures, videos and sounds are what the data sets would read, made smaller once."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import AudioSet, ImageNet, Kinetics400
from datamodules.images.reading import read_image
from datamodules.sounds.reading import read_waveform
from datamodules.videos.decoding import open_video
from tome_lightning.commands.pack.convert import SmallerImage, kind_of
from tome_lightning.commands.pack.packing import pack
from tome_lightning.commands.pack.video import small
from tome_lightning.errors import UsageError

from ...datamodules.clip_files import picture, read_number, write_clip, write_sound
from .conftest import all_members

soundfile = pytest.importorskip("soundfile")


def smooth(width: int, height: int) -> Image.Image:
    """A picture that survives JPEG: one ramp a channel."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, (x + y) / 2], -1).astype(np.uint8))


def shown(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_larger_pictures_become_jpeg_of_that_short_side(tmp_path):
    for name, size in (("wide.png", (300, 120)), ("tall.webp", (90, 200)), ("small.png", (64, 70))):
        smooth(*size).save(tmp_path / name)
    convert = SmallerImage(64, 3, True)
    for name, size in (("wide.png", (160, 64)), ("tall.webp", (64, 142))):
        made = convert(str(tmp_path / name))
        image = shown(made["content"])
        assert (image.format, image.size, made["ending"]) == ("JPEG", size, ".jpg")
        expected = read_image(str(tmp_path / name), 3).resize(size)
        assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 3
    assert convert(str(tmp_path / "small.png")) == {
        "content": (tmp_path / "small.png").read_bytes(), "ending": "",
    }  # fmt: skip


@pytest.mark.parametrize("exif", [True, False])
def test_pictures_are_turned_as_the_data_set_would(tmp_path, exif):
    path = tmp_path / "phone.jpg"
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned by 90 degrees
    smooth(200, 100).save(path, exif=tag)
    image = shown(SmallerImage(50, 3, exif)(str(path))["content"])
    assert image.size == ((50, 100) if exif else (100, 50))
    assert not image.getexif()


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_stays_grey(tmp_path, channels):
    smooth(100, 100).save(tmp_path / "x.png")
    image = shown(SmallerImage(50, channels, True)(str(tmp_path / "x.png"))["content"])
    assert image.mode == ("L" if channels == 1 else "RGB")


def test_pictures_that_cannot_be_decoded_are_left_out(photos, tmp_path):
    (photos / "train/ant/1.jpg").write_bytes((photos / "train/ant/1.jpg").read_bytes()[:500])
    done = pack(ImageNet(str(photos)), tmp_path / "s", resize=40, workers=1, progress=False)
    assert [bad.path for bad in done.bad] == ["train/ant/1.jpg"]
    found = dict(all_members(tmp_path / "s"))
    assert "ant/1.jpg" not in found
    assert min(shown(found["bee/0.jpg"]).size) == 40


def test_smaller_videos_have_the_same_frames_and_rate(tmp_path):
    root = tmp_path / "clips"
    for split in ("train", "val"):
        write_clip(root / split / "ant/big.mkv", frames=70, size=(96, 128), fps=25, gop=60)
        write_clip(root / split / "bee/small.mp4", frames=12, size=(48, 64))
    data = Kinetics400(str(root), class_list=None)
    pack(data, tmp_path / "a", resize=48, workers=1, progress=False)
    for again in ("b", "c", "d"):
        pack(data, tmp_path / again, resize=48, workers=0, progress=False)
        assert all_members(tmp_path / "a") == all_members(tmp_path / again)
    found = dict(all_members(tmp_path / "a"))
    assert set(found) == {"ant/big.mp4", "ant/big.cls", "bee/small.mp4", "bee/small.cls"}
    assert found["bee/small.mp4"] == (root / "train/bee/small.mp4").read_bytes()
    (tmp_path / "made.mp4").write_bytes(found["ant/big.mp4"])
    with open_video(str(tmp_path / "made.mp4"), "pyav") as video:
        assert (video.num_frames, video.size) == (70, (48, 64))
        assert video.fps == pytest.approx(25)
        frames = video.frames(range(70))
        keys = np.diff(video._keys).tolist()
    assert [read_number(frame) for frame in frames] == list(range(70))
    assert max(keys) == 25  # frames: a second
    expected = np.asarray(Image.fromarray(picture(30, (96, 128))).resize((64, 48)))
    assert np.abs(frames[30].numpy().astype(int) - expected.astype(int)).mean() < 4


def test_a_video_cut_short_is_left_out(tmp_path):
    root = tmp_path / "clips"
    for name in ("ant/1.mp4", "ant/2.mp4", "bee/1.mp4"):
        write_clip(
            root / "train" / name, frames=30, size=(64, 64), container={"movflags": "faststart"}
        )
    whole = (root / "train/ant/2.mp4").read_bytes()
    (root / "train/ant/2.mp4").write_bytes(whole[: len(whole) // 2])
    data = Kinetics400(str(root), class_list=None)
    done = pack(data, tmp_path / "s", ["train"], resize=32, workers=0, progress=False)
    assert [bad.path for bad in done.bad] == ["train/ant/2.mp4"]


@pytest.mark.parametrize(
    ("frame", "size", "expected"),
    [((720, 1280), 256, (256, 456)), ((1280, 720), 256, (456, 256)), ((99, 101), 50, (50, 52)),
     ((300, 300), 20, (20, 20))],
)  # fmt: skip
def test_both_sides_of_a_frame_are_even(frame, size, expected):
    assert small(frame, size) == expected


def test_sounds_become_what_is_read_of_them(tmp_path):
    root = tmp_path / "sounds"
    root.mkdir()
    write_sound(root / "a.mp4")
    time = np.arange(8000) / 44_100
    wave = np.stack([np.sin(2000 * time), 0.3 * np.sin(900 * time)], axis=1)
    soundfile.write(root / "b.wav", wave, 44_100, subtype="FLOAT")
    for split in ("train", "val"):
        (root / f"{split}.csv").write_text("path,labels\na.mp4,dog\nb.wav,dog;rain\n")
    data = AudioSet(str(root), label_csv=None)
    pack(data, tmp_path / "s", ["train"], flac=True, workers=0, progress=False)
    found = dict(all_members(tmp_path / "s"))
    assert list(found) == ["a.flac", "a.json", "b.flac", "b.json"]
    for name, source in (("a.flac", "a.mp4"), ("b.flac", "b.wav")):
        (tmp_path / name).write_bytes(found[name])
        ours, expected = read_waveform(str(tmp_path / name)), read_waveform(str(root / source))
        torch.testing.assert_close(ours, expected, rtol=0, atol=1 / 2**15)  # 16 bits


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("images", {"flac": True}, "--flac is for sounds; these are images"),
        ("images", {"resize": 0}, "got 0"),
        ("videos", {"resize": 255}, "of videos an even number; got 255"),
        ("videos", {"flac": True}, "these are videos"),
        ("sounds", {"resize": 64}, "these are sounds. Leave it out, or take --flac"),
    ],
)
def test_what_files_cannot_become_is_refused(tmp_path, kind, options, expected):
    data = {"images": ImageNet, "videos": Kinetics400, "sounds": AudioSet}[kind](
        str(Path(tmp_path))
    )
    assert kind_of(data).what == kind
    with pytest.raises(UsageError, match=expected):
        pack(data, tmp_path / "s", **options)
