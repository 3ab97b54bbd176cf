"""Groups as colours: the same fill and the same border wherever patches are in one token."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tome_lightning.commands.visualize.groups import Groups

T = TypeVar("T", bound=np.generic)
Pixels = NDArray[np.uint8]
SIDE = 336  # pixels that a panel has at least
MARGIN, CAPTION, FONT = 10, 22, 13  # pixels
PAPER, INK = (255, 255, 255), (40, 40, 40)
GOLDEN = 0.618033988749895  # steps around the circle of hues that never come close to each other
TINT = 0.75  # how much of its own hue a group has that is followed through time
LINE = 224  # pixels of a panel for each pixel that a border is wide


def paint(frames: Pixels, groups: Groups, scale: int = 1, distinct: bool = False) -> Pixels:
    """Show which patches are in one group.

    Patches of one group have one fill and, where they meet other groups, one border colour, as in the
    figures of the ToMe paper. Patches that have merged with none have thin dark lines.

    Args:
        frames: What the model saw, uint8 ``[T, H, W, 3]``; T is 1 for an image.
        groups: Over ``[h, w]`` or ``[t, h, w]`` patches, which tile the frames.
        scale: Enlarge by this whole number.
        distinct: Instead of the group's mean colour show the pixels in a hue that is the group's own,
            the same in all frames; single patches stay as they are.

    Returns:
        uint8 ``[T, H * scale, W * scale, 3]``.
    """
    ids = groups.ids if groups.ids.ndim == 3 else groups.ids[None]
    cells = _per_pixel(ids, frames.shape[:3])
    means, hues = _mean_colours(frames, cells), group_hues(groups.sizes)
    merged = groups.sizes > 1
    lines = np.where(merged[:, None], _bright(hues, means), _thin(means))
    width = max(1, round(frames.shape[1] * scale / LINE / (2 if distinct else 1)))
    painted = np.empty((len(frames), *(side * scale for side in frames.shape[1:3]), 3), np.uint8)
    for i in range(len(frames)):  # one by one, to save memory
        big = enlarge(cells[i : i + 1], scale)[0]
        fill = tinted(enlarge(frames[i : i + 1], scale)[0], big, groups) if distinct else means[big]
        edge = np.where(merged[big], edges(big, width), edges(big, 0))
        painted[i] = np.where(edge[..., None], lines[big], fill).round().clip(0, 255)
    return painted


def group_hues(sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """A colour for each group of several patches, ``[groups, 3]``, 0 to 1; white for single patches.

    Large groups take the first hues, so that neighbours in size differ most.
    """
    hues = np.ones((len(sizes), 3))
    for rank, group in enumerate(np.argsort(-sizes, kind="stable")):
        if sizes[group] < 2:
            break
        hues[group] = colorsys.hsv_to_rgb((rank * GOLDEN) % 1.0, 0.75 if rank % 2 else 0.95, 1.0)
    return hues


def tinted(pixels: NDArray[Any], cells: NDArray[np.int64], groups: Groups) -> NDArray[np.float64]:
    """Pixels ``[H, W, 3]``, as bright as they are, in the hue of their group."""
    light = pixels.max(axis=-1, keepdims=True)
    coloured = TINT * group_hues(groups.sizes)[cells] * light + (1 - TINT) * pixels
    return np.where((groups.sizes > 1)[cells][..., None], coloured, pixels)


def edges(cells: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """Where ``[H, W]`` cells of another group are so near, on both sides; for 0 beside it on one."""
    edge = np.zeros(cells.shape, dtype=bool)
    for step in range(1, max(width, 1) + 1):
        for one, other in ((edge, cells), (edge.T, cells.T)):
            differ = other[:-step] != other[step:]
            one[:-step] |= differ
            if width:
                one[step:] |= differ
    return edge


def enlarge(frames: NDArray[T], scale: int) -> NDArray[T]:
    """The frames ``[T, H, W, ...]`` themselves, each pixel a square."""
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
            # alone, it may go on over its neighbours
            alone = not any(text for text, _ in row[j + 1 :])
            room = size[0] - x - MARGIN if alone else width
            draw.text((x, y), _fitting(caption, room, font), fill=INK, font=font)
            page.paste(Image.fromarray(panel), (x, y + CAPTION))
    return page


def film(panels: Sequence[tuple[str, Pixels]]) -> Pixels:
    """Panels side by side that move together, each with a caption above it.

    Args:
        panels: Captions and uint8 ``[T, H, W, 3]``.

    Returns:
        uint8 ``[T, H', W', 3]``; its sides are even, which codecs want.
    """
    count = len(panels[0][1])
    first = np.asarray(sheet([[(caption, frames[0]) for caption, frames in panels]]))
    moving = np.broadcast_to(first, (count, *first.shape)).copy()
    top, left = MARGIN + CAPTION, MARGIN
    for _, frames in panels:
        height, width = frames.shape[1:3]
        moving[:, top : top + height, left : left + width] = frames
        left += width + MARGIN
    odd = [(0, 0), (0, first.shape[0] % 2), (0, first.shape[1] % 2), (0, 0)]
    return np.pad(moving, odd, mode="edge")


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


def _bright(hues: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Borders as bright as their group is, so that a dark background stays calm."""
    return hues * (110 + 0.55 * means.max(axis=1, keepdims=True))


def _thin(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lines between single patches: darker than they are, on black brighter."""
    dark = means.mean(axis=1, keepdims=True) < 60
    return np.where(dark, means * 0.5 + 50, means * 0.45)


def _fitting(caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    short = caption
    while len(short) > 1 and font.getlength(short) > width:
        caption = caption[:-1]
        short = f"{caption}.."
    return short
