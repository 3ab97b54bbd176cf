"""Fine-tune MAE-pretrained Vision Transformers with Token Merging, and run them twice as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tome_lightning.moved import know_old_names
from tome_lightning.version import __version__

if TYPE_CHECKING:
    from tome_lightning.callbacks import ToMeCallback
    from tome_lightning.commands.benchmark import benchmark
    from tome_lightning.commands.compare.runs import compare
    from tome_lightning.commands.doctor.command import doctor
    from tome_lightning.commands.export import export_model
    from tome_lightning.commands.fit import fit
    from tome_lightning.commands.inspect.facts import inspect_checkpoint
    from tome_lightning.commands.loaded import LoadedModel, load_model
    from tome_lightning.commands.pack.packing import pack
    from tome_lightning.commands.scan.walk import scan
    from tome_lightning.commands.sweep import sweep
    from tome_lightning.commands.visualize import visualize
    from tome_lightning.finetune import FineTune
    from tome_lightning.inputs import Clip, Image, Spectrogram
    from tome_lightning.tasks import MultiLabel, SingleLabel
    from tome_lightning.tome import RSchedule, TokenState, ToMeViT, patch

_HOMES = {
    "Clip": "tome_lightning.inputs",
    "FineTune": "tome_lightning.finetune",
    "Image": "tome_lightning.inputs",
    "LoadedModel": "tome_lightning.commands.loaded",
    "MultiLabel": "tome_lightning.tasks",
    "RSchedule": "tome_lightning.tome",
    "SingleLabel": "tome_lightning.tasks",
    "Spectrogram": "tome_lightning.inputs",
    "ToMeCallback": "tome_lightning.callbacks",
    "ToMeViT": "tome_lightning.tome",
    "TokenState": "tome_lightning.tome",
    "benchmark": "tome_lightning.commands.benchmark",
    "compare": "tome_lightning.commands.compare.runs",
    "doctor": "tome_lightning.commands.doctor.command",
    "export_model": "tome_lightning.commands.export",
    "fit": "tome_lightning.commands.fit",
    "inspect_checkpoint": "tome_lightning.commands.inspect.facts",
    "load_model": "tome_lightning.commands.loaded",
    "pack": "tome_lightning.commands.pack.packing",
    "patch": "tome_lightning.tome",
    "scan": "tome_lightning.commands.scan.walk",
    "sweep": "tome_lightning.commands.sweep",
    "visualize": "tome_lightning.commands.visualize",
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
    "__version__",
    "benchmark",
    "compare",
    "doctor",
    "export_model",
    "fit",
    "inspect_checkpoint",
    "load_model",
    "pack",
    "patch",
    "scan",
    "sweep",
    "visualize",
]

know_old_names()


def __getattr__(name: str) -> Any:
    # Imported on first use: ``--help`` answers without torch.
    if name in _HOMES:
        from importlib import import_module

        from tome_lightning.siblings import check_own

        check_own()
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tome_lightning' has no attribute {name!r}")
