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


def checkpoint_config(path: Path) -> SavedConfig:
    """Read a run's config from its checkpoint, safely.

    Raises:
        UsageError: If the file is no checkpoint of ours, is truncated, or holds anything but tensors
            and plain values.
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
    config = {"model": dict(saved["hyper_parameters"])}
    if ours.get("data"):
        config["data"] = ours["data"]
    _check_classes(config, path)
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


def _check_classes(value: Any, path: Path) -> None:
    if isinstance(value, dict):
        name = value.get("class_path")
        if isinstance(name, str) and not name.startswith(TRUSTED):
            raise UsageError(
                f"{path} names the class {name}, which is not one of ours, so it was not imported. "
                "Name it in a recipe of your own (--recipe FILE)."
            )
        for item in value.values():
            _check_classes(item, path)
    elif isinstance(value, list):
        for item in value:
            _check_classes(item, path)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return {key.replace(".init_args.", "."): value for key, value in flat.items()}
