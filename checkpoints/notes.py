"""What our own files note beside their weights, under one key.

A run's checkpoint has it among its plain values, safetensors that `export` wrote as JSON in the metadata.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .bounds import OutOfBounds, parse_json
from .errors import CheckpointError

KEY = "tome_lightning"
_MAX_INT = 2**63


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
            f"{path} has {KEY} metadata that is no JSON ({str(error).splitlines()[0]}): export it again"
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
    return {n: value for n, value in ours.items() if n not in _TYPES or _TYPES[n](value)}


def _text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _text_or_none(value: object) -> bool:
    return value is None or _text(value)


def _whole(value: object) -> bool:
    return type(value) is int and abs(value) <= _MAX_INT


def _number(value: object) -> bool:
    return type(value) is float or _whole(value)


def _list_of(one: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(one, value))


def _dict_of(one: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, dict) and all(_text(name) and one(held) for name, held in value.items())
    )


def _r(value: object) -> bool:
    return _whole(value) or _list_of(_whole)(value) or _dict_of(_number)(value)


_TYPES: Mapping[str, Callable[[object], bool]] = {
    "averaged": lambda value: type(value) is bool,
    "class_names": lambda value: value is None or _list_of(_text)(value),
    "licence": _text_or_none,
    "mean": _list_of(_number),
    "prop_attn": lambda value: type(value) is bool,
    "r": _r,
    "recipe": _text_or_none,
    "std": _list_of(_number),
    "versions": _dict_of(_text),
}
