"""Small sound files of all kinds, and what their waveforms have in common."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")

RATE = 16_000


def tone(frequency: float, seconds: float = 1.0, rate: int = RATE, peak: float = 0.5) -> np.ndarray:
    """A sine wave: float32 `[T]`."""
    time = np.arange(round(seconds * rate)) / rate
    return (peak * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def sweep(seconds: float = 1.0, rate: int = RATE, top: float = 3000.0) -> np.ndarray:
    """From 200 Hz up to `top`, like nothing but itself when shifted: float32 `[T]`."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 200 * time + (top - 200) * time**2 / (2 * seconds)
    return (0.5 * np.sin(2 * np.pi * phase)).astype(np.float32)


def write(path: Path, wave: np.ndarray, rate: int = RATE, subtype: str | None = None) -> str:
    """Write `[T]` or `[T, C]` with soundfile, as PCM_16 or Vorbis unless told; returns the path."""
    kind = "OGG" if path.suffix == ".opus" else None
    subtype = "OPUS" if path.suffix == ".opus" else subtype
    soundfile.write(str(path), wave, rate, subtype=subtype, format=kind)
    return str(path)


def encode(
    path: Path,
    wave: np.ndarray,
    codec: str,
    rate: int = RATE,
    container: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    video: bool = False,
) -> str:
    """Write `[T]` with PyAV, mono; returns the path.

    Args:
        path: File; its ending chooses the container.
        wave: float32 `[T]`.
        codec: Encoder, such as aac, libopus (48 kHz only), libmp3lame, flac, pcm_s24le.
        rate: Samples a second.
        container: Options of the muxer.
        options: Options of the encoder.
        video: Put a black video of the same length into the file, too.
    """
    with av.open(str(path), "w", options=container or {}) as output:
        stream: Any = output.add_stream(codec, rate=rate, layout="mono", options=options)
        picture: Any = output.add_stream("mpeg4", rate=5) if video else None
        if picture:
            picture.width = picture.height = 16
            picture.pix_fmt = "yuv420p"
        size = None if "pcm" in codec else stream.codec_context.frame_size or None
        planar = av.AudioResampler(stream.codec_context.format, "mono", rate, frame_size=size)
        whole = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        whole.sample_rate, whole.pts = rate, 0
        for piece in [whole, None]:
            for frame in planar.resample(piece):
                output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if picture:
            for number in range(round(5 * len(wave) / rate)):
                black = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
                black.pts = number
                output.mux(picture.encode(black))
            output.mux(picture.encode())
    return str(path)


def delay(path: str, to: Path, late: float = 0.0, pause: float = 0.0) -> str:
    """Copy the packets with other times; returns the new path.

    Args:
        path: File that PyAV wrote, at least one second long.
        to: File to write.
        late: Seconds before the first packet.
        pause: Seconds between those of the first half second and the others.
    """
    with av.open(path) as source, av.open(str(to), "w") as target:
        origin = source.streams.audio[0]
        stream = target.add_stream_from_template(origin)
        for packet in source.demux(origin):
            if packet.size:
                seconds = late + pause * (packet.pts * packet.time_base >= 0.5)
                ticks = round(seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = stream
                target.mux(packet)
    return str(to)


def cut(path: str, share: float) -> str:
    """Cut a file to a share of its bytes; returns the path."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(share * len(content))])
    return path


def streamed_wav(wave: np.ndarray, rate: int = RATE) -> bytes:
    """A WAV file written before its length was known: its header tells the largest there is."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="PCM_16")
    content = bytearray(file.getvalue())
    struct.pack_into("<I", content, 4, 0xFFFFFFFF)
    struct.pack_into("<I", content, content.index(b"data") + 4, 0xFFFFFFFF)
    return bytes(content)


def pitch(wave: Tensor, rate: int = RATE) -> float:
    """The loudest frequency, to about half a cycle a length of the wave."""
    spectrum = np.abs(np.fft.rfft(wave.numpy() * np.hanning(len(wave))))
    return float(np.argmax(spectrum) * rate / len(wave))


def likeness(wave: Tensor, other: np.ndarray) -> tuple[float, int]:
    """Highest correlation of two waveforms under a shift, and that shift in samples."""
    length = 2 * max(len(wave), len(other))
    product = np.fft.rfft(wave.numpy(), length) * np.conj(np.fft.rfft(other, length))
    correlation = np.fft.irfft(product, length)
    shift = int(np.argmax(correlation))
    best = correlation[shift] / np.linalg.norm(wave.numpy()) / np.linalg.norm(other)
    return float(best), shift if shift < length // 2 else shift - length
