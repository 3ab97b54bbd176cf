"""From the path of a video to the frames of its clips, within a time limit."""

import random
from dataclasses import dataclass, field

from torch import Tensor

from datamodules.deadline import Deadline
from datamodules.videos.clips import Sampling
from datamodules.videos.decoding import open_video


@dataclass
class Decoding:
    """How a video is opened, whatever is read from it.

    Args:
        decoder: decord, pyav or torchcodec.
        threads: Threads of the decoder.
        timeout: Seconds after which a read is given up.
    """

    decoder: str
    threads: int = 1
    timeout: float = 30.0
    deadline: Deadline = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.deadline = Deadline(self.timeout)


@dataclass
class TrainClipReader:
    """Reads one clip at a random place: uint8 `[T, H, W, 3]`; the draw comes from `random`."""

    decoding: Decoding
    sampling: Sampling

    def __call__(self, path: str) -> Tensor:
        # drawn here: the thread that reads must not touch the generators
        return self.decoding.deadline.call(self._read, path, random.random())

    def _read(self, path: str, u: float) -> Tensor:
        with open_video(path, self.decoding.decoder, self.decoding.threads) as video:
            return video.frames(self.sampling.train(video.num_frames, video.fps, u).tolist())


@dataclass
class EvalClipReader:
    """Reads `clips` clips spread over the video: uint8 `[K, T, H, W, 3]`."""

    decoding: Decoding
    sampling: Sampling
    clips: int

    def __call__(self, path: str) -> Tensor:
        return self.decoding.deadline.call(self._read, path)

    def _read(self, path: str) -> Tensor:
        with open_video(path, self.decoding.decoder, self.decoding.threads) as video:
            indices = self.sampling.test(video.num_frames, video.fps, self.clips)
            return video.frames(indices.flatten().tolist()).unflatten(0, indices.shape)
