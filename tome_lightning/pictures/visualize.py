"""``visualize``: files, a model and r in; a picture or a film out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pictures

from tome_lightning.arguments import UsageError, check_output
from tome_lightning.inputs import Clip, Spectrogram
from tome_lightning.loaded import LoadedModel
from tome_lightning.pictures.drawing import Pixels
from tome_lightning.pictures.groups import Groups, trace_groups
from tome_lightning.pictures.layout import (
    clip_film,
    clip_page,
    figure_pixels,
    image_page,
    sound_figure,
)
from tome_lightning.pictures.reading import Example, read_example
from tome_lightning.tome import R

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
    """Draw which patches of some files became one token.

    Images: a row each, the image and beside it its groups, filled with their mean colours. Clips: the
    frames and below them the groups, the same colour in every frame. Sounds: the spectrogram with axes
    and below it the groups.

    Args:
        loaded: From `load_model`.
        files: Pictures, videos or sounds, whichever the model reads.
        out: .png, .jpg or .webp; of a clip also .gif or .mp4.
        rs: Values of r; the model's own by default.
        depths: Numbers of blocks after which to look; all blocks by default.
        distinct: Give the groups of clips hues of their own, to be told apart over time; by default of
            grey clips, whose mean colours are much alike.
        force: Whether ``out`` may be overwritten.

    Returns:
        For each file its groups.

    Raises:
        PlanError: An r that the model has not the tokens for.
        UsageError: A file that cannot be read or written, or a depth the model has not.
    """
    out = check_output(Path(out), force)
    _check_kind(out, len(files), isinstance(loaded.input, Clip))
    rs = [loaded.model.r] if rs is None else list(rs)
    try:
        check_depths(depths, loaded.model.depth)
        examples = [read_example(file, loaded) for file in files]
        x = torch.stack([example.x for example in examples])
        found = [
            groups for one in x.split(1) for groups in trace_groups(loaded.model, one, rs, depths)
        ]
    except ValueError as error:
        if isinstance(error, UsageError) or type(error) is not ValueError:
            raise
        raise UsageError(f"--{error}") from error
    _write(draw(examples, found, loaded, film=out.suffix in FILM, distinct=distinct), out)
    return found


def draw(
    examples: Sequence[Example],
    groups: Sequence[Sequence[Groups]],
    loaded: LoadedModel | Any,
    *,
    film: bool = False,
    distinct: bool | None = None,
) -> Pictures.Image | Pixels:
    """The page, or of a film its frames, uint8 ``[T, H, W, 3]``.

    Args:
        examples: All of one kind.
        groups: Of each.
        loaded: Anything with an ``input``.
        film: Whether a clip is to move.
        distinct: As `visualize` has it.
    """
    if isinstance(loaded.input, Spectrogram):
        return Pictures.fromarray(figure_pixels(sound_figure(examples, groups)))
    if not isinstance(loaded.input, Clip):
        return image_page(examples, groups)
    distinct = loaded.input.channels == 1 if distinct is None else distinct
    if film:
        return clip_film(examples[0], groups[0], distinct)
    pages = [clip_page(e, g, distinct) for e, g in zip(examples, groups, strict=True)]
    if len(pages) == 1:
        return pages[0]
    page = Pictures.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), "white")
    top = 0
    for one in pages:
        page.paste(one, (0, top))
        top += one.height
    return page


def check_depths(depths: Sequence[int] | None, blocks: int) -> None:
    """Refuse depths that are none, before files are read."""
    for depth in depths or ():
        if not 1 <= depth <= blocks:
            raise UsageError(f"--depth is 1 to {blocks}, the blocks of this model, got {depth}.")


def _check_kind(out: Path, files: int, clips: bool) -> None:
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
            picture.save(part)
        elif out.suffix.lower() == ".gif":
            first, *others = [Pictures.fromarray(frame) for frame in picture]
            first.save(part, save_all=True, append_images=others, duration=1000 // FILM_FPS, loop=0)
        else:
            _write_mp4(picture, part)
        part.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)


def _write_mp4(frames: Pixels, path: Path) -> None:
    import av

    height, width = (size - size % 2 for size in frames.shape[1:3])  # the codec halves the colours
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("h264", rate=FILM_FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames[:, :height, :width]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.copy(), format="rgb24")))
        container.mux(stream.encode())
