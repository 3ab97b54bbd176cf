"""A picture of a benchmark: speed-up against r, below the line that the arithmetic sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tome_lightning.commands.benchmark.report import row_name
from tome_lightning.commands.benchmark.rows import Row
from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.tome import layer_plan, max_r
from tome_lightning.tome.macs import macs

# Where a point's label stands; by turns, since neighbours are close.
BELOW: dict[str, Any] = {"xytext": (8, -8), "ha": "left", "va": "top"}
ABOVE: dict[str, Any] = {"xytext": (-8, 8), "ha": "right", "va": "bottom"}
COLOURS = ("#1f6fb4", "#d1722b", "#3a8f5c", "#8a5aa8", "#b3404a")


def plot(rows: Sequence[Row], limit: Sequence[tuple[float, float]], path: Path) -> None:
    """Write the picture; its kind follows the file's ending (png, svg, pdf).

    Args:
        rows: Of one model, as measured; those with an error are left out.
        limit: MAC ratio against r, from ``mac_limit``.
        path: The file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    shown = [row for row in rows if row.variant != "dense" and row.speedup is not None]
    _draw_limits(axes, shown, limit)
    for i, batch in enumerate(dict.fromkeys(row.batch for row in shown)):
        _draw_batch(axes, [row for row in shown if row.batch == batch], COLOURS[i % len(COLOURS)])
    axes.axhline(1, color="#555555", linewidth=1)
    axes.annotate(
        "dense", (1, 1), xycoords=("axes fraction", "data"), xytext=(-4, 4),
        textcoords="offset points", color="#555555", ha="right",
    )  # fmt: skip
    _dress(axes, rows[0], shown)
    figure.savefig(path)


def mac_limit(loaded: LoadedModel, training: bool, most: float) -> list[tuple[float, float]]:
    """(r, dense / merged MACs) for every constant r up to ``most``: how the limit grows with r."""
    model, tokens = loaded.dense, loaded.tokens(training)
    dense = macs(model, (0,) * model.depth, tokens).total
    last = min(max_r(tokens, model.num_prefix), int(most))
    rs = sorted({round(last * i / 60) for i in range(61)})
    plans = {r: layer_plan(r, model.depth, tokens, model.num_prefix) for r in rs}
    return [(float(r), dense / macs(model, plan, tokens).total) for r, plan in plans.items()]


def _draw_limits(axes: Any, rows: Sequence[Row], limit: Sequence[tuple[float, float]]) -> None:
    """The line of constant r, and a tick where a schedule's own limit is not on it."""
    axes.plot(*zip(*limit, strict=True), color="#888888", linestyle="--", label="limit: MACs saved")
    scheduled = {(_place(row), row.mac_ratio) for row in rows if not isinstance(row.r, int)}
    if scheduled:
        axes.plot(*zip(*scheduled, strict=True), color="#888888", marker="_", markersize=16,
                  linestyle="", label="limit of a schedule")  # fmt: skip


def _draw_batch(axes: Any, rows: Sequence[Row], colour: str) -> None:
    rows = sorted(rows, key=_place)
    constant = [row for row in rows if isinstance(row.r, int)]
    line = [(0.0, 1.0), *((_place(row), row.speedup) for row in constant)]
    axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.8)
    for i, row in enumerate(rows):
        speedup, low, high = _speedups(row)
        axes.errorbar(
            _place(row), speedup, [[speedup - low], [high - speedup]],
            color=colour, marker="o", markersize=6, capsize=3, elinewidth=1,
            label=f"measured, batch {row.batch}" if i == 0 else None,
        )  # fmt: skip
        axes.annotate(
            f"{row_name(row)[:18]}: {speedup:.2f}x\n{speedup / row.mac_ratio:.0%} of the limit",
            (_place(row), speedup), textcoords="offset points", color=colour, fontsize=9,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
            **(BELOW if i % 2 == 0 else ABOVE),
        )  # fmt: skip


def _speedups(row: Row) -> tuple[float, float, float]:
    """Over the dense median: at this row's median, its slowest and its fastest round."""
    assert row.speedup is not None
    ms, slowest, fastest = (value or 1.0 for value in (row.ms, row.ms_max, row.ms_min))
    return row.speedup, row.speedup * ms / slowest, row.speedup * ms / fastest


def _dress(axes: Any, row: Row, shown: Sequence[Row]) -> None:
    batches = ", ".join(str(batch) for batch in dict.fromkeys(r.batch for r in shown))
    axes.set_title(
        f"{row.model}, {row.tokens_in} tokens: {row.mode}, {row.dtype}, batch {batches}"
        f"{', compiled' if row.compile else ''}\n{row.device_name}, torch {row.torch}",
        fontsize=10, loc="left",
    )  # fmt: skip
    axes.set_xlabel("r: tokens merged per block (mean over blocks for a schedule)")
    axes.set_ylabel("speed-up over the dense model")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.margins(x=0.14, y=0.1)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="upper left")


def _place(row: Row) -> float:
    """Where a row is drawn: a constant r at r, a schedule at its mean over blocks."""
    if isinstance(row.r, int):
        return float(row.r)
    return (row.tokens_in - row.tokens_out) / row.depth
