"""Small models and checkpoints of runs that were never trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch

from tome_lightning.finetune import FineTune
from tome_lightning.inputs import Image, Input
from tome_lightning.tasks import MultiLabel, SingleLabel

from ...tome.tiny import randomise

SIZES: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
GREY = Image(size=28, patch=4, channels=1)  # 49 patches


def run_file(
    path: Path, input: Input = GREY, *, classes: int = 5, averaged: bool = False, **options: Any
) -> Path:
    """A run's checkpoint with random weights, whose tokens differ enough to be told apart."""
    multi = options.pop("multi_label", False)
    task = MultiLabel(classes) if multi else SingleLabel(classes)
    vit = {**SIZES, "drop_path_rate": 0.1, **options.pop("vit", {})}
    module = FineTune(input, task, vit=vit, **{"r": 8, "prop_attn": True, **options})
    randomise(module.vit)
    module.class_names = [f"class {i}" for i in range(classes)]
    saved: dict[str, Any] = {
        "epoch": 0, "global_step": 1, "pytorch-lightning_version": lightning.__version__,
        "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams),
    }  # fmt: skip
    module.on_save_checkpoint(saved)
    if averaged:
        saved["averaging_state"] = {"n_averaged": 2}
    torch.save(saved, path)
    return path
