"""Clips a second that one core reads: each decoder's own interface against this package's way.

    python -m datamodules.videos.throughput --files videos/ --decoder pyav decord

Both read the same frames of the same files in turn; the package's way also has a time limit and checks
what the decoder can be trusted with. Two more columns add what validation does with a clip, and what
training does to make two of it.
"""

import argparse
import glob
import importlib
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.deadline import Deadline
from datamodules.errors import DataError
from datamodules.filelist import VIDEO_EXTENSIONS
from datamodules.videos.decoding import DECODERS, choose_decoder, open_video
from datamodules.videos.transforms import ClipEvalTransform, ClipTrainTransform

MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
Read = Callable[[str, list[int]], Any]


def bare_decord(path: str, indices: list[int]) -> np.ndarray:
    """uint8 `[T, H, W, 3]`, as decord's documentation has it."""
    decord = importlib.import_module("decord")
    return decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()


def bare_torchcodec(path: str, indices: list[int]) -> Tensor:
    """uint8 `[T, 3, H, W]`, as torchcodec's documentation has it."""
    decoders = importlib.import_module("torchcodec.decoders")
    return decoders.VideoDecoder(path, num_ffmpeg_threads=1).get_frames_at(indices).data


def bare_pyav(path: str, indices: list[int]) -> np.ndarray:
    """uint8 `[T, H, W, 3]`, as PyAV's documentation has it: seek, decode, compare times.

    Takes the frame rate for constant and the first frame's time for 0.
    """
    av = importlib.import_module("av")
    pictures = {}
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        per_frame = 1 / (stream.average_rate * stream.time_base)
        container.seek(int(indices[0] * per_frame), stream=stream)
        for frame in container.decode(stream):
            index = round(frame.pts / per_frame)
            if index in indices:
                pictures[index] = frame.to_ndarray(format="rgb24")
            if index >= indices[-1]:
                break
    return np.stack([pictures[index] for index in indices])


BARE: dict[str, Read] = {
    "decord": bare_decord,
    "pyav": bare_pyav,
    "torchcodec": bare_torchcodec,
}


class Ours:
    """The package's way, up to three points: frames, the centre in a model's size, augmented clips.

    Args:
        decoder: decord, pyav or torchcodec.
        size: Side of the model's input.
    """

    def __init__(self, decoder: str, size: int) -> None:
        self.decoder = decoder
        self.deadline = Deadline(60.0)
        self.centre = ClipEvalTransform(size, 1, MEAN, STD)
        # MAE-ST's
        self.augment = ClipTrainTransform(
            size, 3, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5,
            auto_augment="rand-m7-mstd0.5-inc1", repeat_aug=2,
        )  # fmt: skip

    def _open_and_read(self, path: str, indices: list[int]) -> Tensor:
        with open_video(path, self.decoder) as video:
            return video.frames(indices)

    def frames(self, path: str, indices: list[int]) -> Tensor:
        """uint8 `[T, H, W, 3]`."""
        clip: Tensor = self.deadline.call(self._open_and_read, path, indices)
        return clip

    def centred(self, path: str, indices: list[int]) -> Tensor:
        """float32 `[1, 3, T, size, size]`, as in validation."""
        return self.centre(self.frames(path, indices)[None])

    def augmented(self, path: str, indices: list[int]) -> Tensor:
        """uint8 `[2, 3, T, size, size]`, as in training."""
        return self.augment(self.frames(path, indices))


def list_videos(pattern: str) -> list[str]:
    """Videos below a folder, or the files that a pattern such as `videos/*.mp4` matches.

    Raises:
        DataError: There is none.
    """
    if os.path.isdir(pattern):
        found = [p for p in Path(pattern).rglob("*") if p.suffix.lower() in VIDEO_EXTENSIONS]
        paths = sorted(map(str, found))
    else:
        paths = sorted(glob.glob(pattern))
    if not paths:
        raise DataError(f"--files {pattern} matches no video; give a folder or a quoted pattern")
    return paths


def draw_clips(paths: list[str], frames: int, rate: int) -> list[tuple[str, list[int]]]:
    """One clip from a random place of each video; a short one repeats its last frame."""
    clips = []
    for path in paths:
        with open_video(path, "pyav") as video:
            last = video.num_frames - 1
        start = random.Random(path).randint(0, max(0, last - rate * (frames - 1)))
        clips.append((path, [min(start + rate * n, last) for n in range(frames)]))
    return clips


def clips_per_second(
    ways: Sequence[Read], clips: list[tuple[str, list[int]]], repeats: int
) -> list[float]:
    """Of each way to read: number of clips over the sum of each clip's median time."""
    seconds = [[[0.0] * repeats for _ in clips] for _ in ways]
    for path, indices in clips:
        for read in ways:
            read(path, indices)  # warm up: imports, and the file in memory
    for repeat in range(repeats):
        for number, (path, indices) in enumerate(clips):
            for way, read in enumerate(ways):
                begin = perf_counter()
                read(path, indices)
                seconds[way][number][repeat] = perf_counter() - begin
    return [len(clips) / sum(map(median, times)) for times in seconds]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.videos.throughput", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--files", required=True, help="folder, or quoted pattern")
    parser.add_argument("--decoder", nargs="+", choices=DECODERS, default=["decord", "pyav"])
    parser.add_argument("--frames", type=int, default=16, help="frames of a clip")
    parser.add_argument("--rate", type=int, default=4, help="every so many frames")
    parser.add_argument("--size", type=int, default=224, help="side of our pictures")
    parser.add_argument("--repeats", type=int, default=5, help="times each clip is read")
    options = parser.parse_args(arguments)
    try:
        decoders = [choose_decoder(name) for name in options.decoder]
        clips = draw_clips(list_videos(options.files), options.frames, options.rate)
    except DataError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # Linux: decoders that have threads share the core, too
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    ways: list[Read] = []
    for name in decoders:
        own = Ours(name, options.size)
        ways += [BARE[name], own.frames, own.centred, own.augmented]
    speeds = clips_per_second(ways, clips, options.repeats)
    print(
        f"{len(clips)} videos, clips of {options.frames} frames at rate {options.rate}, one core, "
        f"clips a second, median of {options.repeats}"
    )
    heads = ("decoder", "bare", "ours", "ours/bare", f"ours at {options.size}", "2 augmented")
    print("".join(f"{head:>13}" for head in heads))
    for number, name in enumerate(decoders):
        bare, frames, centred, augmented = speeds[4 * number : 4 * number + 4]
        row = (f"{bare:.2f}", f"{frames:.2f}", f"{frames / bare:.2f}", f"{centred:.2f}")
        print("".join(f"{cell:>13}" for cell in (name, *row, f"{augmented:.2f}")))


if __name__ == "__main__":
    main()
