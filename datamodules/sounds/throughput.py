"""Clips a second that one core makes of sound files: torchaudio's filter bank alone, and this package.

    python -m datamodules.sounds.throughput --files clips/ --seconds 10

All columns are measured in turn, on the same files, one row a kind of file: `fbank` is torchaudio's own
call on a waveform in memory; `read` is a file decoded, mixed to one channel and resampled, within a
time limit; `evaluate` is that and the spectrogram; `train` is that with every second clip mixed with
another, which is read as well, shifted, made louder and masked.
"""

import argparse
import glob
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.sounds.features import FrontEnd
from datamodules.sounds.reading import AUDIO_EXTENSIONS, RATE, AudioReader, require_torchaudio
from datamodules.sounds.samples import EvalSpectrogram, TrainSpectrogram
from datamodules.sounds.transforms import SpecAugment, WaveAugment, centre, draw_lambda, mix_waves
from datamodules.videos.throughput import clips_per_second

Clip = tuple[str, list[int]]  # a file, and the number of the one it is mixed with, if any


class Ways:
    """What is measured, on files of about the same length.

    Args:
        paths: The files.
        seconds: Seconds read of each.
    """

    def __init__(self, paths: Sequence[str], seconds: float) -> None:
        self.paths = paths
        self.reader = AudioReader(seconds, timeout=60.0)
        front = FrontEnd()
        self.augment = WaveAugment("circular", gain=True)
        self.make = TrainSpectrogram(front, SpecAugment())
        self.view = EvalSpectrogram(front)
        self._waves: dict[str, Tensor] = {}

    def fbank(self, path: str, partner: list[int]) -> Tensor:
        """`[T, 128]` by torchaudio, of a waveform that the first call keeps."""
        from torchaudio.compliance import kaldi

        if path not in self._waves:
            self._waves[path] = self.reader(path)[None]
        bank: Tensor = kaldi.fbank(
            self._waves[path], sample_frequency=RATE, num_mel_bins=128, window_type="hanning"
        )
        return bank

    def read(self, path: str, partner: list[int]) -> Tensor:
        """float32 `[T]` at 16 kHz."""
        return self.reader(path)

    def evaluate(self, path: str, partner: list[int]) -> Tensor:
        """float32 `[1, 1, 1024, 128]`, as in validation."""
        return self.view(self.reader(path))

    def train(self, path: str, partner: list[int]) -> Tensor:
        """float32 `[1, 1024, 128]`, as in training."""
        wave = self.augment(centre(self.reader(path)))
        for number in partner:
            other = self.augment(centre(self.reader(self.paths[number])))
            wave = mix_waves(wave, other, draw_lambda())
        return self.make(wave)


def list_sounds(pattern: str) -> dict[str, list[str]]:
    """Sound files below a folder, or those that a pattern such as `clips/*.wav` matches, by ending.

    Raises:
        DataError: There is none.
    """
    found = map(str, Path(pattern).rglob("*")) if os.path.isdir(pattern) else glob.glob(pattern)
    kinds: dict[str, list[str]] = {ending: [] for ending in AUDIO_EXTENSIONS}
    for path in sorted(found):
        kinds.get(os.path.splitext(path)[1].lower(), []).append(path)
    if not any(kinds.values()):
        raise DataError(
            f"--files {pattern} matches no sound file; give a folder or a quoted pattern"
        )
    return {ending: paths for ending, paths in kinds.items() if paths}


def pair(count: int) -> list[list[int]]:
    """For each file alone, and then mixed with the next: so that half the clips are mixed."""
    return [[] for _ in range(count)] + [[(number + 1) % count] for number in range(count)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.sounds.throughput", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--files", required=True, help="folder, or quoted pattern")
    parser.add_argument("--seconds", type=float, default=10.0, help="read of each file")
    parser.add_argument("--repeats", type=int, default=5, help="times each clip is made")
    options = parser.parse_args(arguments)
    try:
        require_torchaudio()
        kinds = list_sounds(options.files)
    except DataError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import torchaudio

    print(
        f"torch {torch.__version__}, torchaudio {torchaudio.__version__}; {options.seconds:g} s of "
        f"each file, one core, clips a second, median of {options.repeats}"
    )
    heads = ("kind", "files", "fbank", "read", "evaluate", "train", "fbank share")
    print("".join(f"{head:>15}" for head in heads))
    for kind, paths in kinds.items():
        ways = Ways(paths, options.seconds)
        clips: list[Clip] = list(zip(2 * paths, pair(len(paths)), strict=True))
        columns = (ways.fbank, ways.read, ways.evaluate, ways.train)
        speeds = clips_per_second(columns, clips, options.repeats)
        row = [kind, str(len(paths)), *(f"{speed:.1f}" for speed in speeds)]
        row.append(f"{speeds[2] / speeds[0]:.2f}")  # share of the filter bank in the time
        print("".join(f"{cell:>15}" for cell in row))


if __name__ == "__main__":
    main()
