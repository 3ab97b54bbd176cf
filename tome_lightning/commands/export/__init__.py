"""A model for other programs: timm weights (safetensors), a torch.export program, ONNX; each checked.

Read in this order: ``export`` (the whole), ``origin`` and ``architecture`` (what goes with weights),
``weights``, ``hub_folder``, ``program`` and ``onnx`` (the formats), ``static`` (merging that ONNX can
hold), ``check``.
"""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.export.check import Difference, ExportMismatchError
    from tome_lightning.commands.export.command import main
    from tome_lightning.commands.export.export import Exported, export_model
    from tome_lightning.tome.static import MergedForInference

__all__ = [
    "Difference",
    "ExportMismatchError",
    "Exported",
    "MergedForInference",
    "export_model",
    "main",
]

__getattr__ = lazily(
    __name__,
    {
        "Difference": "tome_lightning.commands.export.check",
        "ExportMismatchError": "tome_lightning.commands.export.check",
        "Exported": "tome_lightning.commands.export.export",
        "MergedForInference": "tome_lightning.tome.static",
        "export_model": "tome_lightning.commands.export.export",
        "main": "tome_lightning.commands.export.command",
    },
)
