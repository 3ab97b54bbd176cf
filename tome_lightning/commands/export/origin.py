"""Where exported weights come from: what they are of, and what may be done with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checkpoints
import recipes
from checkpoints.licence import licence_of
from checkpoints.reading import read
from tome_lightning.arguments import read_yaml
from tome_lightning.trainer.checkpoint_file import read_header


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
