"""Who reads a step's figures for the screen, and when."""

from __future__ import annotations

from typing import Any


def at_each_batch(trainer: Any) -> bool:
    """Whether a run's bar is to be given figures (``prog_bar``), which Lightning reads at each batch.

    To read a CUDA tensor is to wait for the whole step. Our own bar reads at its refreshes instead
    (``reads_figures``), and without a bar nobody reads; another bar knows no other way.
    """
    bar = trainer.progress_bar_callback
    return bar is not None and not getattr(bar, "reads_figures", False)
