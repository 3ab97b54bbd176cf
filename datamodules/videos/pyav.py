"""An open video, and PyAV's way of reading the frames asked for and no others.

A frame's index is its place in the order of presentation among the frames that a player shows.
Pictures are turned and mirrored as the file's display matrix says, as players do; the pixel aspect
ratio is ignored.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from datamodules.shards.member import Source
from datamodules.videos.frame_rate import frame_rate
from datamodules.videos.orientation import UPRIGHT, read_matrix

_DISPOSABLE = ("h264", "mpeg4")  # codecs where a frame marked as unreferenced is never referenced
_TIMED = ("mov,mp4", "matroska")  # containers that store the time of presentation of each packet
_NEAR = 8  # packets: decoding so many is no slower than a seek


class VideoError(ValueError):
    """A file that is no video, is damaged, or lacks a frame asked for."""


class Video(ABC):
    """An open video; a context manager that closes it.

    Not for keeping: a decoder does not survive a fork.
    """

    num_frames: int
    fps: float  # average over the video; 0 where the file does not tell
    _size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright frames; decodes one unless some were before."""
        if self._size is None:
            self.frames([0])
        assert self._size is not None
        return self._size

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Frames in the order asked for, RGB, uint8 `[T, H, W, 3]`; each is decoded once.

        Raises:
            IndexError: An index below 0 or not below `num_frames`.
            Exception: A frame cannot be decoded; of any type, since decoders have their own.
        """
        wanted, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if not len(wanted):
            raise ValueError("no frame asked for")
        if wanted[0] < 0 or wanted[-1] >= self.num_frames:
            raise IndexError(
                f"frames {wanted[0]} to {wanted[-1]} asked of a video of {self.num_frames}"
            )
        frames = self._decode(wanted.tolist())
        self._size = (frames.shape[1], frames.shape[2])
        if np.array_equal(places, np.arange(len(wanted))):
            return frames
        return frames[torch.from_numpy(places)]

    @abstractmethod
    def _decode(self, wanted: list[int]) -> Tensor:
        """Frames of rising, distinct indices, uint8 `[T, H, W, 3]`."""

    @abstractmethod
    def close(self) -> None:
        """Free the decoder."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def _memory_errors_explained() -> Iterator[None]:
    # FFmpeg says so of absurd sizes in damaged files; the caller would end the run
    import av

    try:
        yield
    except av.error.MemoryError:
        raise VideoError("a size told in the file is beyond the memory: it is damaged") from None


