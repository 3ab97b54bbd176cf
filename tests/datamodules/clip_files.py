"""Small clips whose frames tell their own number, so that tests see which frame they were given."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av")

ROWS, COLUMNS = 3, 4  # blocks of a frame; each is one bit of its number, so 4096 numbers
DARK, BRIGHT = 70, 186
TEXTURE = 24  # amplitude of the moving background: well inside half the distance to a wrong bit


def picture(number: int, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """Frame `number` of every clip: uint8 `[H, W, 3]`, coloured, moving, its number in blocks.

    Args:
        number: 0 to 4095; bit b is bright or dark in block b, counted along the rows.
        size: (height, width).
    """
    height, width = size
    y, x = np.mgrid[:height, :width]
    bit = (y * ROWS // height) * COLUMNS + x * COLUMNS // width
    code = np.where(number >> bit & 1, BRIGHT, DARK)[..., None]
    phase = (
        2
        * np.pi
        * np.stack(
            [(x + number) / width, (y - number) / height, (x + y + number) / (height + width)],
            axis=-1,
        )
    )
    return (code + TEXTURE * np.sin(phase)).round().astype(np.uint8)


def read_number(frame: Any) -> int:
    """The number of a frame `[H, W, 3]`, uint8, that has been through a codec or a plain resize."""
    pixels = np.asarray(frame).mean(axis=-1)
    height, width = pixels.shape
    number = 0
    for bit in range(ROWS * COLUMNS):
        row, column = divmod(bit, COLUMNS)
        block = pixels[
            row * height // ROWS : (row + 1) * height // ROWS,
            column * width // COLUMNS : (column + 1) * width // COLUMNS,
        ]
        number |= int(block.mean() > (DARK + BRIGHT) / 2) << bit
    return number


def write_clip(
    path: Path | str,
    frames: int = 48,
    size: tuple[int, int] = (64, 64),
    fps: int = 30,
    codec: str = "libx264",
    gop: int = 12,
    b_frames: int = 2,
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    audio_first: bool = False,
    container: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    first: int = 0,
) -> Path:
    """Write a clip whose frame i shows `picture(first + i)`; the container follows the file name.

    Args:
        path: File to write, such as `clip.mp4`; missing folders are made.
        frames: Number of frames.
        size: (height, width); odd sizes need `pix_fmt="yuv444p"` with libx264.
        fps: Frames a second.
        codec: Encoder: libx264, mpeg4, libvpx-vp9.
        gop: Largest distance of two key frames.
        b_frames: Most B-frames in a row; 0 for none.
        pix_fmt: Pixel format of the stream.
        times: Time of each frame in 1/fps seconds, rising, for a variable frame rate.
        audio_first: Put a silent audio track into stream 0, the video into stream 1.
        container: Options of the muxer, such as `{"movflags": "faststart"}`.
        options: Options of the encoder; libx264 takes the fastest preset unless told.
        first: Number of the first frame.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if options is None:
        options = {"preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(str(path), "w", options=container or {}) as output:
        audio = output.add_stream("aac", rate=16_000) if audio_first else None
        stream = output.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = size
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = pix_fmt, gop, b_frames
        stream.codec_context.time_base = Fraction(1, fps)
        output.start_encoding()  # a file without frames has its header, too
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(first + number, size), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if audio is not None:
            _write_silence(output, audio, frames / fps)
    return path


def write_sound(path: Path | str, seconds: float = 1.0) -> Path:
    """Write a file that holds silence and no video stream."""
    path = Path(path)
    with av.open(str(path), "w") as output:
        _write_silence(output, output.add_stream("aac", rate=16_000), seconds)
    return path


def _write_silence(output: Any, stream: Any, seconds: float) -> None:
    samples = max(1024, int(16_000 * seconds))
    frame = av.AudioFrame.from_ndarray(
        np.zeros((1, samples), dtype=np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate = 16_000
    frame.pts = 0
    output.mux(stream.encode(frame))
    output.mux(stream.encode())
