"""Fine-tune MAE-pretrained Vision Transformers with Token Merging, and run them twice as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tome_lightning.callbacks import ToMeCallback
    from tome_lightning.cli import fit
    from tome_lightning.commands.scanning import scan
    from tome_lightning.finetune import FineTune
    from tome_lightning.inputs import Clip, Image, Spectrogram
    from tome_lightning.speed import benchmark
    from tome_lightning.tasks import MultiLabel, SingleLabel
    from tome_lightning.tome import RSchedule, TokenState, ToMeViT, patch

_HOMES = {
    "Clip": "tome_lightning.inputs",
    "FineTune": "tome_lightning.finetune",
    "Image": "tome_lightning.inputs",
    "MultiLabel": "tome_lightning.tasks",
    "RSchedule": "tome_lightning.tome",
    "SingleLabel": "tome_lightning.tasks",
    "Spectrogram": "tome_lightning.inputs",
    "ToMeCallback": "tome_lightning.callbacks",
    "ToMeViT": "tome_lightning.tome",
    "TokenState": "tome_lightning.tome",
    "benchmark": "tome_lightning.speed",
    "fit": "tome_lightning.cli",
    "patch": "tome_lightning.tome",
    "scan": "tome_lightning.commands.scanning",
}
__all__ = [
    "Clip",
    "FineTune",
    "Image",
    "MultiLabel",
    "RSchedule",
    "SingleLabel",
    "Spectrogram",
    "ToMeCallback",
    "ToMeViT",
    "TokenState",
    "benchmark",
    "fit",
    "patch",
    "scan",
]


def __getattr__(name: str) -> Any:
    # Imported on first use: ``--help`` answers without torch.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tome_lightning' has no attribute {name!r}")
