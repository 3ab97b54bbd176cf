"""Read a checkpoint file without running anything in it."""

import argparse
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .bounds import OutOfBounds, check_archive, check_values, parse_json
from .errors import CheckpointError
from .layout import some

_CONTAINERS = ("model", "model_state", "module", "state_dict")
_OURS = "model.vit."

# Training saves hold their command line: a Namespace with paths. Paths are read as pure ones,
# which every system can build: a PosixPath cannot be made on Windows. (3.13 moved the module.)
_SAFE_GLOBALS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    argparse.Namespace,
    *(
        (pure, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for pure, names in (
            (pathlib.PurePosixPath, ("PosixPath", "PurePosixPath")),
            (pathlib.PureWindowsPath, ("WindowsPath", "PureWindowsPath")),
        )
        for name in names
    ),
]


class Checkpoint(NamedTuple):
    """A file's weights under the names the file gives them, wrappers taken off."""

    weights: dict[str, Tensor]
    # What a checkpoint of ours says of itself: the family, and of spectrograms the patches over
    # time and over the mels, which the table of positions does not tell.
    family: str | None
    mel_grid: tuple[int, int] | None
    averaged: bool = False  # the weights are an average over training


def state_dict_of(path: str | pathlib.Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, on the CPU.

    `.safetensors` and whatever `torch.save` wrote. Containers (`model`, `model_state`, `module`,
    `state_dict`) are opened and the prefixes of DDP, torch.compile and our Lightning module are
    stripped; of a Lightning checkpoint of ours only the ViT is returned.

    Raises:
        CheckpointError: no such file, a directory, empty, truncated, no checkpoint, or a pickle
            that asks for anything but tensors and plain values (which is not run).
    """
    return read(pathlib.Path(path)).weights


def read(path: pathlib.Path) -> Checkpoint:
    """`state_dict_of`, and what a checkpoint of ours says of itself."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory, not a checkpoint: name the file inside it")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}: check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes), an interrupted copy: fetch it again")
    try:
        content = _safetensors(path) if path.suffix == ".safetensors" else _torch_save(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened ({_first_line(error)})") from error
    inner = _unwrap(content)
    weights = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(
            f"{path} holds no weights, only {some(map(str, inner))}: "
            f"expected tensors at the top or under one of {', '.join(_CONTAINERS)}"
        )
    ours = content.get("tome_lightning")
    averaged = "averaging_state" in content  # of Lightning's weight averaging
    averaged = averaged or (isinstance(ours, Mapping) and bool(ours.get("averaged")))  # an export
    return Checkpoint(_plain_names(weights), _family(content), _mel_grid(content), averaged)


def _safetensors(path: pathlib.Path) -> Mapping[str, object]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            content: dict[str, object] = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({_first_line(error)}), "
            "it is truncated or something else: fetch it again"
        ) from error
    if "tome_lightning" in metadata:  # safetensors keeps strings only
        try:
            ours = parse_json(metadata["tome_lightning"])
            content["tome_lightning"] = ours
            if isinstance(ours, Mapping) and "hyper_parameters" in ours:  # as in a run's checkpoint
                content["hyper_parameters"] = ours["hyper_parameters"]
        except OutOfBounds as error:
            raise CheckpointError(
                f"{path} is refused, for its tome_lightning metadata: {error}"
            ) from error
        except ValueError as error:
            raise CheckpointError(
                f"{path} has tome_lightning metadata that is no JSON ({_first_line(error)}): "
                "export it again"
            ) from error
    return content


def _torch_save(path: pathlib.Path) -> Mapping[str, object]:
    with path.open("rb") as file:
        start = file.read(16)
    zipped = zipfile.is_zipfile(path)
    if start.startswith(b"PK\x03\x04") and not zipped:
        raise CheckpointError(
            f"{path} is truncated: a torch archive that stops at {path.stat().st_size} bytes, "
            "an interrupted copy: fetch it again"
        )
    try:
        if zipped:
            check_archive(path)
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        check_values(content)
    except OutOfBounds as error:
        raise CheckpointError(f"{path} is refused: {error}") from error
    except Exception as error:  # on garbage the unpickler raises anything
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path} is refused: its pickle asks for {asked[1].rstrip('.')}, and only tensors "
                "and plain values are read, since a pickle can run any code: "
                "save its state dict alone, as safetensors"
            ) from error
        raise CheckpointError(
            f"{path} is no checkpoint that torch.save wrote, or is damaged: it starts with "
            f"{start!r} and reading it ended in {type(error).__name__}: fetch it again, "
            "or save its state dict anew"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a state dict: save model.state_dict()"
        )
    return content


def _unwrap(content: Mapping[str, object], depth: int = 2) -> Mapping[str, object]:
    for key in _CONTAINERS if depth else ():  # a dict in a pickle can hold itself
        if isinstance(inner := content.get(key), Mapping):
            return _unwrap(inner, depth - 1)
    return content


def _plain_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    ours = {k.removeprefix(_OURS): v for k, v in weights.items() if k.startswith(_OURS)}
    return ours or weights


def _family(content: Mapping[str, object]) -> str | None:
    ours = content.get("tome_lightning")
    family = ours.get("family") if isinstance(ours, Mapping) else None
    return family if isinstance(family, str) else None


def _mel_grid(content: Mapping[str, object]) -> tuple[int, int] | None:
    given = content.get("hyper_parameters") if _family(content) else None
    given = given.get("input") if isinstance(given, Mapping) else None
    sizes = given.get("init_args") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(sizes, Mapping):
        return None
    if not str(given.get("class_path")).endswith(".Spectrogram"):
        return None
    numbers = [sizes.get(name) for name in ("frames", "mels", "patch", "stride")]
    plain = [number for number in numbers if isinstance(number, int) and number > 0]
    if len(plain) != len(numbers):
        return None
    frames, mels, patch, stride = plain
    return (frames - patch) // stride + 1, (mels - patch) // stride + 1


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
