"""Fine-tune MAE-pretrained Vision Transformers with Token Merging, and run them twice as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tome_lightning.callbacks import ToMeCallback
    from tome_lightning.commands.doctor import doctor
    from tome_lightning.commands.scanning import scan
    from tome_lightning.comparison import compare
    from tome_lightning.exporting import export_model
    from tome_lightning.finetune import FineTune
    from tome_lightning.inputs import Clip, Image, Spectrogram
    from tome_lightning.inspection import inspect_checkpoint
    from tome_lightning.loaded import LoadedModel, load_model
    from tome_lightning.notebook import fit
    from tome_lightning.pictures import visualize
    from tome_lightning.speed import benchmark
    from tome_lightning.sweeping import sweep
    from tome_lightning.tasks import MultiLabel, SingleLabel
    from tome_lightning.tome import RSchedule, TokenState, ToMeViT, patch

_HOMES = {
    "Clip": "tome_lightning.inputs",
    "FineTune": "tome_lightning.finetune",
    "Image": "tome_lightning.inputs",
    "LoadedModel": "tome_lightning.loaded",
    "MultiLabel": "tome_lightning.tasks",
    "RSchedule": "tome_lightning.tome",
    "SingleLabel": "tome_lightning.tasks",
    "Spectrogram": "tome_lightning.inputs",
    "ToMeCallback": "tome_lightning.callbacks",
    "ToMeViT": "tome_lightning.tome",
    "TokenState": "tome_lightning.tome",
    "benchmark": "tome_lightning.speed",
    "compare": "tome_lightning.comparison",
    "doctor": "tome_lightning.commands.doctor",
    "export_model": "tome_lightning.exporting",
    "fit": "tome_lightning.notebook",
    "inspect_checkpoint": "tome_lightning.inspection",
    "load_model": "tome_lightning.loaded",
    "patch": "tome_lightning.tome",
    "scan": "tome_lightning.commands.scanning",
    "sweep": "tome_lightning.sweeping",
    "visualize": "tome_lightning.pictures",
}
__all__ = [
    "Clip",
    "FineTune",
    "Image",
    "LoadedModel",
    "MultiLabel",
    "RSchedule",
    "SingleLabel",
    "Spectrogram",
    "ToMeCallback",
    "ToMeViT",
    "TokenState",
    "benchmark",
    "compare",
    "doctor",
    "export_model",
    "fit",
    "inspect_checkpoint",
    "load_model",
    "patch",
    "scan",
    "sweep",
    "visualize",
]


def __getattr__(name: str) -> Any:
    # Imported on first use: ``--help`` answers without torch.
    if name in _HOMES:
        from importlib import import_module

        from tome_lightning.siblings import check_own

        check_own()
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tome_lightning' has no attribute {name!r}")
