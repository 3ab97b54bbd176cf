"""What a sweep says of one r, and the JSON that keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from checkpoints.bounds import read_json
from tome_lightning.commands.r_words import r_label
from tome_lightning.errors import UsageError
from tome_lightning.tome import R


@dataclass(frozen=True)
class SweepRow:
    """One r of one model. What is not measured yet is None.

    Attributes:
        name: Of the model, as the picture's legend has it.
        checkpoint: Where its weights come from.
        tokens_out: Tokens that leave the last block, prefix tokens included.
        macs: Multiply-accumulates of one view's forward pass, without what merging costs.
        mac_ratio: Dense / merged.
        metric: The task's own: top1, mAP.
        value: Of the metric, as a fraction.
        delta: value less that of the dense model.
        metrics: All of the task's.
        samples: Samples that the metrics were measured on.
        measured_on: The same in words: views, labels.
        limited: Batches the data was cut off after; None for all of it.
        samples_per_s: Forward passes of single views, without data: median of the timed rounds.
        ms: Of a batch, median; with the fastest and the slowest round.
        speedup: Over the dense model, timed in turn with it.
        realised: speedup / mac_ratio.
        dtype: What autocast computes in while the speed is measured.
        batch: Views in a timed batch.
    """

    name: str
    checkpoint: str
    recipe: str | None
    r: R
    prop_attn: bool
    tokens_in: int
    tokens_out: int
    macs: int
    mac_ratio: float
    metric: str
    value: float | None = None
    delta: float | None = None
    samples: int | None = None
    samples_per_s: float | None = None
    speedup: float | None = None
    realised: float | None = None
    device: str = ""
    device_name: str = ""
    dtype: str = ""
    batch: int | None = None
    ms: float | None = None
    ms_min: float | None = None
    ms_max: float | None = None
    stage: str = "val"
    measured_on: str = ""
    limited: int | None = None
    metrics: dict[str, float] | None = None
    torch: str = ""

    @property
    def dense(self) -> bool:
        """Whether nothing merges."""
        return self.tokens_out == self.tokens_in

    @property
    def constant(self) -> bool:
        """Whether every block merges the same r: such rows make a line, schedules are points."""
        return isinstance(self.r, int)

    @property
    def label(self) -> str:
        """dense, r=8, r=8:-1, keep=0.9."""
        return "dense" if self.dense else r_label(self.r)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_rows(path: Path) -> list[SweepRow]:
    """The rows of another sweep.

    Raises:
        UsageError: The file cannot be read or is none that ``sweep --json`` wrote.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise UsageError(f"--add {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"--add {path} is no JSON: {error}.") from error
    known = {field.name for field in fields(SweepRow)}
    try:
        rows = [SweepRow(**{key: row[key] for key in known & row.keys()}) for row in content]
        fine = bool(rows) and all(
            isinstance(number, int)
            for row in rows
            for number in (row.tokens_in, row.tokens_out, row.macs)
        )
    except (TypeError, AttributeError):
        fine = False
    if not fine:
        raise UsageError(f"--add {path} holds no rows of a sweep. Give what sweep --json wrote.")
    return rows


def series(rows: Sequence[SweepRow]) -> dict[str, list[SweepRow]]:
    """The rows of each run, by a name that tells it from the others."""
    groups: dict[tuple[Any, ...], list[SweepRow]] = {}
    for row in rows:
        groups.setdefault(_identity(row), []).append(row)
    firsts = [group[0] for group in groups.values()]
    named: dict[str, list[SweepRow]] = {}
    for group in groups.values():
        label = _distinguish(group[0], firsts)
        while label in named:  # the same run, measured twice
            label += "'"
        named[label] = group
    return named


def _identity(row: SweepRow) -> tuple[Any, ...]:
    measured = (row.device_name, row.dtype, row.batch, row.stage, row.limited)
    return (row.name, row.checkpoint, row.prop_attn, row.metric, *measured)


def _distinguish(row: SweepRow, others: Sequence[SweepRow]) -> str:
    same = [other for other in others if other.name == row.name]
    words = [row.name]
    if any(other.prop_attn != row.prop_attn for other in same):
        words.append(f"prop_attn {'on' if row.prop_attn else 'off'}")
    for value in ("dtype", "batch", "device_name"):
        if any(getattr(other, value) != getattr(row, value) for other in others):
            words.append(f"batch {row.batch}" if value == "batch" else str(getattr(row, value)))
    return ", ".join(words)
