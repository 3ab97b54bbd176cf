"""How fast merging makes a model, measured: ``python -m tome_lightning benchmark``.

Read in this order: ``macs`` (what merging can bring), ``case`` (what is measured), ``measure`` (dense
and merged in turn, over ``timing`` and ``profiling``), ``report`` and ``plot``.
"""

from tome_lightning.speed.bench import benchmark
from tome_lightning.speed.macs import Macs, counted_macs, macs
from tome_lightning.speed.rows import Row

__all__ = ["Macs", "Row", "benchmark", "counted_macs", "macs"]
