"""What becomes of a file on its way into a shard: its bytes as they are, or a smaller file.

Each is pickled for the processes; heavy imports sit where they are used.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from datamodules.shards.member import member, opened, source_of
from tome_lightning.commands.pack.keys import Endings
from tome_lightning.errors import UsageError

if TYPE_CHECKING:
    from datamodules.sounds.reading import AudioReader
    from datamodules.videos.check import VideoCheck

QUALITY = 95  # of JPEG: above it files grow and pictures do not


class Content(NamedTuple):
    """What a file is in the shard.

    Attributes:
        content: Its bytes.
        ending: Its new ending; empty for that of the file.
    """

    content: bytes
    ending: str = ""


class Converter(Protocol):
    """Makes the bytes for a shard of a file; is pickled."""

    def __call__(self, path: str) -> dict[str, Any]:
        """The fields of a `Content`.

        Raises:
            Exception: Whatever a decoder raises on a bad file.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """What the bytes depend on besides the file, in plain builtins; empty for a copy."""

    @property
    def words(self) -> str:
        """What becomes of a file, for the screen; empty for a copy."""


@dataclass
class Copy:
    """The bytes of a file as they are; it is not decoded."""

    def __call__(self, path: str) -> dict[str, Any]:
        """Read them."""
        return Content(read_bytes(path))._asdict()

    settings: ClassVar[dict[str, Any]] = {}
    words: ClassVar[str] = ""


@dataclass
class SmallerImage:
    """A picture with a short side of `size` as JPEG; one that is not larger stays as it is.

    It is decoded as the data set does it (colours, EXIF orientation) and resized with Lanczos' filter.

    Args:
        size: Short side in pixels.
        channels: 3 for RGB, 1 for grey.
        exif: Whether pictures are turned as their EXIF orientation says.
    """

    size: int
    channels: int
    exif: bool

    def __call__(self, path: str) -> dict[str, Any]:
        """Decode, resize and encode it."""
        from PIL.Image import Resampling

        from datamodules.images.reading import read_image

        image = read_image(path, self.channels, self.exif)
        short = min(image.size)
        if short <= self.size:
            return Content(read_bytes(path))._asdict()
        width, height = (max(1, round(side * self.size / short)) for side in image.size)
        file = io.BytesIO()
        image.resize((width, height), Resampling.LANCZOS).save(file, "JPEG", quality=QUALITY)
        return Content(file.getvalue(), ".jpg")._asdict()

    @property
    def settings(self) -> dict[str, Any]:
        """Size, and how pictures are read."""
        return {"resize": self.size, "channels": self.channels, "exif": self.exif}

    @property
    def words(self) -> str:
        """Sizes, filter and quality."""
        turned = "turned as EXIF says" if self.exif else "not turned (data.exif false)"
        return (
            f"larger ones are {self.size} pixels on the short side (Lanczos), JPEG of quality {QUALITY}, "
            f"{turned}; the others have their bytes"
        )


@dataclass
class SmallerVideo:
    """A video with a short side of `size`, as H.264 in MP4 without sound; a smaller one stays as it is.

    It has the frames that the data set numbers, upright, at their mean rate.

    Args:
        size: Short side in pixels, an even number.
        check: What `scan` does with a video, of which only some frames are decoded.
    """

    size: int
    check: VideoCheck

    def __call__(self, path: str) -> dict[str, Any]:
        """Decode and encode it, or look whether it can be read."""
        from datamodules.videos.pyav import PyAVVideo
        from tome_lightning.commands.pack.video import encode

        with PyAVVideo(source_of(path)) as video:
            if min(video.size) > self.size:
                return Content(encode(video, self.size), ".mp4")._asdict()
        self.check(path)
        return Content(read_bytes(path))._asdict()

    @property
    def settings(self) -> dict[str, Any]:
        """Its size."""
        return {"resize": self.size}

    @property
    def words(self) -> str:
        """Sizes, filter and encoder."""
        from tome_lightning.commands.pack.video import CRF

        return (
            f"larger ones are {self.size} pixels on the short side (Lanczos), H.264 (crf {CRF}) with a "
            "key frame a second, without sound; the others have their bytes"
        )


@dataclass
class Flac:
    """A sound as 16 kHz, one channel, FLAC of 16 bits: what the data set reads, but for the rounding.

    Args:
        reader: How the data set reads sounds, whose time limit holds here, too.
    """

    reader: AudioReader

    def __call__(self, path: str) -> dict[str, Any]:
        """Decode all of it, and encode it."""
        import soundfile

        from datamodules.sounds.reading import RATE, read_waveform

        wave = self.reader.deadline.call(read_waveform, path)
        file = io.BytesIO()
        soundfile.write(file, wave.numpy(), RATE, format="FLAC", subtype="PCM_16")
        return Content(file.getvalue(), ".flac")._asdict()

    settings: ClassVar[dict[str, Any]] = {"flac": True}
    words: ClassVar[str] = "16 kHz, one channel, FLAC of 16 bits"


def require_encoder() -> None:
    """Look for the encoder of videos.

    Raises:
        UsageError: This FFmpeg was built without it.
    """
    import av

    try:
        av.codec.Codec("libx264", "w")
    except ValueError:
        raise UsageError(
            "--resize of videos needs libx264, which this PyAV was built without; pip install av has it."
        ) from None


def read_bytes(path: str) -> bytes:
    """All bytes of a file, or of a member of a shard.

    Raises:
        OSError: It cannot be read.
        ValueError: It is a pipe, a device or a folder, or a member that is not where it was.
    """
    # to open a pipe is to wait for ever
    if member(path) is None and not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("is no regular file")
    with opened(path) as file:
        return file.read()


class Kind(NamedTuple):
    """What the files of a data set are.

    Attributes:
        what: What messages call them.
        endings: Endings that readers of shards know.
        check: What `scan` does with one, which knows how the data set reads it; None for others.
    """

    what: str
    endings: Endings
    check: Any = None

    def converter(self, resize: int | None, flac: bool) -> Converter:
        """What is to become of each file.

        Raises:
            UsageError: These files cannot become that.
        """
        if flac and self.what != "sounds":
            raise UsageError(f"--flac is for sounds; these are {self.what}. Leave it out.")
        if flac:
            return Flac(self.check.reader)
        if resize is None:
            return Copy()
        if resize < 1 or (resize % 2 and self.what == "videos"):
            raise UsageError(f"--resize is 1 or more, of videos an even number; got {resize}.")
        if self.what == "images":
            return SmallerImage(resize, self.check.channels, self.check.exif)
        if self.what == "videos":
            require_encoder()
            return SmallerVideo(resize, self.check)
        raise UsageError(
            f"--resize is for images and videos; these are {self.what}. Leave it out"
            + (", or take --flac." if self.what == "sounds" else ".")
        )


def kind_of(data: Any) -> Kind:
    """What the files of a data module are."""
    from datamodules.filelist import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
    from datamodules.images.check import ImageCheck
    from datamodules.sounds.check import AudioCheck
    from datamodules.sounds.reading import AUDIO_EXTENSIONS
    from datamodules.videos.check import VideoCheck

    check = data.file_check(quick=True) if hasattr(type(data), "file_check") else None
    if isinstance(check, ImageCheck):
        return Kind("images", Endings(IMAGE_EXTENSIONS, ".jpg"), check)
    if isinstance(check, VideoCheck):
        return Kind("videos", Endings(VIDEO_EXTENSIONS, ".mp4"), check)
    if isinstance(check, AudioCheck):
        return Kind("sounds", Endings(AUDIO_EXTENSIONS, ".m4a"), check)
    return Kind("files", Endings())
