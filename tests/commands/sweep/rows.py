"""Rows of a sweep as one would have measured them."""

from typing import Any

from tome_lightning.commands.sweep import SweepRow
from tome_lightning.tome import R, layer_plan

TOKENS, DEPTH = 50, 6


def row(r: R, value: float | None = 0.9, speedup: float | None = 1.0, **changes: Any) -> SweepRow:
    """A row of a model of 50 tokens and 6 blocks; dense has 90% and 100 samples a second."""
    merged = sum(layer_plan(r, DEPTH, TOKENS, 1))
    given: dict[str, Any] = {
        "name": "digits/0", "checkpoint": "best.ckpt", "recipe": "quickstart", "r": r,
        "prop_attn": True, "tokens_in": TOKENS, "tokens_out": TOKENS - merged,
        "macs": 1_000_000 - 10_000 * merged, "mac_ratio": speedup, "metric": "top1", "value": value,
        "delta": None if value is None else value - 0.9,
        "samples": 50_000, "samples_per_s": 100 * (speedup or 0),
        "speedup": speedup, "realised": 1.0, "device": "cpu", "device_name": "CPU",
        "dtype": "float32", "batch": 8, "ms": 80 / (speedup or 1), "measured_on": "50000 samples",
    }  # fmt: skip
    return SweepRow(**{**given, **changes})
