"""How fast merging makes a model, measured: ``python -m tome_lightning benchmark``.

Read in this order: ``tome.macs`` (what merging can bring), ``timm_model`` and ``commands.loaded`` (what
is measured), ``measure`` (dense and merged in turn, over ``timing`` and ``profiling``), ``report`` and
``plot``.
"""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.benchmark.bench import benchmark
    from tome_lightning.commands.benchmark.command import main
    from tome_lightning.commands.benchmark.rows import Row
    from tome_lightning.tome.macs import Macs, counted_macs, macs

__all__ = ["Macs", "Row", "benchmark", "counted_macs", "macs", "main"]

__getattr__ = lazily(
    __name__,
    {
        "Macs": "tome_lightning.tome.macs",
        "Row": "tome_lightning.commands.benchmark.rows",
        "benchmark": "tome_lightning.commands.benchmark.bench",
        "counted_macs": "tome_lightning.tome.macs",
        "macs": "tome_lightning.tome.macs",
        "main": "tome_lightning.commands.benchmark.command",
    },
)
