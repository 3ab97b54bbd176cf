"""What is done to waveforms and log-mel spectrograms in training, as in AudioMAE (Huang et al. 2022).

All draws come from torch's CPU generator.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn import functional as F

from datamodules.errors import DataError, require

Roll = Literal["circular", "none"]

_BETA = Beta(10.0, 10.0)  # of the gain and of lambda


def centre(wave: Tensor) -> Tensor:
    """A waveform `[T]` minus its mean."""
    return wave - wave.mean() if len(wave) else wave  # the mean of nothing is NaN


@dataclass(frozen=True)
class WaveAugment:
    """Rotates a waveform `[T]` in time and makes it louder or softer.

    AudioMAE's paper has both. Its code draws the shift from the number of channels, so that a mono
    waveform never moves: `roll="none"` with `gain=True` is what it was trained with.

    Args:
        roll: `circular` shifts by 0 to T - 1 samples, what leaves the end coming in at the start.
        gain: Multiply by Beta(10, 10) + 0.5, so by 0.5 to 1.5.

    Raises:
        DataError: `roll` is neither.
    """

    roll: Roll
    gain: bool

    def __post_init__(self) -> None:
        require("roll", self.roll, self.roll in get_args(Roll), " or ".join(get_args(Roll)))

    def __call__(self, wave: Tensor) -> Tensor:
        if self.roll == "circular" and len(wave):
            wave = wave.roll(int(torch.randint(len(wave), ())))
        if self.gain:
            wave = wave * (_BETA.sample() + 0.5)
        return wave


def draw_lambda() -> float:
    """Share of the first of two mixed clips, from Beta(10, 10)."""
    return float(_BETA.sample())


def mix_waves(first: Tensor, second: Tensor, lam: float) -> Tensor:
    """`lam` times the first plus `1 - lam` times the second, centred, as long as the first: `[T]`.

    Args:
        first: Centred waveform `[T]`.
        second: Centred waveform of any length, padded with zeros or cut.
        lam: Share of the first.
    """
    second = F.pad(second[: len(first)], (0, max(0, len(first) - len(second))))
    return centre(lam * first + (1 - lam) * second)


def mix_targets(first: Tensor, second: Tensor, lam: float) -> Tensor:
    """Targets `[K]` of 0 and 1: `lam` for the first's classes, `1 - lam` for the second's, 1 for both."""
    return torch.lerp(second, first, lam)  # exact where they are equal, unlike lam + (1 - lam)


@dataclass(frozen=True)
class SpecAugment:
    """Sets one band of mel bins and one stretch of frames to 0, before normalisation.

    Width and place are torchaudio's, as AudioMAE's: a width of 0 to `freq - 1` bins (`time - 1`
    frames), all equally likely, at an even place, never over the last bin or frame.

    Args:
        freq: One more than the widest band; 0 for none.
        time: One more than the longest stretch; 0 for none.

    Raises:
        DataError: One of them is negative.
    """

    freq: int = 48
    time: int = 192

    def __post_init__(self) -> None:
        for name, width in (("freq_mask", self.freq), ("time_mask", self.time)):
            require(name, width, width >= 0, "0 or more")

    def check(self, frames: int, mels: int) -> None:
        """Raise a DataError if a mask may be wider than a spectrogram of this size."""
        for name, width, size in (("time_mask", self.time, frames), ("freq_mask", self.freq, mels)):
            if width > size:
                raise DataError(
                    f"{name}={width} is more than the {size} of the spectrogram (frames={frames}, "
                    f"mels={mels}); take a fifth of them, or 0 for no mask"
                )

    def __call__(self, log_mel: Tensor) -> Tensor:
        """Mask `[frames, mels]`."""
        from torchaudio.functional import mask_along_axis

        self.check(*log_mel.shape)  # torchaudio would mask beyond the edge
        for width, axis in ((self.freq, 1), (self.time, 0)):
            log_mel = mask_along_axis(log_mel, width, mask_value=0.0, axis=axis)
        return log_mel
