"""How fast merging makes a model, measured: ``python -m tome_lightning benchmark``.

Read in this order: ``tome.macs`` (what merging can bring), ``timm_model`` and ``commands.loaded`` (what
is measured), ``measure`` (dense and merged in turn, over ``timing`` and ``profiling``), ``report`` and
``plot``.
"""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.benchmark.bench import benchmark as benchmark
    from tome_lightning.commands.benchmark.command import main as main
    from tome_lightning.commands.benchmark.rows import Row as Row
    from tome_lightning.tome.macs import Macs as Macs
    from tome_lightning.tome.macs import counted_macs as counted_macs
    from tome_lightning.tome.macs import macs as macs

__getattr__, __all__ = lazily(
    __name__,
    {
        "tome_lightning.tome.macs": "Macs counted_macs macs",
        ".rows": "Row",
        ".bench": "benchmark",
        ".command": "main",
    },
)
