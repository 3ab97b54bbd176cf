"""Files as a model sees them in evaluation, and as they are shown beside its groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from checkpoints.errors import first_line
from datamodules.shards.finding import placed
from datamodules.shards.member import MemberError, file_of, opened, own_name
from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.errors import UsageError
from tome_lightning.inputs import Clip, Image, Input, Spectrogram

DECODE_SECONDS = 120.0


@dataclass(frozen=True)
class Example:
    """A sample to be shown.

    Attributes:
        name: The file's name, or another.
        x: What the model reads: float32, of the model's ``shape``.
        frames: What is shown of an image or a clip, uint8 ``[T, H, W, 3]``; T is 1 for an image.
        cells: Of a spectrogram the log-mel features, float32 ``[time, mels]``; else None.
        patch: Side of the patches of a spectrogram, and the distance from one to the next.
    """

    name: str
    x: Tensor
    frames: NDArray[np.uint8] | None = None
    cells: NDArray[np.float32] | None = None
    patch: tuple[int, int] = (16, 16)


def check_files(files: Sequence[str | Path], input: Input) -> list[str]:
    """Refuse files that are not there, before any long work.

    Args:
        files: Files, or members of tar files such as `shard.tar::a/b.jpg`.
        input: What the model reads.

    Returns:
        Their paths, those of members with their places.

    Raises:
        UsageError: Names the first that is not there.
    """
    return [_checked(str(path), input) for path in files]


def _checked(path: str, input: Input) -> str:
    try:
        found = placed(path)
    except (OSError, MemberError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    file = Path(file_of(found))
    if not file.is_file():
        what = "a folder" if file.is_dir() else "no file"
        raise UsageError(f"{file} is {what}. Give files: {_KINDS[type(input)]}.")
    return found


def read_example(path: str | Path, loaded: LoadedModel) -> Example:
    """Read a picture, a video or a sound, whichever the model takes.

    Raises:
        UsageError: It is not there, or is none of these.
    """
    (path,) = check_files([path], loaded.input)
    read = {Image: _picture, Clip: _clip, Spectrogram: _sound}[type(loaded.input)]
    try:
        x = read(path, loaded)
    except MemoryError:  # says nothing about the file
        raise
    except Exception as error:  # each decoder has its own
        raise UsageError(
            f"{path} cannot be read as {_KINDS[type(loaded.input)]}, which this model takes: "
            f"{first_line(error)}"
        ) from error
    return example(own_name(path), x, loaded.input, loaded.mean, loaded.std)


_KINDS: dict[type[Input], str] = {
    Image: "a picture (png, jpg, ...)",
    Clip: "a video (mp4, webm, ...)",
    Spectrogram: "a sound (wav, flac, mp3, ...)",
}


def example(
    name: str, x: Tensor, input: Input, mean: tuple[float, ...], std: tuple[float, ...]
) -> Example:
    """What is shown of a sample: the pixels, or the features, that it was normalised from.

    Args:
        name: For captions.
        x: One sample as the model reads it.
        input: What it is.
        mean: Of each channel, 0 to 1; of a spectrogram one, in natural logarithms.
        std: The same.
    """
    # a file's name need not be text, a caption is
    name = name.encode(errors="backslashreplace").decode()
    x = x.detach().float().cpu()
    if isinstance(input, Spectrogram):
        cells = (x[0] * (2 * std[0]) + mean[0]).numpy()
        return Example(name, x, cells=cells, patch=(input.patch, input.stride))
    shape = (-1, *[1] * (x.ndim - 1))
    pixels = x * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    planes = pixels.mul(255).round().clamp(0, 255).to(torch.uint8)
    planes = planes[:, None] if planes.ndim == 3 else planes  # [C, T, H, W]
    planes = planes.expand(3, -1, -1, -1) if len(planes) == 1 else planes[:3]
    return Example(name, x, frames=planes.permute(1, 2, 3, 0).contiguous().numpy())


def _picture(path: str, loaded: LoadedModel) -> Tensor:
    """The picture as evaluation reads it, its short side resized and its middle cropped."""
    from torchvision.transforms.v2.functional import normalize

    from datamodules.images.reading import read_image
    from datamodules.images.transforms import EvalTransform

    channels, size, _ = loaded.shape
    exif = loaded.data.get("exif", True)  # upright, unless a run says otherwise
    picture = read_image(path, channels, exif=bool(exif))
    crop_pct = loaded.data.get("crop_pct") or 1.0  # unless a run says so, all of the short side
    transform = EvalTransform(size, crop_pct, loaded.data.get("interpolation") or "bicubic")
    x: Tensor = normalize(transform(picture)[0].float() / 255, [*loaded.mean], [*loaded.std])
    return x


def _clip(path: str, loaded: LoadedModel) -> Tensor:
    """The clip in the middle of the video, as evaluation with one clip takes it."""
    from datamodules.videos.clip_reader import Decoding, EvalClipReader
    from datamodules.videos.clips import SAMPLINGS
    from datamodules.videos.decoding import choose_decoder
    from datamodules.videos.transforms import ClipEvalTransform

    assert isinstance(loaded.input, Clip)
    _refuse_still(path)
    kind = SAMPLINGS[loaded.data.get("sampling") or "mae_st"]
    sampling = kind(loaded.input.frames, int(loaded.data.get("rate") or 4))
    decoding = Decoding(choose_decoder(loaded.data.get("decoder")), timeout=DECODE_SECONDS)
    clips = EvalClipReader(decoding, sampling, 1)(path)
    size, up = loaded.input.size, sampling.rounds_up
    return ClipEvalTransform(size, 1, loaded.mean, loaded.std, rounds_up=up)(clips)[0]


def _refuse_still(path: str) -> None:
    """Video decoders take a picture for a clip of one frame, in which there is nothing to follow."""
    from PIL import Image as Pictures
    from PIL import UnidentifiedImageError

    try:
        with opened(path) as file, Pictures.open(file) as picture:
            frames = getattr(picture, "n_frames", 1)
    except UnidentifiedImageError:
        return
    if frames == 1:
        raise ValueError("it is one still picture")


def _sound(path: str, loaded: LoadedModel) -> Tensor:
    from datamodules.sounds.features import FrontEnd
    from datamodules.sounds.reading import read_waveform, require_decoders, require_torchaudio
    from datamodules.sounds.samples import EvalSpectrogram

    assert isinstance(loaded.input, Spectrogram)
    require_torchaudio()
    require_decoders()
    front = FrontEnd(loaded.input.frames, loaded.input.mels, loaded.mean[0], loaded.std[0])
    return EvalSpectrogram(front)(read_waveform(path, front.seconds))[0]
