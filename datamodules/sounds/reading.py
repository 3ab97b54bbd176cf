"""From a sound file to a waveform: one channel, 16 kHz, within -1 and 1.

soundfile (libsndfile) reads WAV, FLAC and Ogg, PyAV (FFmpeg) the rest and what soundfile cannot open.
MP3 is PyAV's as well: of one without a table of its length libsndfile guesses the length, and
silently reads no further than the guess. What was recorded is read without the silence that a file's
times may leave before it or in a pause, as most tools do.
"""

import importlib
import math
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from datamodules.deadline import Deadline
from datamodules.errors import DataError
from datamodules.shards.member import Source, file_of, own_name, source_of

AUDIO_EXTENSIONS = (
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".webm", ".mp4", ".mkv",
    ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".wv", ".tta", ".ape", ".oga",
    ".spx", ".wma", ".mp2", ".mpga", ".ac3", ".eac3", ".amr", ".m4b", ".mka", ".weba", ".mov", ".m4v",
    ".3gp", ".3g2", ".avi", ".flv", ".wmv", ".asf", ".ogv", ".ts", ".mts", ".mpg", ".mpeg",
)  # fmt: skip
RATE = 16_000

_BY_SOUNDFILE = (".wav", ".flac", ".ogg", ".opus")
_RATES = (1_000, 400_000)  # samples a second, outside of which a header is damaged
_BEYOND = 0.01  # seconds read beyond the end: the filter of the resampling looks 6 ms ahead
_SLACK = 0.25  # seconds that a header may promise too much: packets of some codecs last 0.13 s
# libsndfile sets the length of a WAV file to what is there, and tells of it in its log only
_SHORT_WAV = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
_STREAMED = 0x7FFF_0000  # bytes: headers of more were written before the length was known
_LENGTH_STORED = (
    "mov,mp4",
    "matroska",
    "aiff",
    "au",
    "wv",
)  # containers; of others FFmpeg guesses it from the bitrate

T = TypeVar("T")
Decoded = tuple[np.ndarray, int]  # float32 [C, T], samples a second


class AudioError(ValueError):
    """A file that holds no audio, is damaged or was cut short."""


class AudioFormat(NamedTuple):
    """What the header of a sound file says; for some MP3 and AAC files the length is a guess."""

    seconds: float  # 0 where the file does not tell
    rate: int  # samples a second
    channels: int
    codec: str  # such as pcm_24, vorbis or aac


def read_waveform(path: str, seconds: float | None = None) -> Tensor:
    """The mean of the channels at 16 kHz, clipped to -1 and 1: float32 `[T]`.

    What does not have 16 kHz is resampled by torchaudio's `sinc_interp_hann` with its defaults
    (`lowpass_filter_width=6`, `rolloff=0.99`). A file with a header and no samples gives `[0]`. Ogg,
    MP3 and AAC files do not store their length: one that was cut short is read as a shorter one.

    Args:
        path: File, or a member of a shard.
        seconds: Read this much from its start and no more; None is all of it.

    Raises:
        Exception: The file is no audio, is damaged or cut short, or holds samples that are not
            numbers; of any type, since decoders have their own.
    """
    reach = None if seconds is None else seconds + _BEYOND
    samples, rate = _first_of(
        path, partial(_decode_soundfile, reach=reach), partial(_decode_pyav, reach=reach)
    )
    channels = len(samples)
    # the mean: as a product it takes a seventh of the time where channels alternate in memory
    mono = torch.full((channels,), 1 / channels) @ torch.from_numpy(samples)
    if not torch.isfinite(mono.sum()):
        raise AudioError("holds samples that are not numbers (NaN or infinite)")
    wave = resample(mono, rate)
    if seconds is not None:
        wave = wave[: round(seconds * RATE)]
    return wave.clamp_(-1, 1)


def probe(path: str) -> AudioFormat:
    """Read the header of a sound file.

    Raises:
        Exception: It is no audio; of any type, since decoders have their own.
    """
    return _first_of(path, _probe_soundfile, _probe_pyav)


