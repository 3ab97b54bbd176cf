"""What `scan` does with a sound file: read it, and measure its features with the recipe's own."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from datamodules.audio import AudioReader, probe
from datamodules.audio_transforms import centre
from datamodules.facts import FactTable
from datamodules.features import FrontEnd
from datamodules.file_check import FileCheck, first_of, most_common, spread

FAR = 0.05  # of a standard deviation, from which other constants are worth a warning


@dataclass
class AudioCheck(FileCheck):
    """Reads as much of a clip as the model does and sums up its features, or reads its header only.

    Args:
        reader: How the waveform is read.
        front_end: What makes features of it; the mean and std it has are compared with those found.
        quick: Read the header only; nothing is then known of the features.
    """

    reader: AudioReader
    front_end: FrontEnd
    quick: bool = False

    def __call__(self, path: str) -> dict[str, Any]:
        found = probe(path)
        facts = {
            "seconds": round(found.seconds, 3),
            "rate": found.rate,
            "channels": found.channels,
            "codec": found.codec,
        }
        if self.quick:
            return facts
        # float64: the squares of 130,000 cells of a million clips
        cells = self.front_end.log_mel(centre(self.reader(path))).double()
        facts |= {
            "cells": cells.numel(),
            "sum": float(cells.sum()),
            "squares": float(cells.square().sum()),
        }
        return facts

    @property
    def settings(self) -> dict[str, Any]:
        """Size of the features, and whether they were measured."""
        return {
            "frames": self.front_end.frames,
            "mels": self.front_end.mels,
            "quick": self.quick,
        }

    def summary(self, facts: FactTable) -> dict[str, Any]:
        """`rates` (Hz), `channels` and `codecs` with the number of files, `seconds`, `features`.

        The features' mean and std are over all cells of the model's input, padding included, as
        AudioMAE's constants for AudioSet are understood; null after a quick scan.
        """
        return {
            "rates": most_common(facts["rate"]),
            "channels": most_common(facts["channels"]),
            "codecs": most_common(facts["codec"]),
            "seconds": spread(facts["seconds"]),
            "features": None if self.quick or not len(facts) else self._features(facts),
        }

    def tell(self, content: Mapping[str, Any]) -> list[str]:
        """Formats and length, and a warning where the recipe's mean or std are not the data's."""
        if not content["rates"]:
            return []
        lines = [
            f"{first_of(content['rates'], ' Hz')}; channels {first_of(content['channels'])}; "
            f"{content['seconds']['median']:g} seconds (median)"
        ]
        if (found := content["features"]) is None:
            return [*lines, "features: not measured by a quick scan"]
        lines.append(
            f"log-mel features: mean {found['mean']:.4f}, std {found['std']:.4f}; the recipe has "
            f"{found['recipe_mean']:.4f} and {found['recipe_std']:.4f}"
        )
        far = FAR * found["std"]
        differs = max(
            abs(found["mean"] - found["recipe_mean"]), abs(found["std"] - found["recipe_std"])
        )
        if differs > far:
            lines.append(
                "warning: the recipe's mean and std are not those of these files. A model that was "
                "fine-tuned with the recipe's keeps them; else give "
                f"--data.mean {found['mean']:.4f} --data.std {found['std']:.4f}"
            )
        return lines

    def _features(self, facts: FactTable) -> dict[str, float]:
        cells = sum(facts["cells"])
        mean = math.fsum(facts["sum"]) / cells
        square = math.fsum(facts["squares"]) / cells
        front = asdict(self.front_end)
        return {
            "mean": round(mean, 6),
            "std": round(math.sqrt(max(0.0, square - mean**2)), 6),
            "recipe_mean": front["mean"],
            "recipe_std": front["std"],
        }
