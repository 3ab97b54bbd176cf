"""``visualize``: files, a model and r in; a picture or a film out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pictures

from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.commands.outputs import check_output
from tome_lightning.commands.visualize.drawing import Pixels
from tome_lightning.commands.visualize.groups import Groups, trace_groups
from tome_lightning.commands.visualize.layout import clip_film, clip_page, image_page
from tome_lightning.commands.visualize.reading import Example, check_files, read_example
from tome_lightning.commands.visualize.sound import figure_pixels, sound_figure
from tome_lightning.errors import UsageError
from tome_lightning.inputs import Clip, Input, Spectrogram
from tome_lightning.tome import R
from tome_lightning.tome.plan import check_possible

STILL = (".png", ".jpg", ".jpeg", ".webp")
FILM = (".gif", ".mp4")
FILM_FPS = 6


def visualize(
    loaded: LoadedModel,
    files: Sequence[str | Path],
    out: str | Path,
    rs: Sequence[R] | None = None,
    depths: Sequence[int] | None = None,
    *,
    distinct: bool | None = None,
    force: bool = False,
) -> list[list[Groups]]:
    """Draw which patches of some files became one token: the same fill and border, one token.

    Images: a row each, the image and beside it its groups, filled with their mean colours. Clips: the
    frames and below them the groups, the same colour in every frame. Sounds: the spectrogram with axes
    and below it the groups, filled with their mean levels.

    Args:
        loaded: From `load_model`.
        files: Pictures, videos or sounds, whichever the model reads; a member of a tar file is
            `shard.tar::a/b.jpg`.
        out: .png, .jpg or .webp; of a clip also .gif or .mp4.
        rs: Values of r; the model's own by default.
        depths: Numbers of blocks after which to look; all blocks by default.
        distinct: Show what is in a group in a hue that is the group's own, instead of its mean; by
            default of grey clips, whose means are much alike.
        force: Whether ``out`` may be overwritten.

    Returns:
        For each file its groups.

    Raises:
        PlanError: An r that the model has not the tokens for.
        UsageError: A file that cannot be read or written, or a depth the model has not.
    """
    out = check_output(Path(out), force)
    check_kind(out, len(files), isinstance(loaded.input, Clip))
    files = check_files(files, loaded.input)
    rs = [loaded.model.r] if rs is None else list(rs)
    check_depths(depths, loaded.model.depth)
    for r in rs:
        check_possible(r, loaded.model.depth, loaded.model.num_tokens, loaded.model.num_prefix)
    examples = [read_example(file, loaded) for file in files]
    found = [trace_groups(loaded.model, one.x[None], rs, depths)[0] for one in examples]
    moving = out.suffix.lower() in FILM
    _write(draw(examples, found, loaded.input, film=moving, distinct=distinct), out)
    return found


def draw(
    examples: Sequence[Example],
    groups: Sequence[Sequence[Groups]],
    input: Input,
    *,
    film: bool = False,
    distinct: bool | None = None,
) -> Pictures.Image | Pixels:
    """The page, or of a film its frames, uint8 ``[T, H, W, 3]``.

    Args:
        examples: All of one kind.
        groups: Of each.
        input: Of the model.
        film: Whether a clip is to move.
        distinct: As `visualize` has it.
    """
    if isinstance(input, Spectrogram):
        return Pictures.fromarray(figure_pixels(sound_figure(examples, groups, bool(distinct))))
    if not isinstance(input, Clip):
        return image_page(examples, groups, bool(distinct))
    distinct = input.channels == 1 if distinct is None else distinct
    if film:
        return clip_film(examples[0], groups[0], distinct)
    return clip_page(examples, groups, distinct)


def check_depths(depths: Sequence[int] | None, blocks: int) -> None:
    """Refuse depths that are none, before files are read."""
    for depth in depths or ():
        if not 1 <= depth <= blocks:
            raise UsageError(f"--depth is 1 to {blocks}, the blocks of this model, got {depth}.")


def check_kind(out: Path, files: int, clips: bool = True) -> None:
    """Refuse a file to write whose ending is none that can hold this."""
    if out.suffix.lower() not in (*STILL, *FILM):
        raise UsageError(
            f"--out writes {', '.join((*STILL, *FILM))}, got {out}. Name a .png, or for a clip a .gif."
        )
    if out.suffix.lower() in FILM and not clips:
        raise UsageError(f"{out} is a film, and this model reads no clips. Name a .png.")
    if out.suffix.lower() in FILM and files > 1:
        raise UsageError(
            f"{out} is a film of one clip, got {files} files. Name a .png, or one file."
        )


def _write(picture: Pictures.Image | Pixels, out: Path) -> None:
    """All of the file or nothing."""
    part = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        if isinstance(picture, Pictures.Image):
            picture.save(part, quality=95)  # png has none
        elif out.suffix.lower() == ".gif":
            _write_gif(picture, part)
        else:
            _write_mp4(picture, part)
        part.replace(out)
    except (OSError, ValueError) as error:  # of codecs: too large for the format
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{out} cannot be written: {reason}.") from error
    finally:
        part.unlink(missing_ok=True)


def _write_gif(frames: Pixels, path: Path) -> None:
    """One palette for all frames and no dithering: what keeps still does not flicker."""
    some = frames[:, ::3, ::3]
    whole = Pictures.fromarray(some.reshape(-1, *some.shape[2:]))
    palette = whole.quantize(256, kmeans=1, dither=Pictures.Dither.NONE)
    first, *others = [
        Pictures.fromarray(frame).quantize(palette=palette, dither=Pictures.Dither.NONE)
        for frame in frames
    ]
    first.save(path, save_all=True, append_images=others, duration=1000 // FILM_FPS, loop=0)


def _write_mp4(frames: Pixels, path: Path) -> None:
    import av

    try:
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("h264", rate=FILM_FPS, options={"crf": "14"})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(str(error)) from error
