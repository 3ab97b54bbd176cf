"""The weights of a folder in the Hub's layout: one file, or shards with an index."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from .bounds import read_fetched
from .errors import CheckpointError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of the file, the first choice first; each may be in shards, with `NAME.index.json`."""
_CARD = 20_000  # characters of a card that are looked at


def card_licence(folder: Path) -> str | None:
    """The licence that a folder's card (README.md) states in its header; None without one."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")[:_CARD]
    except (OSError, UnicodeDecodeError):
        return None
    match = re.search(
        r"\A---\s.*?^license:\s*[\"']?([\w.+-]+).*?^---", text, re.DOTALL | re.MULTILINE
    )
    return match[1] if match else None


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights, all or some of them."""
    return any(
        (folder / f"{name}{end}").is_file() for name in WEIGHTS for end in ("", ".index.json")
    )


def weight_files(folder: Path) -> list[Path]:
    """The files that a folder's weights are in.

    Raises:
        CheckpointError: There are none, or shards are missing.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise CheckpointError(
        f"{folder} has a config.json and no weights ({' or '.join(WEIGHTS)}), a download that was "
        "stopped, perhaps: fetch it again"
    )


def _shards(index: Path) -> list[Path]:
    content = read_fetched(index)
    places = content.get("weight_map") if isinstance(content, Mapping) else None
    names = sorted({str(name) for name in places.values()}) if isinstance(places, Mapping) else []
    if not names:
        raise CheckpointError(f"{index} names no shards: fetch it again")
    if strange := [name for name in names if Path(name).name != name or "\\" in name]:
        raise CheckpointError(
            f"{index} is refused: it names {strange[0]!r}, which is no file of its own folder"
        )
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of its {len(names)} shards ({missing[0]}), a download "
            "that was stopped: fetch it again"
        )
    return [index.parent / name for name in names]


def merged(files: list[Path], read: Callable[[Path], Mapping[str, object]]) -> dict[str, object]:
    """The content of all files; a name that two of them have is refused."""
    content: dict[str, object] = {}
    for file in files:
        part = read(file)
        if twice := content.keys() & part.keys():
            raise CheckpointError(f"{file} has {sorted(twice)[0]} that another shard has, too")
        content |= part
    return content
