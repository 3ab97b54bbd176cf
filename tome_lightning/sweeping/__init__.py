"""One model at many r, accuracy against throughput: ``python -m tome_lightning sweep``.

Read in this order: ``rows`` (what is known of one r), ``prepared`` (the model and its data, as
``validate`` makes them), ``measure``, ``table`` (with the verdict), ``plot``.
"""

from tome_lightning.sweeping.measure import sweep
from tome_lightning.sweeping.rows import SweepRow

__all__ = ["SweepRow", "sweep"]
