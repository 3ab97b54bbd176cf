"""Log-mel filter banks as AudioMAE and AST have them: Kaldi's, computed by torchaudio.

128 mel bins in windows of 25 ms every 10 ms; padded with zeros or cut to a number of frames; then minus
the mean and divided by twice the standard deviation of AudioSet.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.errors import DataError, require
from datamodules.sounds.reading import RATE, require_torchaudio, resample
from datamodules.sounds.transforms import centre

MEAN, STD = -4.2677393, 4.5689974  # of AudioSet, from AudioMAE's code
WINDOW, SHIFT = 400, 160  # samples: 25 and 10 ms at 16 kHz
MOST_PEAK = 100.0  # beyond, these are integers written as floats
MOST_CHANNELS = 64  # more are samples, in an array the wrong way round


@dataclass(frozen=True)
class FrontEnd:
    """From a centred waveform at 16 kHz to what a model takes, in two steps with room between.

    Args:
        frames: Frames of a spectrogram.
        mels: Mel bins of a spectrogram.
        mean: Mean in natural logarithms.
        std: Standard deviation in the same; x is divided by twice as much.

    Raises:
        DataError: A setting has no meaning.
    """

    frames: int = 1024
    mels: int = 128
    mean: float = MEAN
    std: float = STD

    def __post_init__(self) -> None:
        require("frames", self.frames, self.frames >= 1, "1 or more")
        require("mels", self.mels, self.mels >= 4, "4 or more")  # torchaudio's least
        require("mean", self.mean, math.isfinite(self.mean), "a number")
        require("std", self.std, 0 < self.std < math.inf, "above 0")

    @property
    def seconds(self) -> float:
        """Length of the waveform that fills all frames."""
        return (WINDOW + SHIFT * (self.frames - 1)) / RATE

    @property
    def fill(self) -> float:
        """What padded and masked cells, 0 before, are after `normalise`."""
        return -self.mean / (2 * self.std)

    def log_mel(self, wave: Tensor) -> Tensor:
        """float32 `[T]` to `[frames, mels]`: natural logarithms, padded with 0 or cut.

        A waveform shorter than a window is padded with silence first, and has one frame.
        """
        from torchaudio.compliance import kaldi

        wave = wave[: round(self.seconds * RATE)]
        wave = F.pad(wave, (0, max(0, WINDOW - len(wave))))
        cells = kaldi.fbank(
            wave[None], sample_frequency=RATE, num_mel_bins=self.mels, window_type="hanning",
            frame_shift=10, htk_compat=True, use_energy=False, dither=0.0,
        )  # fmt: skip
        return F.pad(cells, (0, 0, 0, self.frames - len(cells)))

    def normalise(self, log_mel: Tensor) -> Tensor:
        """Minus the mean, divided by twice the standard deviation."""
        return (log_mel - self.mean) / (2 * self.std)


def fbank(
    waveform: Tensor | np.ndarray,
    sample_rate: int,
    frames: int | None = 1024,
    mels: int = 128,
    mean: float = MEAN,
    std: float = STD,
) -> Tensor:
    """What AudioMAE and AST are given of a sound: float32 `[1, frames, mels]`.

    Args:
        waveform: `[T]` or `[C, T]`, floating point within -1 and 1; channels are averaged.
        sample_rate: Its samples a second; resampled to 16 kHz if that is another rate.
        frames: Pad with zeros or cut to this many, 10 ms each; None leaves as many as there are.
        mels: Mel bins.
        mean: Mean in natural logarithms.
        std: Standard deviation in the same; the result is divided by twice as much.

    Raises:
        DataError: Not such a waveform, or it holds NaN or infinity, or a setting has no meaning, or
            torchaudio cannot be imported.
    """
    require_torchaudio()
    mono = _mono(waveform)
    try:
        wave = centre(resample(mono, sample_rate))
    except ValueError as error:
        raise DataError(f"waveform {error}") from None
    if frames is None:
        frames = 1 + max(0, len(wave) - WINDOW) // SHIFT
    front = FrontEnd(frames, mels, mean, std)
    return front.normalise(front.log_mel(wave))[None]


def _mono(waveform: Tensor | np.ndarray) -> Tensor:
    wave = torch.as_tensor(waveform)
    if not wave.is_floating_point():
        raise DataError(
            f"waveform must be floating point within -1 and 1, got {wave.dtype}; divide 16-bit "
            "samples by 32768"
        )
    wave = wave.float()
    if wave.ndim == 2 and 1 <= len(wave) <= MOST_CHANNELS:
        wave = wave.mean(dim=0)
    if wave.ndim != 1:
        raise DataError(f"waveform must be [T] or [C, T] (channels first), got {[*wave.shape]}")
    if not torch.isfinite(wave).all():
        raise DataError("waveform holds samples that are not numbers (NaN or infinite)")
    if len(wave) and (peak := float(wave.abs().max())) > MOST_PEAK:
        raise DataError(
            f"waveform has samples up to {peak:g}, and they belong within -1 and 1; divide 16-bit "
            "samples by 32768"
        )
    return wave
