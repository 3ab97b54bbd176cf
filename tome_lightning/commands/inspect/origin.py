"""Where exported weights come from: what they are of, and what may be done with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg

import checkpoints
import recipes
from checkpoints.reading import read
from checkpoints.sources import LICENCE
from tome_lightning.arguments import read_yaml
from tome_lightning.commands.loaded import exported, is_run_checkpoint
from tome_lightning.trainer.checkpoint_file import read_header

# Families whose published files are all under that licence; a run of ours has two of the names, too.
NON_COMMERCIAL = ("mae", "tome", "mae_st", "audiomae", "videomae")


@dataclass(frozen=True)
class Origin:
    """What a `LoadedModel` does not say of its weights.

    Attributes:
        family: As ``checkpoints`` calls it: decides prop_attn where the file is loaded again.
        vit: Arguments of timm's VisionTransformer beyond those of the input.
        averaged: Whether the weights are an average over training.
        licence: What is known of it, in words; ``None`` where nothing is.
    """

    family: str = "timm"
    vit: dict[str, Any] = field(default_factory=dict)
    averaged: bool = False
    licence: str | None = None


def find_origin(
    model: str | None = None,
    ckpt: str | Path | None = None,
    recipe: str | None = None,
    random_weights: bool = False,
    which: checkpoints.Which | None = None,
) -> Origin:
    """The origin of what ``load_model`` has opened with the same arguments."""
    vit: dict[str, Any] = {}
    weights: str | Path | None = None if random_weights else ckpt or model
    if recipe is not None:
        section = read_yaml(recipes.path(recipe)).get("model") or {}
        vit = dict(section.get("vit") or {})
        weights = None if random_weights else ckpt or section.get("checkpoint")
        which = which or section.get("weights")
    elif model is None and ckpt is not None:
        return _of_run(Path(ckpt))
    if weights is None:
        return Origin(vit=vit)
    file = Path(weights)
    averaged = file.is_file() and read(file, which).averaged
    family = checkpoints.identify(str(weights)).family
    return Origin(family, vit, averaged, licence_of(weights))


def _of_run(path: Path) -> Origin:
    saved = read_header(path)
    given = saved["hyper_parameters"]
    family = saved.get("tome_lightning", {}).get("family")
    family = family if family in checkpoints.PROP_ATTN else "timm"
    averaged = "averaging_state" in saved
    start = given.get("checkpoint")
    licence = licence_of(start) or (f"follows that of {start}" if start else None)
    return Origin(family, dict(given.get("vit") or {}), averaged, licence)


def licence_of(weights: str | Path | None, depth: int = 8) -> str | None:
    """What is known of the licence of weights: a published name, a timm name or a file.

    Runs of ours are followed back to what they started from, as long as the files are there.

    Args:
        weights: As ``model.checkpoint`` names them; ``None`` for random ones.
        depth: Runs to follow at most.
    """
    if weights is None or not depth:
        return None
    path, name = Path(weights), str(weights)
    if not path.is_file():
        return _of_name(name)
    if is_run_checkpoint(path):
        return licence_of(read_header(path)["hyper_parameters"].get("checkpoint"), depth - 1)
    try:
        if ours := exported(path):
            return ours.get("licence")
        family = checkpoints.identify(path).family
    except checkpoints.CheckpointError:
        return None
    if known := _of_name(path.name):
        return known
    if family in NON_COMMERCIAL:
        return f"weights of the {family} family, whose published files are {LICENCE} (no commercial use)"
    return None


def _of_name(name: str) -> str | None:
    for source in checkpoints.SOURCES.values():
        if name in (source.name, source.file) or Path(name).name == source.file:
            if source.family not in NON_COMMERCIAL or LICENCE not in source.how:
                return f"weights of {source.name}: {source.how}"
            return f"weights of {source.name}, {LICENCE} (no commercial use)"
    try:
        config = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # no name of timm's
        return None
    known = None if config is None else config.license
    return None if not known else f"weights of timm's {name}, {known}"
