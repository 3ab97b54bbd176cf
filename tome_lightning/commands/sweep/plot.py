"""A picture of sweeps: accuracy against throughput, a line for each run."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tome_lightning.commands.sweep.rows import SweepRow, series
from tome_lightning.commands.sweep.table import drift

COLOURS = ("#1f6fb4", "#d1722b", "#3a8f5c", "#8a5aa8", "#b3404a", "#5b6770")
GREY = "#555555"
# Where a point's label may stand: offset in points, and which of its corners is there.
PLACES: tuple[tuple[float, float, str, str], ...] = (
    (0, 8, "center", "bottom"), (7, 5, "left", "bottom"), (0, -8, "center", "top"),
    (-7, -5, "right", "top"), (9, 0, "left", "center"), (-9, 0, "right", "center"),
    (7, -5, "left", "top"), (-7, 5, "right", "bottom"), (0, 20, "center", "bottom"),
    (0, -20, "center", "top"), (22, 14, "left", "bottom"), (-22, -14, "right", "top"),
    (22, -14, "left", "top"), (-22, 14, "right", "bottom"),
)  # fmt: skip
AIR = 3  # pixels around a label


def plot(rows: Sequence[SweepRow], path: Path, within: float = 0.5) -> None:
    """Write the picture; its kind follows the file's ending (png, svg, pdf).

    Args:
        rows: Of one sweep or several; those not measured in full are left out.
        path: The file.
        within: Points below dense that are shaded, where there is one run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = [row for row in rows if row.value is not None and row.samples_per_s is not None]
    runs = series(shown)
    points: list[tuple[SweepRow, str]] = []
    for i, (name, group) in enumerate(runs.items()):
        colour = COLOURS[i % len(COLOURS)]
        _draw_run(axes, name, group, colour)
        points += [(row, colour) for row in group]
    _dress(axes, shown, runs)
    if len(runs) == 1:
        _shade(axes, shown, within)
        _add_speedups(axes, shown)
    figure.canvas.draw()  # labels are placed where the finished axes have room
    _label(axes, points)
    figure.savefig(path)


def _draw_run(axes: Any, name: str, rows: Sequence[SweepRow], colour: str) -> None:
    """Its dense model as a star, constant r as dots on a line, schedules as open diamonds."""
    dense = [row for row in rows if row.dense]
    constant = (row for row in rows if row.constant and not row.dense)
    line = sorted(constant, key=lambda row: row.macs, reverse=True)
    schedules = [row for row in rows if not row.constant and not row.dense]
    axes.plot(*_places([*dense, *line]), color=colour, linewidth=1.8, alpha=0.8, zorder=2)
    axes.plot(*_places(line), linestyle="", marker="o", markersize=6, color=colour, zorder=3)
    axes.plot(*_places(dense), linestyle="", marker="*", markersize=15, color=colour,
              markeredgecolor="white", markeredgewidth=0.8, zorder=4)  # fmt: skip
    axes.plot(*_places(schedules), linestyle="", marker="D", markersize=6, color=colour,
              markerfacecolor="white", markeredgewidth=1.5, zorder=3)  # fmt: skip
    axes.plot([], [], color=colour, marker="o", markersize=6, linewidth=1.8, label=name)


def _shade(axes: Any, rows: Sequence[SweepRow], within: float) -> None:
    dense = next((row for row in rows if row.dense), None)
    if dense is None or dense.value is None:
        return
    top = 100 * dense.value
    axes.axhspan(top - within, top, color=GREY, alpha=0.1, linewidth=0, zorder=0)
    axes.annotate(
        f"within {within:g} points of dense", (1, top - within),
        xycoords=("axes fraction", "data"), xytext=(-4, 3), textcoords="offset points",
        ha="right", va="bottom", fontsize=8, color=GREY,
    )  # fmt: skip


def _add_speedups(axes: Any, rows: Sequence[SweepRow]) -> None:
    """A second scale above: how many times as fast as dense."""
    dense = next((row.samples_per_s for row in rows if row.dense), None)
    if not dense:
        return
    scale = axes.secondary_xaxis("top", functions=(lambda x: x / dense, lambda x: x * dense))
    scale.set_xlabel("speed-up over dense", fontsize=9, color=GREY)
    scale.tick_params(labelsize=9, colors=GREY)
    scale.spines["top"].set_color("#cccccc")
    scale.xaxis.set_major_formatter("{x:.1f}x")


