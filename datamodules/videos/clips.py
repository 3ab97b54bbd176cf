"""Which frames make a clip, and where crops lie: pure functions of numbers.

Two samplings, each as the fine-tuning code of its method has it: MAE-ST (Feichtenhofer et al. 2022,
"Masked Autoencoders As Spatiotemporal Learners") counts in seconds, VideoMAE (Tong et al. 2022) in
frames. Here n is the number of frames of a video; a frame index is in [0, n - 1] whatever n is.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from datamodules.errors import DataError


def mae_st_span(fps: float, *, frames: int = 16, rate: int = 4) -> float:
    """Frames of the video that a clip of MAE-ST stretches over.

    `rate * frames` frames at 30 per second: a clip lasts as long whatever the video's own rate.

    Raises:
        DataError: frames or rate is below 1, or `fps` (frames per second) is not above 0.
    """
    _check(frames=frames, rate=rate)
    if not (math.isfinite(fps) and fps > 0):
        raise DataError(
            f"a video of {fps} frames per second has no clip; expected a number above 0"
        )
    return rate * frames * fps / 30


def mae_st_train_indices(
    n: int, fps: float, start: float, *, frames: int = 16, rate: int = 4
) -> np.ndarray:
    """Clip of MAE-ST that begins at frame `start`: int64 `[frames]`.

    `floor(linspace(start, start + span - 1, frames))`, where a video that is too short repeats its
    last frame. At 30 frames per second the spacing is 4.2 for 16 frames at rate 4.

    Raises:
        DataError: n, frames or rate is below 1, or fps is not above 0.
    """
    _check(n=n)
    span = mae_st_span(fps, frames=frames, rate=rate)
    # a span below 1, at a few frames per second, would run backwards
    places = np.floor(np.linspace(start, start + max(span - 1, 0), frames))
    return places.clip(0, n - 1).astype(np.int64)


def mae_st_test_starts(n: int, span: float, clips: int) -> np.ndarray:
    """First frames of so many clips spread evenly over the video: int64 `[clips]`.

    Multiples of `floor((n - span) / (clips - 1))`; one clip lies in the middle.

    Raises:
        DataError: n or clips is below 1.
    """
    _check(n=n, clips=clips)
    room = max(n - span, 0)
    if clips == 1:
        return np.array([int(room // 2)])
    return np.arange(clips) * int(room // (clips - 1))


def videomae_train_indices(n: int, end: int, *, frames: int = 16, rate: int = 4) -> np.ndarray:
    """Clip of VideoMAE that stops before frame `end`: int64 `[frames]`.

    `linspace(end - span, end, frames)` with `span = frames * rate`, rounded down and at most
    `end - 1`. A video of at most span frames is taken whole: `n // rate` frames spread over it, then
    its last frame repeated; `end` plays no part.

    Raises:
        DataError: n, frames or rate is below 1.
    """
    _check(n=n, frames=frames, rate=rate)
    span = frames * rate
    if n <= span:
        spread = np.linspace(0, n, n // rate)
        places = np.concatenate([spread, np.full(frames - len(spread), n)])
    else:
        places = np.minimum(np.linspace(end - span, end, frames), end - 1)
    return places.clip(0, n - 1).astype(np.int64)


def videomae_test_starts(n: int, *, frames: int = 16, rate: int = 4, clips: int = 5) -> np.ndarray:
    """First entries of so many windows in every `rate`-th frame of the video: int64 `[clips]`.

    The entries count in the strided list 0, rate, 2 * rate, ... of `ceil(n / rate)` frames; a window
    has `frames` of them. One clip lies in the middle.

    Raises:
        DataError: n, frames, rate or clips is below 1.
    """
    _check(n=n, frames=frames, rate=rate, clips=clips)
    room = max(-(-n // rate) - frames, 0)
    return np.array(_spread(room, clips))


def crop_starts(long_side: int, size: int, crops: int, *, up: bool = False) -> list[int]:
    """Pixel offsets of so many crops of `size`, spread evenly along a side; one is in the centre.

    Those that are no whole numbers are rounded down, or `up`.

    Raises:
        DataError: crops is below 1.
    """
    _check(crops=crops)
    room = long_side - size
    starts = _spread(room, crops)
    # counted from the other end, what was rounded down is rounded up
    return [room - start for start in reversed(starts)] if up else starts


@dataclass(frozen=True)
class Sampling(ABC):
    """Frames of the clips of a video, in training and in evaluation.

    Args:
        frames: Frames of a clip.
        rate: A clip stretches over about `frames * rate` frames of the video.

    Raises:
        DataError: One of them is below 1.
    """

    frames: int = 16
    rate: int = 4
    rounds_up: ClassVar[bool] = False  # where crops start that lie on half a pixel

    def __post_init__(self) -> None:
        _check(frames=self.frames, rate=self.rate)

    @abstractmethod
    def train(self, n: int, fps: float, u: float) -> np.ndarray:
        """Frames of one clip: int64 `[frames]`; `u` in [0, 1) is the uniform draw of its place."""

    @abstractmethod
    def test(self, n: int, fps: float, clips: int) -> np.ndarray:
        """Frames of so many clips spread over the video: int64 `[clips, frames]`; 1 is central."""

    def short_side(self, size: int, crops: int) -> int:
        """Pixels of the short side of the frames that so many test crops of `size` are cut from."""
        return size


class MAESTSampling(Sampling):
    """A clip of MAE-ST starts anywhere, also between two frames.

    Its test takes the crop in the middle where alone from frames of 256 pixels for one of 224.
    """

    rounds_up: ClassVar[bool] = True

    def train(self, n: int, fps: float, u: float) -> np.ndarray:
        span = mae_st_span(fps, frames=self.frames, rate=self.rate)
        start = u * max(n - span, 0)
        return mae_st_train_indices(n, fps, start, frames=self.frames, rate=self.rate)

    def test(self, n: int, fps: float, clips: int) -> np.ndarray:
        span = mae_st_span(fps, frames=self.frames, rate=self.rate)
        starts = mae_st_test_starts(n, span, clips)
        return np.stack([
            mae_st_train_indices(n, fps, start, frames=self.frames, rate=self.rate)
            for start in starts
        ])  # fmt: skip

    def short_side(self, size: int, crops: int) -> int:
        return size if crops > 1 else size * 256 // 224


class VideoMAESampling(Sampling):
    """A training clip of VideoMAE ends anywhere; its test clips take exactly every `rate`-th frame."""

    def train(self, n: int, fps: float, u: float) -> np.ndarray:
        span = self.frames * self.rate
        # as numpy's randint(span, n): an end of n never occurs
        end = span + int(u * max(n - span, 0))
        return videomae_train_indices(n, end, frames=self.frames, rate=self.rate)

    def test(self, n: int, fps: float, clips: int) -> np.ndarray:
        starts = videomae_test_starts(n, frames=self.frames, rate=self.rate, clips=clips)
        strided = np.arange(0, n, self.rate)
        entries = starts[:, None] + np.arange(self.frames)
        return strided[entries.clip(max=len(strided) - 1)]


SAMPLINGS: dict[str, type[Sampling]] = {"mae_st": MAESTSampling, "videomae": VideoMAESampling}


def _spread(room: int, count: int) -> list[int]:
    """`count` whole numbers from 0 to `room`, rounded down; the middle if only one."""
    if count == 1:
        return [room // 2]
    return [k * room // (count - 1) for k in range(count)]


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise DataError(f"{name} must be 1 or more, got {count!r}")
