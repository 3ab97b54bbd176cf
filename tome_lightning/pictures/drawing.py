"""Groups as colours: each filled with the mean of its pixels, thin lines where groups meet."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tome_lightning.pictures.groups import Groups

Pixels = NDArray[np.uint8]
SIDE = 336  # pixels that a panel has at least
MARGIN, CAPTION, FONT = 10, 22, 13  # pixels
PAPER, INK = (255, 255, 255), (40, 40, 40)
GOLDEN = 0.618033988749895  # steps around the circle of hues that never come close to each other
TINT = 0.55  # how much of its own hue a group has that is followed through time


def paint(frames: Pixels, groups: Groups, scale: int = 1, distinct: bool = False) -> Pixels:
    """Fill each group with its mean colour and draw lines between groups.

    Args:
        frames: What the model saw, uint8 ``[T, H, W, 3]``; T is 1 for an image.
        groups: Over ``[h, w]`` or ``[t, h, w]`` patches, which tile the frames.
        scale: Enlarge by this whole number.
        distinct: Give groups of more than one patch a hue of their own, the same in all frames.

    Returns:
        uint8 ``[T, H * scale, W * scale, 3]``.
    """
    ids = groups.ids if groups.ids.ndim == 3 else groups.ids[None]
    cells = _per_pixel(ids, frames.shape[:3])
    colours = _mean_colours(frames, cells)
    if distinct:
        colours = _tinted(colours, groups.sizes)
    big = cells.repeat(scale, axis=1).repeat(scale, axis=2)
    painted = colours[big]
    edge = _edges(big, max(1, scale // 4))
    dark = painted.mean(axis=-1, keepdims=True) < 60  # on black a darker line could not be seen
    line = np.where(dark, painted * 0.5 + 70, painted * 0.45)
    painted = np.where(edge[..., None], line, painted)
    return painted.round().clip(0, 255).astype(np.uint8)


def enlarge(frames: Pixels, scale: int) -> Pixels:
    """The frames themselves, each pixel a square."""
    return frames.repeat(scale, axis=1).repeat(scale, axis=2)


def scale_for(frames: Pixels) -> int:
    """The whole number that makes small frames worth looking at."""
    return max(1, -(-SIDE // min(frames.shape[1:3])))


def sheet(rows: Sequence[Sequence[tuple[str, Pixels]]]) -> Image.Image:
    """Panels in rows, each with a caption above it.

    Args:
        rows: Of captions and uint8 ``[H, W, 3]``.
    """
    height = max(panel.shape[0] for row in rows for _, panel in row) + CAPTION
    width = max(panel.shape[1] for row in rows for _, panel in row)
    columns = max(map(len, rows))
    size = (
        MARGIN + columns * (width + MARGIN),
        MARGIN + len(rows) * (height + MARGIN),
    )
    page = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FONT)
    for i, row in enumerate(rows):
        for j, (caption, panel) in enumerate(row):
            x, y = MARGIN + j * (width + MARGIN), MARGIN + i * (height + MARGIN)
            alone = not any(
                text for text, _ in row[j + 1 :]
            )  # then it may go on over its neighbours
            room = size[0] - x - MARGIN if alone else width
            draw.text((x, y), _fitting(caption, room, font), fill=INK, font=font)
            page.paste(Image.fromarray(panel), (x, y + CAPTION))
    return page


def _per_pixel(ids: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The group of each pixel: each patch is repeated over the pixels it covers."""
    for axis, size in enumerate(shape):
        ids = ids.repeat(size // ids.shape[axis], axis=axis)
    return ids


def _mean_colours(frames: Pixels, cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """``[groups, 3]``"""
    flat = cells.ravel()
    count = np.bincount(flat)
    sums = [np.bincount(flat, weights=frames[..., c].ravel()) for c in range(3)]
    return np.stack(sums, axis=1) / count[:, None]


def _tinted(colours: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Large groups take the first hues, so that neighbours in size differ most."""
    tinted = colours.copy()
    for rank, group in enumerate(np.argsort(-sizes, kind="stable")):
        if sizes[group] < 2:
            break
        light = colours[group].max() / 255  # as bright as it is: a dark background stays dark
        hue = np.array(colorsys.hsv_to_rgb((rank * GOLDEN) % 1.0, 0.9, light)) * 255
        tinted[group] = (1 - TINT) * colours[group] + TINT * hue
    return tinted


def _edges(cells: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """Where another group begins to the right or below."""
    edge = np.zeros(cells.shape, dtype=bool)
    for step in range(1, width + 1):
        edge[:, :-step] |= cells[:, :-step] != cells[:, step:]
        edge[:, :, :-step] |= cells[:, :, :-step] != cells[:, :, step:]
    return edge


def _fitting(caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    short = caption
    while len(short) > 1 and font.getlength(short) > width:
        caption = caption[:-1]
        short = f"{caption}.."
    return short
