"""What a run's checkpoint says of how it was made."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tome_lightning.arguments import UsageError

INDENT: Any = {"initial_indent": "  ", "subsequent_indent": "  ", "break_on_hyphens": False}
TRUSTED = ("tome_lightning.", "datamodules.")  # packages a checkpoint may name classes of


class SavedConfig(NamedTuple):
    """``model`` and ``data`` as the run that wrote the checkpoint had them, and its recipe."""

    config: dict[str, Any]
    recipe: str | None


def checkpoint_config(path: Path, verb: str, recipe_given: bool) -> SavedConfig:
    """Read a run's config from its checkpoint, safely.

    Args:
        path: The checkpoint.
        verb: ``fit`` goes on as the run was, so it also takes ``trainer``, ``tome`` and the seed.
        recipe_given: Whether a recipe can supply what is not taken from the checkpoint: classes that
            are not ours are never imported because a checkpoint names them.

    Raises:
        UsageError: If the file is no checkpoint of ours, is truncated, holds anything but tensors
            and plain values, or names foreign classes and there is no recipe to do so.
    """
    try:
        saved = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:  # torch raises half a dozen kinds for files that are no checkpoints
        reason = " ".join(str(error).split()).split(" (1) ")[0][:160]
        raise UsageError(
            f"--ckpt_path {path} cannot be loaded: it is truncated, no PyTorch checkpoint, or holds "
            f"objects that safe loading refuses ({type(error).__name__}: {reason}). Nothing of it was "
            "run. Use a checkpoint written by this program."
        ) from error
    if not isinstance(saved, dict) or "hyper_parameters" not in saved or "state_dict" not in saved:
        raise UsageError(
            f"--ckpt_path {path} is no checkpoint of a run: it has no hyper-parameters. Weights to "
            "start from (MAE, timm, safetensors files) go to --model.checkpoint."
        )
    ours = saved.get("tome_lightning", {})
    config: dict[str, Any] = {"model": dict(saved["hyper_parameters"])}
    sections = ("data", "tome", "trainer", "seed_everything") if verb == "fit" else ("data",)
    config |= {name: ours[name] for name in sections if ours.get(name) is not None}
    foreign: list[str] = []
    config = _without_foreign_classes(config, "", foreign)
    if foreign and not recipe_given:
        raise UsageError(
            f"{path} names classes that are not ours, and a checkpoint's word is not enough to import "
            f"them: {', '.join(foreign)}. Name them in a recipe (--recipe FILE; the run's own "
            "config.yaml will do)."
        )
    return SavedConfig(config, ours.get("recipe"))


def describe_taken(saved: dict[str, Any], used: dict[str, Any], path: Path | None) -> str:
    """Which values came from the checkpoint, and which of its values were overruled."""
    taken, overruled = [], []
    for key, value in sorted(_flat(saved).items()):
        now = _flat(used).get(key)
        if now == value:
            taken.append(f"{key}={value}")
        else:
            overruled.append(f"{key}={now} (the checkpoint has {value})")
    lines = [f"Taken from {path}:", *textwrap.wrap(", ".join(taken), 100, **INDENT)]
    if overruled:
        lines.append("Overruled by recipe or command line:")
        lines += textwrap.wrap(", ".join(overruled), 100, **INDENT)
    return "\n".join(lines)


def _without_foreign_classes(value: Any, name: str, foreign: list[str]) -> Any:
    """The config without the parts that name classes of others, which ``foreign`` collects."""
    if isinstance(value, dict):
        kept = {}
        for key, item in value.items():
            where = f"{name}.{key}" if name else str(key)
            found = len(foreign)
            cleaned = _without_foreign_classes(item, where, foreign)
            if isinstance(item, dict) and not _trusted(item):
                foreign.append(f"{where}={item['class_path']}")
            elif not isinstance(item, list) or len(foreign) == found:
                kept[key] = cleaned
        return kept
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict) and not _trusted(item):
                foreign.append(f"{name}={item['class_path']}")
            _without_foreign_classes(item, name, foreign)
    return value


def _trusted(value: dict[str, Any]) -> bool:
    return str(value.get("class_path", TRUSTED[0])).startswith(TRUSTED)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return {key.replace(".init_args.", "."): value for key, value in flat.items()}
