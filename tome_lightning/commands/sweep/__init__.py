"""One model at many r, accuracy against throughput: ``python -m tome_lightning sweep``.

Read in this order: ``rows`` (what is known of one r), ``prepared`` (the model and its data, as
``validate`` makes them), ``measure``, ``table`` (with the verdict), ``plot``.
"""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.sweep.command import main as main
    from tome_lightning.commands.sweep.measure import sweep as sweep
    from tome_lightning.commands.sweep.rows import SweepRow as SweepRow

__getattr__, __all__ = lazily(
    __name__, {".rows": "SweepRow", ".command": "main", ".measure": "sweep"}
)