@dataclass
class AudioReader:
    """Reads waveforms within a time limit: float32 `[T]`, see `read_waveform`.

    Args:
        seconds: Read this much from the start of a file and no more.
        timeout: Seconds after which a read is given up with a TimeoutError.
    """

    seconds: float
    timeout: float
    deadline: Deadline = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.deadline = Deadline(self.timeout)

    def __call__(self, path: str) -> Tensor:
        wave: Tensor = self.deadline.call(read_waveform, path, self.seconds)
        return wave


def require_torchaudio() -> None:
    """Import torchaudio.

    Raises:
        DataError: It is missing, or was not built for the torch that is installed.
    """
    try:
        importlib.import_module("torchaudio")
    except Exception as error:  # RuntimeError for another CUDA, OSError for another torch
        try:
            found = version("torchaudio")
        except PackageNotFoundError:
            found = "not installed"
        fault = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(
            f"audio needs torchaudio, which cannot be imported: torch {torch.__version__}, "
            f"torchaudio {found} ({fault}); pip install 'torch<2.15' 'torchaudio==2.11.*'"
        ) from None


def resample(wave: Tensor, rate: int) -> Tensor:
    """Resample float32 `[T]` to 16 kHz.

    Raises:
        AudioError: A sample rate no sound has.
    """
    if not _RATES[0] <= rate <= _RATES[1]:
        raise AudioError(f"has a sample rate of {rate} Hz; {_RATES[0]} to {_RATES[1]} can be read")
    if rate == RATE or not len(wave):
        return wave
    resampled: Tensor = _resampler(rate)(wave)
    return resampled


@lru_cache(maxsize=8)
def _resampler(rate: int) -> Callable[[Tensor], Tensor]:
    """Keeps its filters: making them takes longer than using them."""
    from torchaudio.transforms import Resample

    # There are as many filters as the denominator tells, each longer than the numerator: gigabytes for
    # 44,101 Hz. With 640 all usual rates are exact, and the pitch of others moves by 0.1 % at most.
    ratio = Fraction(rate, RATE).limit_denominator(640)
    named = {"resampling_method": "sinc_interp_hann", "lowpass_filter_width": 6, "rolloff": 0.99}
    resampler: Callable[[Tensor], Tensor] = Resample(ratio.numerator, ratio.denominator, **named)
    return resampler


def require_decoders() -> None:
    """Import soundfile and PyAV: where one is missing, its files would all look broken.

    Raises:
        DataError: One cannot be imported.
    """
    for module, package in (("soundfile", "soundfile"), ("av", "av")):
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:  # OSError: the package is there, its library is not
            raise DataError(
                f"audio files are read with soundfile and PyAV, and {module} cannot be imported "
                f"({error}); pip install --force-reinstall {package}"
            ) from None


def _first_of(path: str, by_soundfile: Callable[[Source], T], by_pyav: Callable[[Source], T]) -> T:
    """What soundfile makes of a file, or PyAV where soundfile fails or is not asked.

    Raises:
        Exception: The first error, if both fail.
    """
    # Opening a named pipe waits for ever, and soundfile has one lock for all that it opens.
    if not stat.S_ISREG(mode := os.stat(file_of(path)).st_mode) and not stat.S_ISDIR(mode):
        raise AudioError("is no file but a pipe or a device")
    source, name = source_of(path), own_name(path)
    unnamed = not isinstance(source, str) and "." not in name  # as cells of a table may be
    if not unnamed and not name.lower().endswith(_BY_SOUNDFILE):
        return by_pyav(source)
    import soundfile

    try:
        return by_soundfile(source)
    except (soundfile.LibsndfileError, AudioError) as error:
        first = error
    try:
        return by_pyav(source)
    except (FileNotFoundError, IsADirectoryError, PermissionError):  # soundfile: "System error"
        raise
    except Exception:
        raise first from None


def _open_soundfile(source: Source) -> Any:
    import soundfile

    if not isinstance(source, str):
        sound = soundfile.SoundFile(source.again())
    else:  # as bytes, since of text it takes no name that is not UTF-8; on Windows all names are text
        sound = soundfile.SoundFile(source if os.name == "nt" else os.fsencode(source))
    if sound.subtype.startswith("MPEG"):
        sound.close()
        raise AudioError("holds MP3, whatever its name says")
    return sound


