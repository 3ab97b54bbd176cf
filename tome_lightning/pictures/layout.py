"""From examples and their groups to a page, a film or a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tome_lightning.pictures.drawing import Pixels, enlarge, paint, scale_for, sheet
from tome_lightning.pictures.groups import Groups
from tome_lightning.pictures.reading import Example

MOST_COLUMNS = 8  # frames of a clip on a page
SHIFT = 0.01  # seconds between frames of features
LOW, HIGH = 20.0, 8000.0  # Hz: the mel bands of 16 kHz sound span these
TICKS = (100, 300, 1000, 2000, 4000, 8000)  # Hz
GAP = 6  # pixels between the panels of a film


def image_page(examples: Sequence[Example], groups: Sequence[Sequence[Groups]]) -> Image.Image:
    """A row for each image: as it is, then its groups."""
    rows = []
    for example, found in zip(examples, groups, strict=True):
        assert example.frames is not None
        scale = scale_for(example.frames)
        row = [(example.name, enlarge(example.frames, scale)[0])]
        row += [(g.label, paint(example.frames, g, scale)[0]) for g in found]
        rows.append(row)
    return sheet(rows)


def clip_page(example: Example, groups: Sequence[Groups], distinct: bool = True) -> Image.Image:
    """A row of frames as they are, and below it a row for each r and depth."""
    assert example.frames is not None
    steps = len(groups[0].ids)
    tube = len(example.frames) // steps
    times = np.linspace(0, steps - 1, min(steps, MOST_COLUMNS)).round().astype(int)
    shown = times * tube
    scale = -(-scale_for(example.frames) // 2)
    own = enlarge(example.frames, scale)
    rows = [[(f"frame {i}" if j else example.name, own[i]) for j, i in enumerate(shown)]]
    for g in groups:
        painted = paint(example.frames, g, scale, distinct)
        rows.append([(g.label if j == 0 else "", painted[i]) for j, i in enumerate(shown)])
    return sheet(rows)


def clip_film(example: Example, groups: Sequence[Groups], distinct: bool = True) -> Pixels:
    """Each frame as it is and, beside it, its groups: uint8 ``[T, H, W, 3]``."""
    assert example.frames is not None
    scale = scale_for(example.frames)
    panels = [enlarge(example.frames, scale)]
    panels += [paint(example.frames, g, scale, distinct) for g in groups]
    gap = np.full((*panels[0].shape[:2], GAP, 3), 255, dtype=np.uint8)
    parts = [part for panel in panels for part in (panel, gap)][:-1]
    return np.concatenate(parts, axis=2)


def sound_figure(examples: Sequence[Example], groups: Sequence[Sequence[Groups]]) -> Any:
    """A matplotlib figure: a column for each sound, its spectrogram above its groups."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = 1 + len(groups[0]), len(examples)
    figure = Figure(figsize=(2 + 7.5 * columns, 2.6 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey="col")
    for column, (example, found) in enumerate(zip(examples, groups, strict=True)):
        assert example.cells is not None
        limits = {"vmin": float(example.cells.min()), "vmax": float(example.cells.max())}
        _draw(axes[0, column], example.cells, example.name, limits)
        for row, g in enumerate(found, start=1):
            _draw(axes[row, column], _filled(example.cells, g.ids), g.label, limits)
            _outline(axes[row, column], g.ids, example.cells.shape)
        _dress(axes[:, column], example.cells.shape)
    return figure


def figure_pixels(figure: Any) -> Pixels:
    """A figure as uint8 ``[H, W, 3]``."""
    figure.canvas.draw()
    pixels: Pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    return pixels


def _filled(cells: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each group's mean level, ``[time, mels]``; cells that no patch covers are left as they are."""
    covered, spread = _covered(cells.shape, ids)
    part = cells[: covered[0], : covered[1]]
    mean = np.bincount(spread.ravel(), part.ravel()) / np.bincount(spread.ravel())
    filled = cells.astype(np.float64)
    filled[: covered[0], : covered[1]] = mean[spread]
    return filled


def _covered(
    shape: tuple[int, ...], ids: NDArray[np.int64]
) -> tuple[tuple[int, int], NDArray[np.int64]]:
    time, band = (size // count for size, count in zip(shape, ids.shape, strict=True))
    spread = ids.repeat(time, axis=0).repeat(band, axis=1)
    return (spread.shape[0], spread.shape[1]), spread


def _draw(axes: Any, cells: NDArray[Any], title: str, limits: dict[str, float]) -> None:
    time, mels = cells.shape
    extent = (0, time * SHIFT, 0, mels)
    axes.imshow(cells.T, origin="lower", aspect="auto", cmap="magma", extent=extent,
                interpolation="nearest", **limits)  # fmt: skip
    axes.set_title(title, fontsize=9, loc="left")


def _outline(axes: Any, ids: NDArray[np.int64], shape: tuple[int, ...]) -> None:
    """Lines where a patch and its neighbour are in different groups."""
    from matplotlib.collections import LineCollection

    step, band = shape[0] // ids.shape[0] * SHIFT, shape[1] // ids.shape[1]
    lines = []
    for t, m in zip(*np.nonzero(ids[:-1] != ids[1:]), strict=True):
        lines.append([((t + 1) * step, m * band), ((t + 1) * step, (m + 1) * band)])
    for t, m in zip(*np.nonzero(ids[:, :-1] != ids[:, 1:]), strict=True):
        lines.append([(t * step, (m + 1) * band), ((t + 1) * step, (m + 1) * band)])
    axes.add_collection(LineCollection(lines, colors="#ffffff", linewidths=0.6, alpha=0.55))


def _dress(axes: Any, shape: tuple[int, ...]) -> None:
    mels = shape[1]
    low, high = (_mel(frequency) for frequency in (LOW, HIGH))
    places = [(_mel(tick) - low) / (high - low) * mels for tick in TICKS]
    for panel in axes:
        panel.set_yticks(places, [f"{tick / 1000:g}k" if tick >= 1000 else tick for tick in TICKS])
        panel.set_ylabel("Hz", fontsize=8)
        panel.tick_params(labelsize=8)
    axes[-1].set_xlabel("seconds", fontsize=8)


def _mel(frequency: float) -> float:
    return 1127.0 * float(np.log(1.0 + frequency / 700.0))  # the scale of the features
