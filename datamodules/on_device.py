"""What is done to pixels on the device: workers ship uint8, a quarter of the bytes of float32."""

import random
from collections.abc import Sequence

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from datamodules.errors import require
from datamodules.samples import Key


class DeviceTransform:
    """Normalise; in training, erase random boxes.

    Args:
        mean: Mean of each channel on the scale 0 to 1.
        std: Standard deviation of each channel on the same scale.
        dims: Dimensions after the channels: 2 of an image, 3 of a clip.
        reprob: Probability of random erasing.
        remode: What erased pixels become: noise (pixel), one colour (rand), zero (const).
        recount: Greatest number of erased boxes.

    Raises:
        DataError: A setting has no meaning.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dims: int,
        reprob: float = 0.0,
        remode: str = "pixel",
        recount: int = 1,
    ) -> None:
        require("reprob", reprob, 0 <= reprob <= 1, "in [0, 1]")
        require("remode", remode, remode in ("pixel", "rand", "const"), "pixel, rand or const")
        require("recount", recount, recount >= 1, "1 or more")
        self.reprob, self.remode, self.recount = reprob, remode, recount
        self.mean, self.std = mean, std
        shape = (-1,) + (1,) * dims  # [C, 1, 1] or [C, 1, 1, 1]
        self._scale = torch.tensor(mean).view(shape), torch.tensor(std).view(shape)
        self._scale_on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor, keys: Sequence[Key] | None = None) -> Tensor:
        """uint8 `[B, ..., C, (T,) H, W]` to float32 of the same shape, on the same device.

        Args:
            x: Training samples `[B, C, ...]` or evaluated views `[B, V, C, ...]`.
            keys: One a training sample: its erasing depends on this alone. None erases nothing.
        """
        # ToTensor's and Normalize's operations in their order: on the CPU the same to the last bit
        mean, std = self._scale_of(x.device)
        pixels = x.to(torch.float32, memory_format=torch.contiguous_format)
        pixels.div_(255).sub_(mean).div_(std)
        if keys is not None and self.reprob > 0:
            self._erase(pixels, keys)
        return pixels

    def _scale_of(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._scale_on:  # once: a copy from the host waits for the device
            mean, std = self._scale
            self._scale_on[device] = mean.to(device), std.to(device)
        return self._scale_on[device]

    def _erase(self, x: Tensor, keys: Sequence[Key]) -> None:
        """In place; leaves the global generators, which timm draws from, as they were."""
        cuda = x.is_cuda  # other devices get their noise from the CPU
        generators = torch.cuda.default_generators if cuda else (torch.default_generator,)
        generator = generators[x.device.index if cuda else 0]
        erase = RandomErasing(
            self.reprob,
            mode=self.remode,
            max_count=self.recount,
            device=x.device if cuda else "cpu",
        )
        before = random.getstate(), generator.get_state()
        try:
            for sample, key in zip(x, keys, strict=True):
                # a string is hashed as a whole (SHA-512), in a third of SeedSequence's time
                random.seed(f"erase {key}")
                generator.manual_seed(random.getrandbits(63))
                erase(sample.flatten(0, -3))  # a clip is an image of C * T channels: one box
        finally:
            random.setstate(before[0])
            generator.set_state(before[1])
