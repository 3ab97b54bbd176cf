"""A model for other programs: timm weights (safetensors), a torch.export program, ONNX; each checked.

Read in this order: ``export`` (the whole), ``origin`` and ``architecture`` (what goes with weights),
``weights``, ``program`` and ``onnx`` (the formats), ``static`` (merging that ONNX can hold), ``check``.
"""

from tome_lightning.exporting.check import Difference, ExportMismatchError
from tome_lightning.exporting.export import Exported, export_model
from tome_lightning.exporting.static import MergedForInference

__all__ = ["Difference", "ExportMismatchError", "Exported", "MergedForInference", "export_model"]
