"""What our own files note beside their weights, under one key.

A run's checkpoint has it among its plain values, safetensors that `export` wrote as JSON in the metadata.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .bounds import OutOfBounds, parse_json
from .errors import CheckpointError, first_line
from .hints import Number, fits

KEY = "tome_lightning"
_HINTS: Mapping[str, Any] = {
    "averaged": bool,
    "class_names": list[str] | None,
    "licence": str | None,
    "mean": list[Number],
    "prop_attn": bool,
    "r": int | list[int] | dict[str, Number],
    "recipe": str | None,
    "std": list[Number],
    "versions": dict[str, str],
}


def noted(content: Mapping[str, object]) -> Mapping[str, object] | None:
    """What a file's content notes; None of files that are not ours."""
    ours = content.get(KEY)
    return ours if isinstance(ours, Mapping) else None


def of_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, object]:
    """What the metadata of safetensors notes, under the keys that a run's checkpoint has.

    Raises:
        CheckpointError: The note is no JSON, or too large.
    """
    if KEY not in metadata:
        return {}
    try:
        ours = parse_json(metadata[KEY])
    except OutOfBounds as error:
        raise CheckpointError(f"{path} is refused, for its {KEY} metadata: {error}") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} has {KEY} metadata that is no JSON ({first_line(error)}): export it again"
        ) from error
    content: dict[str, object] = {KEY: ours}
    if isinstance(ours, Mapping) and "hyper_parameters" in ours:
        content["hyper_parameters"] = ours["hyper_parameters"]
    return content


def exported(path: Path) -> dict[str, Any]:
    """What `export` noted beside weights, as far as it has the types that `export` writes.

    Returns:
        Empty for other files, also damaged ones: what reads the weights says what is wrong.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            ours = noted(of_metadata(path, file.metadata() or {})) or {}
    except (SafetensorError, OSError, CheckpointError):
        return {}
    return {name: value for name, value in ours.items() if fits(value, _HINTS.get(name, object))}
