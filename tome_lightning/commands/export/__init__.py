"""A model for other programs: timm weights (safetensors), a torch.export program, ONNX; each checked.

Read in this order: ``export`` (the whole), ``architecture`` (what goes with weights),
``weights``, ``hub_folder``, ``program`` and ``onnx`` (the formats), ``static`` (merging that ONNX can
hold), ``check``.
"""

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily

if TYPE_CHECKING:
    from tome_lightning.commands.export.check import Difference as Difference
    from tome_lightning.commands.export.check import ExportMismatchError as ExportMismatchError
    from tome_lightning.commands.export.command import main as main
    from tome_lightning.commands.export.export import Exported as Exported
    from tome_lightning.commands.export.export import export_model as export_model
    from tome_lightning.tome.static import MergedForInference as MergedForInference

__getattr__, __all__ = lazily(
    __name__,
    {
        ".check": "Difference ExportMismatchError",
        ".export": "Exported export_model",
        "tome_lightning.tome.static": "MergedForInference",
        ".command": "main",
    },
)
