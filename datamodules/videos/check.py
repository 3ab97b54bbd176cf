"""What `scan` does with a video."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from datamodules.facts import FactTable
from datamodules.file_check import FileCheck, first_of, most_common, spread
from datamodules.videos.clip_reader import Decoding
from datamodules.videos.decoding import open_video

CHUNK = 64  # frames that a check holds in memory at once
QUICK = 16  # frames that a quick check decodes
BIG_SIDE = 400  # pixels: well above the 256 and 320 that recipes crop from


class VideoFacts(NamedTuple):
    """What a video file is."""

    frames: int
    fps: float
    height: int
    width: int


@dataclass
class VideoCheck(FileCheck):
    """Decodes a whole video, or some frames of it, to see whether it can be.

    Args:
        decoding: How it is opened; the time limit is that of a read for every `CHUNK` frames.
        quick: Decode `QUICK` frames, the first and the last among them, instead of all.
    """

    decoding: Decoding
    quick: bool = False

    def __call__(self, path: str) -> dict[str, Any]:
        how, call = self.decoding, self.decoding.deadline.call
        with call(open_video, path, how.decoder, how.threads) as video:
            for frames in self._chunks(video.num_frames):
                call(video.frames, frames)
            return VideoFacts(video.num_frames, video.fps, *video.size)._asdict()

    @property
    def settings(self) -> dict[str, Any]:
        """The decoder, and whether all frames were decoded."""
        return {"decoder": self.decoding.decoder, "quick": self.quick}

    def summary(self, facts: FactTable) -> dict[str, Any]:
        """`sizes` (width x height) and `fps` with the number of files, `frames` and `seconds`."""
        return {
            "sizes": most_common(
                f"{width}x{height}"
                for width, height in zip(facts["width"], facts["height"], strict=True)
            ),
            "fps": most_common(f"{fps:.5g}" for fps in facts["fps"]),
            "frames": spread(facts["frames"]),
            "seconds": spread(
                round(frames / fps, 2)
                for frames, fps in zip(facts["frames"], facts["fps"], strict=True)
                if fps > 0
            ),
        }

    def tell(self, content: Mapping[str, Any]) -> list[str]:
        """Sizes and length, with a hint where pixels are decoded that nobody sees."""
        if not (sizes := content["sizes"]):
            return []
        seconds = content["seconds"].get("median", 0)
        lines = [f"width x height: {first_of(sizes)}; {seconds:g} seconds (median)"]
        usual = next(iter(sizes))
        if min(map(int, usual.split("x"))) > BIG_SIDE:
            lines.append(
                f"hint: most of the reading time goes into pixels of {usual} that are thrown away; "
                "transcode to a short side of 320 or 256 (pack --resize 320)"
            )
        return lines

    def _chunks(self, n: int) -> Iterable[Sequence[int]]:
        if self.quick:
            yield torch.linspace(0, n - 1, min(QUICK, n)).long().tolist()
            return
        for first in range(0, n, CHUNK):
            yield range(first, min(first + CHUNK, n))