class PyAVVideo(Video):
    """Frames by PyAV, found by the times of their packets.

    Decodes from the key frame before a frame, or from the start of the file where a container's
    times are guessed and so may change after a seek; a raw stream has none and is counted.

    Args:
        source: File, or the bytes of a member of a shard.
        threads: Threads of the decoder; 0 is one for each core.
    """

    def __init__(self, source: Source, threads: int = 1) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._source = source
        self._threads = threads
        self._reformatter: Any = VideoReformatter()
        self._orientation = UPRIGHT  # of the frame decoded last
        self._scaling = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
        with _memory_errors_explained():
            self._open()
            try:
                self._index()
            except BaseException:
                self.close()
                raise

    @property
    def plain(self) -> bool:
        """Whether each decoder numbers the frames as this one does.

        decord takes the place of a key frame in the file for its index, and counts frames that the
        container says not to show; guessed times differ between versions of FFmpeg. A picture is no
        stream here, and mirrored frames are mirrored: the others do not know of either. Decodes a
        frame where all else is plain.
        """
        keys = self._keys
        return (
            self._timed
            and self._best
            and self.num_frames == len(self._times)
            and np.array_equal(self._order[keys], keys)
            and not self._mirrored()
        )

    def _mirrored(self) -> bool:
        """Whether it is, or might be: where frame 0 is damaged it is not known."""
        try:
            self.frames([0])
        except Exception:  # PyAV has more than one
            return True
        return self._orientation.mirrored

    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        import av

        source = self._source if isinstance(self._source, str) else self._source.again()
        self._container = av.open(source, mode="r", metadata_errors="ignore")
        best = self._container.streams.best("video")
        moving = [each for each in self._container.streams.video if not _is_picture(each)]
        self._best = best in moving
        stream = best if self._best else next(iter(moving), None)
        if stream is None or stream.codec_context is None:
            self.close()
            only = "no video stream" if best is None else "no video stream but a cover picture"
            raise VideoError(only if stream is None else "no decoder for its codec")
        self._stream = stream
        self._context: Any = stream.codec_context
        self._context.thread_count = self._threads
        if self._threads != 1:
            self._context.thread_type = "AUTO"

    def _index(self) -> None:
        """Read all packets without decoding them."""
        packets: list[tuple[Any, bool, bool]] = []
        lasting: dict[Any, int] = {}  # time: how long it is shown, in ticks
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise VideoError(f"packet {len(packets)} is incomplete: the file was cut short")
            if packet.size:  # the last one only flushes
                packets.append((packet.pts, packet.is_keyframe, packet.is_discard))
                lasting[packet.pts] = packet.duration or 0
        self._times = [pts for pts, _, _ in packets]  # in file order
        self._keys = np.array([n for n, packet in enumerate(packets) if packet[1]], dtype=np.int64)
        self._places = {time: place for place, time in enumerate(self._times)}
        container = self._container.format.name
        self._counted = (
            None in self._places
            or len(self._places) < len(packets)
            or (container == "avi" and self._context.has_b_frames)  # tells times of decoding only
        )
        shown = [place for place, packet in enumerate(packets) if not packet[2]]
        if not self._counted:
            shown.sort(key=self._times.__getitem__)
        self._order = np.array(shown, dtype=np.int64)  # [num_frames], places in the file
        # whether times are the same after a seek: they are stored, or no reordering is guessed
        self._timed = not self._counted and container.startswith(_TIMED)
        self._rising = not self._counted and bool(np.all(np.diff(self._times) > 0))
        self.num_frames = len(shown)
        if not shown:
            raise VideoError("no frames")
        nominal = self._stream.average_rate, self._stream.guessed_rate, self._stream.base_rate
        times = [] if self._counted else [self._times[place] for place in shown]
        last = lasting[times[-1]] if times else 0
        self.fps = frame_rate(times, self._stream.time_base or Fraction(1), last, nominal)
        self._width, self._height = self._context.width, self._context.height

    def pictures(self) -> Iterator[np.ndarray]:
        """All frames in their order, RGB, uint8 `[H, W, 3]`; each is decoded once and none is kept.

        Raises:
            Exception: A frame cannot be decoded; of any type, since decoders have their own.
        """
        early, due = dict[int, np.ndarray](), 0  # decoders may give frames in another order
        with _memory_errors_explained():
            for index, picture in self._read(list(range(self.num_frames)), None, False):
                early[index] = picture
                while due in early:
                    yield early.pop(due)
                    due += 1
        if due < self.num_frames:
            raise VideoError(f"frame {due} of {self.num_frames} cannot be decoded")

    def _decode(self, wanted: list[int]) -> Tensor:
        frames = None
        slots = {index: slot for slot, index in enumerate(wanted)}
        with _memory_errors_explained():
            for attempt in (self._fast, self._thorough):
                for index, picture in attempt(list(slots)):
                    if frames is None:  # one array from the start: touching new memory is slow
                        frames = np.empty((len(wanted), *picture.shape), dtype=np.uint8)
                    frames[slots.pop(index)] = picture
        if slots or frames is None:
            raise VideoError(f"frame {min(slots)} of {self.num_frames} cannot be decoded")
        return torch.from_numpy(frames)

    def _fast(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Seek, and leave out what is neither wanted nor needed by other frames."""
        if self._timed or self._rising:
            for run in self._runs(wanted):
                yield from self._read(run, self._key(run[0]), self._context.name in _DISPOSABLE)
        elif not self._counted:
            yield from self._read(wanted, None, self._context.name in _DISPOSABLE)

    def _thorough(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decode all; finds what `_fast` lost: after a gradual refresh, in an unannounced order."""
        if wanted:
            yield from self._read(wanted, None, False)

    def _runs(self, wanted: list[int]) -> list[list[int]]:
        """Cut where a seek saves decoding."""
        runs = [wanted[:1]]
        for index in wanted[1:]:
            if self._key(index) > self._order[runs[-1][-1]] + _NEAR:
                runs.append([])
            runs[-1].append(index)
        return runs

    def _key(self, index: int) -> int:
        """Place in the file of the key frame that frame `index` can be decoded from."""
        place = self._order[index]
        number = int(np.searchsorted(self._keys, place, side="right")) - 1
        # what is shown before the key frame that it follows in the file needs the one before
        while number > 0 and self._times[self._keys[number]] > self._times[place]:
            number -= 1
        return int(self._keys[number]) if number >= 0 else 0

    def _read(
        self, wanted: list[int], key: int | None, skip: bool
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Decode from `key`, or from the start, until all `wanted` were seen.

        Args:
            wanted: Rising indices.
            key: Place in the file of a key frame; None is the start.
            skip: Do not decode what is neither wanted nor needed by other frames.
        """
        times = wanted if self._counted else [self._times[n] for n in self._order[wanted]]
        left = dict(zip(times, wanted, strict=True))
        unsent = set(left)
        count = -1
        for packet in self._packets(key):
            if skip:
                self._context.skip_frame = "DEFAULT" if packet.pts in unsent else "NONREF"
            frames = packet.decode()
            unsent.discard(None if self._counted else packet.pts)
            if not unsent and packet.size:  # what the decoder holds back needs no more packets
                frames += self._context.decode(None)
            for frame in frames:
                count += 1
                index = left.pop(count if self._counted else frame.pts, None)
                if index is not None and not frame.is_corrupt:
                    yield index, self._rgb(frame)
            if not left or not unsent:
                return

    def _packets(self, key: int | None) -> Iterator[Any]:
        if key is not None and self._seek(key):
            packets = self._container.demux(self._stream)
            first = next(packets)
            if self._places.get(first.pts, key + 1) <= key:
                yield first
                yield from packets
                return
        self.close()  # a new container surely is at the start
        self._open()
        yield from self._container.demux(self._stream)

    def _seek(self, key: int) -> bool:
        try:
            self._container.seek(self._times[key], stream=self._stream)
        except OSError:  # some containers cannot
            return False
        return True

    def _rgb(self, frame: Any) -> np.ndarray:
        size = self._width, self._height
        picture = self._reformatter.reformat(frame, *size, "rgb24", **self._scaling).to_ndarray()
        matrix = frame.side_data.get("DISPLAYMATRIX")
        self._orientation = read_matrix(bytes(matrix)) if matrix is not None else UPRIGHT
        return self._orientation.apply(picture)


def _is_picture(stream: Any) -> bool:
    """Whether it is a cover or a thumbnail, which containers keep as a stream."""
    from av.stream import Disposition

    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))
