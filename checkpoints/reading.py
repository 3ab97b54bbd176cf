"""Read a checkpoint file without running anything in it."""

import argparse
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from . import notes
from .bounds import OutOfBounds, check_archive, check_values
from .errors import CheckpointError, first_line
from .hub_config import ModelConfig, is_hub_folder, read_config
from .hub_folder import merged, weight_files
from .layout import some
from .sets import CONTAINERS, Which, choose, unwrapped, weight_sets

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
    """A file's weights under the encoder's own names, wrappers and prefixes taken off."""

    weights: dict[str, Tensor]
    # What a checkpoint of ours says of itself: the family, and of spectrograms the patches over
    # time and over the mels, which the table of positions does not tell.
    family: str | None
    mel_grid: tuple[int, int] | None
    run: bool = False  # a run's checkpoint, with `started_from` its model.checkpoint
    started_from: str | None = None
    taken: Which = "live"  # "ema": the weights are an average over training
    held: Mapping[Which, str] = MappingProxyType({})  # each set of weights, as the file calls it
    beside: tuple[str, ...] = ()  # names of the file that belong to no ViT
    data: Mapping[str, object] | None = None  # of ours: what it notes of its data
    config: ModelConfig | None = None  # of a folder in the Hub's layout

    @property
    def averaged(self) -> bool:
        return self.taken == "ema"


def state_dict_of(path: str | pathlib.Path, weights: Which | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, on the CPU.

    `.safetensors` and whatever `torch.save` wrote. Containers (`model`, `state_dict`, ...) are opened
    and what stands before the encoder's names (`module.`, `backbone.`, `encoder.`, ...) is stripped; of a
    file with a ViT only the ViT is returned, its decoder and head included.

    Args:
        path: the file.
        weights: which set, where there are two: `live` or `ema`, the average over training. By default
            `ema` of a run of ours that averaged, else `live`.

    Raises:
        CheckpointError: no such file, a directory, empty, truncated, no checkpoint, or a pickle
            that asks for anything but tensors and plain values (which is not run).
    """
    return read(pathlib.Path(path), weights).weights


def read(path: pathlib.Path, which: Which | None = None) -> Checkpoint:
    """`state_dict_of`, and what a checkpoint of ours or a folder of the Hub says of itself."""
    if is_hub_folder(path):
        return _read_folder(path, which)
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory, not a checkpoint: name the file inside it")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}: check the path")
    return _checkpoint(path, _content(path), which)


def _read_folder(folder: pathlib.Path, which: Which | None) -> Checkpoint:
    try:
        config = read_config(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} cannot be used: {error}") from None
    content = merged(weight_files(folder), _content)
    return _checkpoint(folder, content, which)._replace(config=config)


def _content(path: pathlib.Path) -> Mapping[str, object]:
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes), an interrupted copy: fetch it again")
    try:
        return _safetensors(path) if path.suffix == ".safetensors" else _torch_save(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened ({first_line(error)})") from error


def _checkpoint(
    path: pathlib.Path, content: Mapping[str, object], which: Which | None
) -> Checkpoint:
    try:
        sets = weight_sets(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from None
    if not sets:
        raise CheckpointError(
            f"{path} holds no weights, only {some(map(str, unwrapped(content)))}: "
            f"expected tensors at the top or under one of {', '.join(CONTAINERS)}"
        )
    try:
        taken, found = choose(sets, which)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from None
    held = {kind: one[0].where for kind, one in sets.items()}
    run = "hyper_parameters" in content and "state_dict" in content
    return Checkpoint(
        found.weights, _text(content, notes.KEY, "family"), _mel_grid(content), run,
        _text(content, "hyper_parameters", "checkpoint"), taken, held, found.beside, _data(content),
    )  # fmt: skip


def _safetensors(path: pathlib.Path) -> Mapping[str, object]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            content: dict[str, object] = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({first_line(error)}), "
            "it is truncated or something else: fetch it again"
        ) from error
    return content | notes.of_metadata(path, metadata)


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


def _inner(content: object, *keys: str) -> object:
    """What lies under these keys in one another; None where one of them is not there."""
    value = content
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(content: object, *keys: str) -> str | None:
    value = _inner(content, *keys)
    return value if isinstance(value, str) else None


def _data(content: Mapping[str, object]) -> Mapping[str, object] | None:
    """Of a run's checkpoint the options of its data module; an export notes mean and std itself."""
    ours = notes.noted(content)
    if ours is None:
        return None
    given = _inner(ours, "data", "init_args") if isinstance(ours.get("data"), Mapping) else ours
    return given if isinstance(given, Mapping) else {}


def _mel_grid(content: Mapping[str, object]) -> tuple[int, int] | None:
    """Of a spectrogram model of ours its patches over time and over the mels."""
    given = _inner(content, "hyper_parameters", "input")
    ours = isinstance(given, Mapping) and _text(content, notes.KEY, "family") is not None
    if not ours or not str(_inner(given, "class_path")).endswith(".Spectrogram"):
        return None
    sizes = ("frames", "mels", "patch", "stride")
    numbers = [_inner(given, "init_args", name) for name in sizes]
    plain = [number for number in numbers if isinstance(number, int) and number > 0]
    if len(plain) != len(numbers):
        return None
    frames, mels, patch, stride = plain
    return (frames - patch) // stride + 1, (mels - patch) // stride + 1
