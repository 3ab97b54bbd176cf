"""Groups over a spectrogram: a figure with axes in seconds and Hz."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tome_lightning.commands.visualize.drawing import Pixels, group_hues, tinted
from tome_lightning.commands.visualize.groups import Groups
from tome_lightning.commands.visualize.reading import Example

SHIFT = 0.01  # seconds between frames of features
LOW, HIGH = 20.0, 8000.0  # Hz: the mel bands of 16 kHz sound span these
TICKS = (100, 300, 1000, 2000, 4000, 8000)  # Hz
WIDTH, HEIGHT, DOTS = 7.5, 2.6, 120  # of a panel in inches; dots an inch
SHOWN = (1.0, 99.8)  # percentiles of the levels that the colours span
COLOURS = "magma"


def sound_figure(
    examples: Sequence[Example], groups: Sequence[Sequence[Groups]], distinct: bool = False
) -> Any:
    """A matplotlib figure: a column for each sound, its spectrogram above its groups.

    Args:
        examples: With their ``cells``.
        groups: Of each.
        distinct: Instead of each group's mean level show the cells in a hue that is the group's own.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = 1 + len(groups[0]), len(examples)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), dpi=DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey="col")
    for column, (example, found) in enumerate(zip(examples, groups, strict=True)):
        cells = example.cells
        assert cells is not None
        low, high = np.percentile(cells, SHOWN)
        levels = ((cells - low) / max(high - low, 1e-6)).clip(0, 1)
        _draw(axes[0, column], _coloured(levels), example.name)
        for row, g in enumerate(found, start=1):
            _draw(axes[row, column], fill(levels, g, example.patch, distinct), g.label)
            _outline(axes[row, column], g, _bounds(cells.shape, g, example.patch))
        _dress(axes[:, column], cells.shape[1])
    return figure


def figure_pixels(figure: Any) -> Pixels:
    """A figure as uint8 ``[H, W, 3]``."""
    figure.canvas.draw()
    pixels: Pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    return pixels


def patch_bounds(size: int, count: int, patch: int, stride: int) -> NDArray[np.int64]:
    """Where the cells of each patch begin along a side, and the last one's end: int64 ``[count + 1]``.

    Of patches that overlap each has the cells that lie nearer to its middle than to another's.
    """
    starts = np.arange(count) * stride + (patch - stride + 1) // 2
    return np.array([0, *starts[1:], min(size, (count - 1) * stride + patch)])


def fill(
    levels: NDArray[np.floating[Any]],
    groups: Groups,
    patch: tuple[int, int],
    distinct: bool = False,
) -> NDArray[np.float64]:
    """Colours of the cells by their group: ``[time, mels, 3]``, 0 to 1.

    Args:
        levels: ``[time, mels]``, 0 to 1.
        groups: Over ``[time, mels]`` patches.
        patch: Side and stride of the patches.
        distinct: As `sound_figure` has it. Cells that no patch covers are left as they are.
    """
    time, band = _bounds(levels.shape, groups, patch)
    spread = groups.ids.repeat(np.diff(time), axis=0).repeat(np.diff(band), axis=1)
    covered = levels[: time[-1], : band[-1]]
    colours = _coloured(levels)
    if distinct:
        grey = covered[..., None].repeat(3, axis=-1)
        colours[: time[-1], : band[-1]] = tinted(grey, spread, groups)
    else:
        mean = np.bincount(spread.ravel(), covered.ravel()) / np.bincount(spread.ravel())
        colours[: time[-1], : band[-1]] = _coloured(mean[spread])
    return colours


def _bounds(
    shape: tuple[int, ...], groups: Groups, patch: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`patch_bounds` over time and over mel bands."""
    time, band = (
        patch_bounds(size, count, *patch)
        for size, count in zip(shape, groups.ids.shape, strict=True)
    )
    return time, band


def _coloured(levels: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    from matplotlib import colormaps

    colours: NDArray[np.float64] = colormaps[COLOURS](levels)[..., :3]
    return colours


def _draw(axes: Any, colours: NDArray[np.float64], title: str) -> None:
    time, mels, _ = colours.shape
    axes.imshow(colours.transpose(1, 0, 2), origin="lower", aspect="auto", interpolation="nearest",
                extent=(0, time * SHIFT, 0, mels))  # fmt: skip
    axes.set_title(title, fontsize=9, loc="left", parse_math=False)  # $ is a letter of file names


def _outline(
    axes: Any, groups: Groups, bounds: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> None:
    """Lines where a patch and its neighbour are in different groups, each in its group's colour.

    They lie beside each other: each a little within its own patch.
    """
    from matplotlib.collections import LineCollection

    time, band = bounds[0] * SHIFT, bounds[1]
    near = time[-1] / (WIDTH * DOTS), band[-1] / (HEIGHT * DOTS)  # a dot
    hues, lines, colours = group_hues(groups.sizes), [], []
    for (t, m), group in np.ndenumerate(groups.ids):
        left, right = time[t] + near[0], time[t + 1] - near[0]
        low, high = band[m] + near[1], band[m + 1] - near[1]
        sides = {
            (t - 1, m): ((left, low), (left, high)), (t + 1, m): ((right, low), (right, high)),
            (t, m - 1): ((left, low), (right, low)), (t, m + 1): ((left, high), (right, high)),
        }  # fmt: skip
        for (i, j), side in sides.items():
            inside = 0 <= i < groups.ids.shape[0] and 0 <= j < groups.ids.shape[1]
            if inside and groups.ids[i, j] != group:
                lines.append(side)
                colours.append((*hues[group], 1.0 if groups.sizes[group] > 1 else 0.25))
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=0.8), autolim=False)


def _dress(axes: Any, mels: int) -> None:
    places = [min(_band(tick, mels), mels) for tick in TICKS]
    for panel in axes:
        panel.set_yticks(places, [f"{tick / 1000:g}k" if tick >= 1000 else tick for tick in TICKS])
        panel.set_ylabel("Hz", fontsize=8)
        panel.tick_params(labelsize=8)
    axes[-1].set_xlabel("seconds", fontsize=8)


def _band(frequency: float, mels: int) -> float:
    """Where a frequency lies among mel bands, of which the k-th is drawn from k to k + 1."""
    low, high, here = (_mel(f) for f in (LOW, HIGH, frequency))
    return (here - low) / (high - low) * (mels + 1) - 0.5


def _mel(frequency: float) -> float:
    return 1127.0 * float(np.log(1.0 + frequency / 700.0))  # the scale of the features
