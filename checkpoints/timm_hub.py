"""Weights that timm publishes, by timm's names (`vit_base_patch16_224.mae`)."""

from typing import Any

import timm
import torch
from timm.models import VisionTransformer, get_pretrained_cfg
from torch import Tensor

from .errors import CheckpointError, first_line


def is_timm_name(name: str) -> bool:
    """Whether timm knows a model, or a model and tag, of this name."""
    try:
        return get_pretrained_cfg(name, allow_unregistered=False) is not None
    except RuntimeError:  # an unknown model, or a known one with an unknown tag
        return False


def family_of(name: str) -> str:
    """`mae` for timm's copies of the MAE encoders, `timm` for every other tag."""
    config = get_pretrained_cfg(name)
    return "mae" if config is not None and config.tag == "mae" else "timm"


def skeleton(name: str) -> VisionTransformer:
    """The model a timm name stands for, without values (on the meta device).

    Raises CheckpointError when timm has no weights under that name or the model is no plain ViT.
    """
    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise CheckpointError(f"timm publishes no weights for {name}: choose a name with a tag")
    return build(name, {})


def build(name: str, args: dict[str, Any]) -> VisionTransformer:
    """A model of timm's, without values (on the meta device).

    Raises CheckpointError when timm has no such model or it is no plain ViT.
    """
    try:
        with torch.device("meta"):
            model = timm.create_model(name, **args)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise CheckpointError(
            f"timm cannot build {name} ({first_line(error)}): update timm"
        ) from error
    if not isinstance(model, VisionTransformer):
        raise CheckpointError(
            f"{name} is timm's {type(model).__name__}, not a VisionTransformer, whose tokens are "
            "the ones that can be merged: choose a vit_* or deit_* name"
        )
    return model


def weights_of(name: str) -> dict[str, Tensor]:
    """The published values, through timm's own download, cache and conversion."""
    skeleton(name)
    try:
        with torch.random.fork_rng(devices=[]):  # values drawn here and overwritten at once
            model = timm.create_model(name, pretrained=True)
    except Exception as error:  # each transport and hub has its own errors
        raise CheckpointError(
            f"timm could not fetch {name} ({type(error).__name__}: {first_line(error)}): connect this "
            f"machine, or download the file {_where(name)} elsewhere, put it anywhere here and give its "
            "path"
        ) from error
    weights: dict[str, Tensor] = model.state_dict()
    return weights


def _where(name: str) -> str:
    config = get_pretrained_cfg(name)
    if config is not None and config.hf_hub_id:
        return f"model.safetensors of {config.hf_hub_id} (Hugging Face hub)"
    return str(config.url) if config is not None and config.url else "of these weights"