def _dress(axes: Any, rows: Sequence[SweepRow], runs: dict[str, list[SweepRow]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import StrMethodFormatter

    metric = "top-1 accuracy" if rows and rows[0].metric == "top1" else "metric"
    if rows and rows[0].metric != "top1":
        metric = rows[0].metric
    axes.set_xlabel("throughput: samples a second, forward")
    axes.set_ylabel(f"{metric} in %")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.margins(x=0.1, y=0.14)
    axes.set_title(_title(rows, runs), fontsize=10, loc="left")
    kinds = [Line2D([], [], linestyle="", marker="*", markersize=12, color=GREY, label="dense")]
    if any(not row.constant and not row.dense for row in rows):
        kinds.append(Line2D([], [], linestyle="", marker="D", markersize=6, color=GREY,
                            markerfacecolor="white", label="schedule over depth"))  # fmt: skip
    handles, _ = axes.get_legend_handles_labels()
    axes.legend(handles=[*(handles if len(runs) > 1 else []), *kinds], frameon=False,
                loc="lower left" if len(runs) == 1 else "best", fontsize=9)  # fmt: skip


def _title(rows: Sequence[SweepRow], runs: dict[str, list[SweepRow]]) -> str:
    """What all points have in common."""

    def common(name: str) -> str:
        values = {str(getattr(row, name)) for row in rows}
        return values.pop() if len(values) == 1 else ""

    name = next(iter(runs)) if len(runs) == 1 else "Token Merging"
    measured = common("measured_on")
    batch, dtype, device = common("batch"), common("dtype"), common("device_name")
    speed = ", ".join(filter(None, (device, dtype, f"batch {batch}" if batch else "")))
    first = f"{name}: {rows[0].metric} on {measured}" if measured else name
    parts = (first, speed, *drift(rows))
    return "\n".join(line for part in parts for line in textwrap.wrap(part, 95))


def _label(axes: Any, points: Sequence[tuple[SweepRow, str]]) -> None:
    """Write each point's r where it hides neither a point, a line nor another label."""
    renderer = axes.figure.canvas.get_renderer()
    taken = [_around(axes, row) for row, _ in points]
    taken.append(axes.get_legend().get_window_extent(renderer))
    lines = [_segments(axes, line) for line in axes.get_lines()]
    segments = [segment for some in lines for segment in some]
    frame = axes.get_window_extent(renderer)
    for row, colour in points:
        text = axes.annotate(
            row.label, (row.samples_per_s, 100 * (row.value or 0.0)), xytext=(0, 0),
            textcoords="offset points", color=colour, fontsize=9, zorder=5,
        )  # fmt: skip
        costs: list[float] = []
        for i, place in enumerate(PLACES):
            box = _put(text, place, renderer)
            hidden = sum(box.overlaps(other) for other in taken)
            crossed = sum(_crosses(box, *segment) for segment in segments)
            outside = not (frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0)
            costs.append(10 * hidden + 4 * crossed + 5 * outside + 0.1 * i)
            if costs[-1] < 1.5:  # nothing in the way: no further place is better
                break
        taken.append(_put(text, PLACES[costs.index(min(costs))], renderer))


def _put(text: Any, place: tuple[float, float, str, str], renderer: Any) -> Any:
    """Move a label; returns the box it then fills, in pixels."""
    x, y, across, up = place
    text.set(position=(x, y), horizontalalignment=across, verticalalignment=up)
    return text.get_window_extent(renderer).padded(AIR)


def _around(axes: Any, row: SweepRow) -> Any:
    from matplotlib.transforms import Bbox

    x, y = axes.transData.transform((row.samples_per_s, 100 * (row.value or 0.0)))
    half = (14 if row.dense else 8) * axes.figure.dpi / 150
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _segments(axes: Any, line: Any) -> list[tuple[Any, Any]]:
    if line.get_linestyle() in ("None", "", " "):
        return []
    corners = axes.transData.transform(line.get_xydata())
    return list(itertools.pairwise(corners))


def _crosses(box: Any, start: Any, end: Any) -> bool:
    """Whether a straight line runs through a box, looked at in steps of some pixels."""
    steps = max(2, int(max(abs(end - start)) / 4))
    return any(box.contains(*(start + (end - start) * i / (steps - 1))) for i in range(steps))


def _places(rows: Sequence[SweepRow]) -> tuple[list[float], list[float]]:
    return [row.samples_per_s or 0.0 for row in rows], [100 * (row.value or 0.0) for row in rows]
