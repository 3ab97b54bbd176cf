"""Which decoder reads a video: decord, PyAV or torchcodec, all with the same frame numbers.

PyAV defines the numbers, see `videos`. decord 0.6 and torchcodec 0.17 silently return other frames
for some files, up to a group of pictures away (B-frames in AVI or MPEG-PS; for decord also edit
lists, open groups of pictures, MPEG-TS), and none of them mirrors: what they might number or lay
otherwise, cannot open or fail to decode, PyAV reads in their place. One kind remains, since only
decoding tells: H.264 that is refreshed gradually instead of by key frames, as live streams are.
"""

import importlib
import io
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.shards.member import Source, source_of
from datamodules.videos.pyav import PyAVVideo, Video, VideoError

__all__ = ["DECODERS", "Video", "VideoError", "choose_decoder", "open_video"]

DECODERS = ("decord", "pyav", "torchcodec")


class _OtherVideo(Video):
    """A video that `PyAVVideo` found plain, read by another decoder until that fails."""

    _reader: Any

    def __init__(self, source: Source, threads: int, fps: float) -> None:
        self._source, self._threads = source, threads
        self._instead: PyAVVideo | None = None
        self.fps = fps

    def close(self) -> None:
        self._reader = None
        if self._instead is not None:
            self._instead.close()

    def _decode(self, wanted: list[int]) -> Tensor:
        if self._instead is None:
            try:
                return self._read(wanted)
            except Exception:  # each has its own: decord fails at widths of 8, 16, 24, 48 and 72
                self._instead = PyAVVideo(self._source, self._threads)
        return self._instead.frames(wanted)

    @abstractmethod
    def _read(self, wanted: list[int]) -> Tensor:
        """Frames of rising, distinct indices, uint8 `[T, H, W, 3]`."""


class DecordVideo(_OtherVideo):
    """Frames by decord."""

    def __init__(self, source: Source, threads: int, fps: float) -> None:
        super().__init__(source, threads, fps)
        decord = importlib.import_module("decord")
        decord.logging.set_level(decord.logging.QUIET)
        # without a limit decord repeats its last frame for those it cannot decode; it takes 0 for
        # no limit, so allow this share of the frames
        given = source if isinstance(source, str) else source.again()
        self._reader = decord.VideoReader(given, num_threads=threads, fault_tol="0.0000001")
        self.num_frames = len(self._reader)

    def _read(self, wanted: list[int]) -> Tensor:
        return torch.from_numpy(self._reader.get_batch(wanted).asnumpy())


class TorchCodecVideo(_OtherVideo):
    """Frames by torchcodec."""

    def __init__(self, source: Source, threads: int, fps: float) -> None:
        super().__init__(source, threads, fps)
        decoders = importlib.import_module("torchcodec.decoders")
        given = source if isinstance(source, str) else source.getvalue()
        self._reader = decoders.VideoDecoder(
            given, dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact"
        )
        self.num_frames = len(self._reader)

    def _read(self, wanted: list[int]) -> Tensor:
        return self._reader.get_frames_at(wanted).data


def open_video(path: str, decoder: str, threads: int = 1) -> Video:
    """Open a video, to be closed by the caller.

    Args:
        path: File, or a member of a shard, whose bytes are read once.
        decoder: One of `DECODERS`, installed; see `choose_decoder`.
        threads: Threads of the decoder; 0 is one for each core.

    Raises:
        Exception: The file is no video or is damaged; of any type, since decoders have their own.
    """
    source = source_of(path)
    video = PyAVVideo(source, threads)
    if decoder == "pyav" or not video.plain:
        return video
    try:
        other = (DecordVideo if decoder == "decord" else TorchCodecVideo)(
            source, threads, video.fps
        )
    except Exception:  # PyAV has seen the whole file, so it is the other: decord knows no AV1
        return video
    if other.num_frames != video.num_frames:
        other.close()
        return video
    video.close()
    return other


def choose_decoder(name: str | None) -> str:
    """The decoder of that name if it works here; for None PyAV.

    decord 0.6, its last release, brings FFmpeg 4.1, whose published holes nobody mends: not by default.

    Raises:
        DataError: There is no such decoder, or it does not work.
    """
    if name not in (None, *DECODERS):
        raise DataError(f"decoder must be one of {', '.join(DECODERS)}, got {name!r}")
    fault = _fault("pyav")
    if fault:
        raise DataError(f"PyAV, which every decoder needs, does not work: {fault}; pip install av")
    if name is None:
        return "pyav"
    fault = _fault(name)
    if fault:
        cure = {
            "decord": "pip install decord (Linux and Windows on x86-64)",
            "torchcodec": "install FFmpeg, and pip install the torchcodec made for this torch",
        }[name]
        raise DataError(f"decoder {name} does not work: {fault}; {cure}, or --data.decoder pyav")
    return name


def _fault(name: str) -> str | None:
    """Why a decoder does not work, in one line; None if it does."""
    try:
        importlib.import_module({"pyav": "av"}.get(name, name))
        if name == "torchcodec":  # imports without FFmpeg, and fails at the first video
            decoders = importlib.import_module("torchcodec.decoders")
            decoders.VideoDecoder(_tiny_clip()).get_frame_at(0)
    except Exception as error:  # of a broken installation: any
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return None


def _tiny_clip() -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode())
    return file.getvalue()
