"""Training and evaluation clips: waveforms read, mixed in pairs, and turned into spectrograms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.samples import Key, Samples, seeded, torch_seeded
from datamodules.sounds.features import FrontEnd
from datamodules.sounds.tagged import TaggedList
from datamodules.sounds.transforms import (
    SpecAugment,
    WaveAugment,
    centre,
    draw_lambda,
    mix_targets,
    mix_waves,
)

# Endings of keys; those of reads end with an attempt from 1 on instead.
CHOICE, PARTNER = (0, 1), (0, 2)


@dataclass
class TrainSpectrogram:
    """From a mixed waveform to what the model takes: float32 `[T]` to `[1, frames, mels]`."""

    front_end: FrontEnd
    mask: SpecAugment
    stage: ClassVar[str] = "features"

    def __call__(self, wave: Tensor) -> Tensor:
        return self.front_end.normalise(self.mask(self.front_end.log_mel(wave)))[None]


@dataclass
class EvalSpectrogram:
    """From a waveform to the one view that is evaluated: float32 `[T]` to `[1, 1, frames, mels]`."""

    front_end: FrontEnd
    stage: ClassVar[str] = "features"

    def __call__(self, wave: Tensor) -> Tensor:
        return self.front_end.normalise(self.front_end.log_mel(centre(wave)))[None, None]


class AudioSamples(Samples):
    """Training clips: `Samples` of which some are mixed with another clip before their spectrogram.

    With probability `mixup` a partner is drawn evenly from the whole list, the clip itself among it;
    lambda times the clip and 1 - lambda times the partner is what is heard, and so is the target. A
    partner that cannot be read is replaced like any file.

    Args:
        name: What messages call this split.
        root: Folder that relative paths of `files` start from.
        files: Paths and labels.
        read: Opens one path: float32 `[T]`.
        transform: Turns a centred, augmented and mixed waveform into `x`.
        augment: What happens to each waveform before it is mixed.
        mixup: Probability of a partner.
        settings: As those of `Samples`.
    """

    files: TaggedList

    def __init__(
        self,
        name: str,
        root: str,
        files: TaggedList,
        read: Callable[[str], Tensor],
        transform: Callable[[Tensor], Tensor],
        *,
        augment: WaveAugment,
        mixup: float,
        **settings: Any,
    ) -> None:
        super().__init__(name, root, files, read, transform, **settings)
        self.augment = augment
        self.mixup = mixup

    def make(self, index: int, key: Key) -> tuple[Tensor, Tensor]:
        """x and soft target of one clip, with the draws that `key` seeds."""
        wave, used = self.load(index, key)
        target = self.files.target(used)
        partner = self._partner(key)
        if partner is None:
            with seeded(*key):
                return self.transform(self.augment(centre(wave))), target
        # not within `seeded`: a worker does not get its generators back from a nested one
        other, used = self.load(partner, (*key, *PARTNER))
        with seeded(*key):
            lam = draw_lambda()
            mixed = mix_waves(self.augment(centre(wave)), self.augment(centre(other)), lam)
            return self.transform(mixed), mix_targets(target, self.files.target(used), lam)

    def stages(self) -> dict[str, str]:
        """See `Samples.stages`; waveforms are augmented before they are transformed."""
        decode, last = super().stages().items()
        return dict([decode, ("augment", "augment"), last])

    def _partner(self, key: Key) -> int | None:
        with torch_seeded(*key, *CHOICE):
            mixes = float(torch.rand(())) < self.mixup
            return int(torch.randint(len(self), ())) if mixes else None