def _decode_soundfile(source: Source, reach: float | None) -> Decoded:
    with _open_soundfile(source) as sound:
        rate: int = sound.samplerate
        wanted = sound.frames if reach is None else min(sound.frames, math.ceil(reach * rate))
        samples = sound.read(wanted, dtype="float32", always_2d=True)  # [T, C]
        if reach is None or len(samples) < reach * rate:
            _refuse_short(len(samples) / rate, _frames_promised(sound) / rate, reach)
    return samples.T, rate


def _frames_promised(sound: Any) -> float:
    short = _SHORT_WAV.search(sound.extra_info)
    stated, there = map(int, short.groups()) if short else (0, 0)
    if stated <= there or stated >= _STREAMED:
        return float(sound.frames)
    return max(1, sound.frames) * stated / max(1, there)


def _probe_soundfile(source: Source) -> AudioFormat:
    with _open_soundfile(source) as sound:
        seconds = sound.frames / sound.samplerate
        return AudioFormat(seconds, sound.samplerate, sound.channels, sound.subtype.lower())


def _decode_pyav(source: Source, reach: float | None) -> Decoded:
    import av

    pieces: list[np.ndarray] = []
    length, rate, end = 0, 0, 0.0
    with _open_pyav(source) as container:
        stream = _audio_stream(container)
        stream.codec_context.thread_count = 1
        # scales integers; keeps rate and channels; of 8 planes and more PyAV reads one too many
        packed = av.AudioResampler(format="flt")
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise AudioError("a packet is incomplete: the file was cut short")
                for frame in packet.decode():
                    pieces += map(_samples, packed.resample(frame))
                    length, rate = length + frame.samples, frame.sample_rate
                    end = max(end, _end_of(frame))
                if reach is not None and length >= reach * rate > 0:
                    break
        except av.error.MemoryError:  # FFmpeg says so of absurd sizes; the caller would end the run
            raise AudioError("a size told in the file is beyond the memory: damaged") from None
        rate = rate or stream.codec_context.sample_rate
        if container.format.name.startswith(_LENGTH_STORED):
            held = length / max(1, rate)
            if reach is None or held + _SLACK < reach:
                # the file tells when it ends: with its pauses, and the time before a late start
                _refuse_short(max(held, end), _stated_span(container, stream)[1], None)
    if not pieces:
        return np.zeros((1, 0), dtype=np.float32), rate
    return np.ascontiguousarray(np.concatenate(pieces).T), rate


def _samples(frame: Any) -> np.ndarray:
    """A frame of alternating channels as float32 `[t, C]`."""
    samples: np.ndarray = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    return samples


def _open_pyav(source: Source) -> Any:
    import av

    given = source if isinstance(source, str) else source.again()
    return av.open(given, metadata_errors="ignore")


def _probe_pyav(source: Source) -> AudioFormat:
    with _open_pyav(source) as container:
        stream = _audio_stream(container)
        context = stream.codec_context
        start, end = _stated_span(container, stream)
        name = context.codec.canonical_name
        return AudioFormat(end - start, context.sample_rate, context.channels, name)


def _audio_stream(container: Any) -> Any:
    stream = container.streams.best("audio")
    if stream is None:
        raise AudioError("no audio stream")
    if stream.codec_context is None:
        raise AudioError("no decoder for its audio")
    return stream


def _stated_span(container: Any, stream: Any) -> tuple[float, float]:
    """Seconds at which the audio starts and ends; (0, 0) where the file does not say."""
    start = max(0.0, float((stream.start_time or 0) * stream.time_base))
    if stream.duration is not None:
        return start, start + float(stream.duration * stream.time_base)
    if len(container.streams) > 1:  # a video may well be longer
        return 0.0, 0.0
    return start, max(start, (container.duration or 0) / 1e6)  # which counts from 0


def _end_of(frame: Any) -> float:
    """Seconds at which a decoded frame ends; 0 where it has no time."""
    return 0.0 if frame.time is None else float(frame.time + frame.samples / frame.sample_rate)


def _refuse_short(held: float, promised: float, reach: float | None) -> None:
    if held + _SLACK < (promised if reach is None else min(promised, reach)):
        raise AudioError(f"was cut short: ends after {held:.2f} s, its header tells of more")
