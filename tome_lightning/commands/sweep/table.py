"""A sweep as a table and a verdict in words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tome_lightning.commands.benchmark.report import noise
from tome_lightning.commands.sweep.rows import SweepRow, series
from tome_lightning.screen import columns

WIDTH = 100  # characters of a line
FEW = 10  # samples that decide: fewer are chance
SMALL = 1000  # samples of a metric that does not count them one by one
DRIFT = 0.1  # share by which speeds of the same work may differ before it is said
LABEL = 22  # characters of an r's column at most


def format_report(rows: Sequence[SweepRow], within: float = 0.5) -> list[str]:
    """Lines for the screen: of each run what was measured, the table, the verdict.

    Args:
        rows: Of one run or several.
        within: Points of the metric that may be lost.
    """
    lines: list[str] = []
    for name, group in series(rows).items():
        lines += ["", *header(name, group), *table(group), *verdict(group, within)]
    return [*lines[1:], *unlike(rows)]


def header(name: str, rows: Sequence[SweepRow]) -> list[str]:
    """What was measured, on what, and where the speed is from."""
    row = rows[0]
    stage = {"val": "validation", "test": "test"}.get(row.stage, row.stage)
    what = f"{name}: {row.checkpoint}, prop_attn {'on' if row.prop_attn else 'off'}"
    lines = [what, f"{row.metric} on the {stage} data: {row.measured_on}"]
    if row.limited is not None:
        lines.append(
            f"only the first {row.limited} batches of it, which may hold a few classes alone: a trial, "
            "no result"
        )
    if row.batch is not None:
        lines.append(
            f"speed: forward passes, {row.dtype}, batch {row.batch}, {row.device_name}, torch {row.torch}"
        )
    return _wrapped(lines)


def table(rows: Sequence[SweepRow]) -> list[str]:
    """One line an r."""
    head = ("r", "tokens", "MACs", rows[0].metric, "points", "samples/s", "speed-up", "realised")
    return columns([head, *(_cells(row) for row in rows)])


def verdict(rows: Sequence[SweepRow], within: float) -> list[str]:
    """Which r to take: the largest that loses no more than so many points, and the fastest."""
    measured = [row for row in rows if row.delta is not None and not row.dense]
    if not measured:
        return []
    close = [row for row in measured if (row.delta or 0.0) >= -within / 100 - 1e-9]
    limit = f"within {within:g} points of dense"
    if not close:
        best = max(measured, key=lambda row: row.delta or 0.0)
        return [f"no r is {limit}: the nearest, {best.label}, loses {_points(best, abs_=True)}"]
    lines = []
    constant = [row for row in close if row.constant]
    largest = min(constant, key=lambda row: row.tokens_out, default=None)
    if largest is not None:
        lines.append(f"largest r {limit}: {_in_words(largest)}")
    timed = [row for row in close if row.speedup is not None]
    fastest = max(timed, key=lambda row: row.speedup or 0.0, default=None)
    if fastest is not None and fastest is not largest:
        lines.append(f"fastest {limit}: {_in_words(fastest)}")
    return lines + _doubts(rows, within)


def unlike(rows: Sequence[SweepRow]) -> list[str]:
    """What keeps several runs from being compared."""
    notes = {
        "device_name": "throughput was measured on different devices",
        "dtype": "throughput was measured in different dtypes",
        "batch": "throughput was measured with different batches",
        "metric": "the metrics are not the same",
        "stage": "some were measured on validation data, others on test data",
        "samples": "the metrics were measured on different numbers of samples",
    }
    found = []
    for key, words in notes.items():
        values = {getattr(row, key) for row in rows} - {None, ""}
        if len(values) > 1:
            found.append(f"note: {words} ({', '.join(sorted(map(str, values)))})")
    return found + _wrapped([f"note: {words}" for words in drift(rows)])


def drift(rows: Sequence[SweepRow]) -> list[str]:
    """The same dense work at another speed: another time on a machine that does other things too."""
    dense = [row for row in rows if row.dense and row.samples_per_s is not None]
    alike: dict[tuple[object, ...], list[float]] = {}
    for row in dense:
        key = (row.device_name, row.dtype, row.batch, row.macs, row.tokens_in)
        alike.setdefault(key, []).append(row.samples_per_s or 0.0)
    return [
        f"dense models of one size ran at {min(rates):,.0f} and {max(rates):,.0f} samples/s: the machine "
        "was not equally free. Compare speed-ups, which are over a run's own dense"
        for rates in alike.values()
        if max(rates) > (1 + DRIFT) * min(rates)
    ]


def _cells(row: SweepRow) -> tuple[str, ...]:
    label = "0 (dense)" if row.dense else row.label.removeprefix("r=")
    unit, name, digits = (1e9, "G", 2) if row.macs >= 1e9 else (1e6, "M", 1)
    rate = row.samples_per_s
    return (
        label if len(label) <= LABEL else label[: LABEL - 2] + "..",
        f"{row.tokens_in} > {row.tokens_out}" if not row.dense else str(row.tokens_in),
        f"{row.macs / unit:.{digits}f} {name}",
        "..." if row.value is None else f"{row.value:.2%}",
        "" if row.delta is None or row.dense else f"{100 * row.delta:+.2f}",
        "-" if rate is None else f"{rate:,.{0 if rate >= 1000 else 1}f}",
        "-" if row.speedup is None else f"{row.speedup:.2f}x of {row.mac_ratio:.2f}x",
        "-" if row.realised is None else f"{row.realised:.0%}",
    )


def _in_words(row: SweepRow) -> str:
    words = f"{row.label} ({_points(row)}"
    return f"{words}, {row.speedup:.2f}x)" if row.speedup is not None else f"{words})"


def _points(row: SweepRow, abs_: bool = False) -> str:
    points = 100 * (row.delta or 0.0)
    return f"{abs(points):.2f} points" if abs_ else f"{points:+.2f} points"


def _doubts(rows: Sequence[SweepRow], within: float) -> list[str]:
    """Where so few samples, or so uneven rounds, decide that another run may say otherwise."""
    lines = []
    row = rows[0]
    deciding = within / 100 * (row.samples or 0)
    if row.metric == "top1" and row.samples and deciding < FEW:
        lines.append(
            f"note: {within:g} points are {deciding:.3g} of {row.samples:,} samples, which chance moves: "
            "measure on more, or look at the whole curve"
        )
    elif row.metric != "top1" and row.samples and row.samples < SMALL:
        lines.append(
            f"note: a {row.metric} of {row.samples:,} samples is moved by chance as well: measure on more"
        )
    lines += [f"note: timed {words}" for words in noise(rows)]
    return _wrapped(lines)


def _wrapped(lines: Sequence[str]) -> list[str]:
    indented = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return [part for line in lines for part in indented.wrap(line)]
