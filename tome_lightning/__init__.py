"""Fine-tune MAE-pretrained Vision Transformers with Token Merging, and run them twice as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tome_lightning.lazy import lazily
from tome_lightning.moved import know_old_names
from tome_lightning.siblings import check_own
from tome_lightning.version import __version__ as __version__

if TYPE_CHECKING:
    from tome_lightning.callbacks import ToMeCallback as ToMeCallback
    from tome_lightning.commands.benchmark import benchmark as benchmark
    from tome_lightning.commands.compare.runs import compare as compare
    from tome_lightning.commands.doctor.command import doctor as doctor
    from tome_lightning.commands.export import export_model as export_model
    from tome_lightning.commands.fit import fit as fit
    from tome_lightning.commands.inspect.facts import inspect_checkpoint as inspect_checkpoint
    from tome_lightning.commands.loaded import LoadedModel as LoadedModel
    from tome_lightning.commands.loaded import load_model as load_model
    from tome_lightning.commands.pack.packing import pack as pack
    from tome_lightning.commands.scan.walk import scan as scan
    from tome_lightning.commands.sweep import sweep as sweep
    from tome_lightning.commands.visualize import visualize as visualize
    from tome_lightning.finetune import FineTune as FineTune
    from tome_lightning.inputs import Clip as Clip
    from tome_lightning.inputs import Image as Image
    from tome_lightning.inputs import Spectrogram as Spectrogram
    from tome_lightning.tasks import MultiLabel as MultiLabel
    from tome_lightning.tasks import SingleLabel as SingleLabel
    from tome_lightning.tome import RSchedule as RSchedule
    from tome_lightning.tome import TokenState as TokenState
    from tome_lightning.tome import ToMeViT as ToMeViT
    from tome_lightning.tome import patch as patch

_HOMES = {
    ".inputs": "Clip Image Spectrogram",
    ".finetune": "FineTune",
    ".commands.loaded": "LoadedModel load_model",
    ".tasks": "MultiLabel SingleLabel",
    ".tome": "RSchedule ToMeViT TokenState patch",
    ".callbacks": "ToMeCallback",
    ".commands.benchmark": "benchmark",
    ".commands.compare": "compare",
    ".commands.doctor": "doctor",
    ".commands.export": "export_model",
    ".commands.fit": "fit",
    ".commands.inspect": "inspect_checkpoint",
    ".commands.pack": "pack",
    ".commands.scan": "scan",
    ".commands.sweep": "sweep",
    ".commands.visualize": "visualize",
}
know_old_names()
# Imported on first use: ``--help`` answers without torch.
__getattr__, __all__ = lazily(__name__, _HOMES, before=check_own)
__all__ += ["__version__"]
