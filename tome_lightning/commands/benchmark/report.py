"""Measured rows as a table, a verdict in words and a JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tome_lightning.commands.benchmark.rows import Row
from tome_lightning.commands.r_words import r_label
from tome_lightning.screen import columns

FEW_TOKENS = 300
NOISY = 0.3  # share of the median that the rounds may differ by before it is said
NAME = 16  # characters of a row's name: a table has 100 columns
HEAD = (
    "variant", "ms (min-max)", "samples/s", "speed-up", "MACs", "realised", "peak MiB",
    "activ. MiB", "tokens",
)  # fmt: skip


def format_report(rows: Sequence[Row]) -> list[str]:
    """Lines for the screen: of each batch size what was measured, the table, and the verdicts."""
    lines: list[str] = []
    for _, group in groupby(rows, key=lambda row: row.batch):
        block = list(group)
        lines += ["", *header(block), *table(block), *verdicts(block)]
    return lines[1:]


def header(rows: Sequence[Row]) -> list[str]:
    """What the rows are of: model and how it runs, then the machine and the attention that ran."""
    row = rows[0]
    merged = dict.fromkeys(row.attention for row in rows[1:] if row.error is None)
    attention = f"attention dense {row.attention}, merged {' or '.join(merged) or 'unknown'}"
    size = f"{row.frames} frames, " if row.frames else ""
    traits = [
        f"{row.model} ({size}{row.img_size}), {row.tokens_in} tokens, {row.mode}, {row.dtype}",
        f"batch {row.batch}",
        "compiled" if row.compile else "not compiled",
        f"prop_attn {'on' if row.prop_attn else 'off'}",
        *(["checkpointing"] if row.checkpointing else []),
    ]
    rounds = f", median of {row.rounds} rounds" if row.rounds else ""
    machine = f"{row.device_name}; torch {row.torch}; {attention}{rounds}"
    return [", ".join(traits), machine]


def table(rows: Sequence[Row]) -> list[str]:
    """One line a row, in at most 100 columns."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    names = [name if len(name) <= NAME else f"{name[: NAME - 2]}.." for name, *_ in cells]
    return columns([[name, *line[1:]] for name, line in zip(names, cells, strict=True)])


def verdicts(rows: Sequence[Row]) -> list[str]:
    """A sentence for every r: how much of what it can bring it brings, and why not."""
    lines = []
    for row in rows:
        if row.error is not None:
            lines.append(f"{row_name(row)}: {row.error}")
        elif row.variant != "dense":
            lines.append(_verdict(row))
        lines += _mac_trouble(row)
    lines += _launch_bound(rows)
    lines += noise(rows)
    return lines


def _verdict(row: Row) -> str:
    if row.speedup is None or row.realised is None:
        return f"{row_name(row)}: {row.ms:.1f} ms; no dense time to compare with"
    words = f"{row_name(row)}: {row.speedup:.2f}x of at most {row.mac_ratio:.2f}x"
    if row.speedup >= 1:
        return f"{words} ({row.realised:.0%} realised)"
    return f"{words}: slower than dense, {_why_slower(row)}"


def _why_slower(row: Row) -> str:
    merged = row.tokens_in - row.tokens_out
    if row.mac_ratio < 1.1:
        return f"as merging {merged} of {row.tokens_in} tokens saves less than it costs"
    if row.launch_bound:
        return f"as a batch of {row.batch} leaves the GPU waiting for launches"
    if row.tokens_in < FEW_TOKENS:
        return f"as {row.tokens_in} tokens are few: larger inputs gain more"
    return "as merging costs more here than its blocks save"


def _launch_bound(rows: Sequence[Row]) -> list[str]:
    waiting = [row for row in rows if row.launch_bound]
    if not waiting:
        return []
    words = ", ".join(f"{row_name(row)} {row.host_ms:.1f} of {row.ms:.1f} ms" for row in waiting)
    way_out = "raise --batch-size" if rows[0].compile else "raise --batch-size, or give --compile"
    return [
        f"launch-bound: the GPU waits for the host, which needs {words} to launch a step. These times "
        f"are the host's, not the GPU's: {way_out}"
    ]


def noise(rows: Sequence[Any]) -> list[str]:
    """Whether timed rounds (``ms`` with ``ms_min`` and ``ms_max``) differ so much that it is said."""
    spreads = [
        (row.ms_max - row.ms_min) / row.ms for row in rows if row.ms and row.ms_max and row.ms_min
    ]
    if max(spreads, default=0.0) <= NOISY:
        return []
    return [f"rounds differ by up to {max(spreads):.0%}: is the machine busy? Raise --rounds"]


def _mac_trouble(row: Row) -> list[str]:
    formula = row.macs + row.merging_macs
    if abs(row.counted_macs / formula - 1) <= 0.01:
        return []
    return [
        f"{row_name(row)}: MACs by formula are {formula / 1e9:.2f} G, torch counts "
        f"{row.counted_macs / 1e9:.2f} G: the limit may be off"
    ]


def row_name(row: Row) -> str:
    """dense, or what is merged: r=16, r=16:-1, keep=0.9."""
    return "dense" if row.variant == "dense" else r_label(row.r)


def _cells(row: Row) -> tuple[str, ...]:
    tokens = str(row.tokens_out)
    if row.ms is None or row.ms_min is None or row.ms_max is None:
        return (row_name(row), "failed", *["-"] * 6, tokens)
    digits = 1 if row.ms < 1000 else 0
    spread = f"{row.ms:.{digits}f} ({row.ms_min:.{digits}f}-{row.ms_max:.{digits}f})"
    return (
        row_name(row),
        spread,
        f"{row.samples_per_s:.{1 if (row.samples_per_s or 0) < 1000 else 0}f}",
        "-" if row.speedup is None else f"{row.speedup:.2f}x",
        f"{row.mac_ratio:.2f}x",
        "-" if row.realised is None else f"{row.realised:.2f}",
        f"{row.peak_mem_mib:.0f}",
        f"{row.activation_mem_mib:.0f}",
        tokens,
    )
