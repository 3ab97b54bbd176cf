"""How large what a file says may be: a small file must not fill the memory or never end."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CheckpointError, first_line

MAX_PICKLE = 8 * 2**20  # bytes of data.pkl; that of a ViT-H with its optimizer has 0.3 MB
MAX_ENTRIES = 100_000  # tensors of an archive
MAX_VALUES = 500_000  # values of a file, each counted as often as it is met
MAX_DEPTH = 40  # containers in one another
MAX_TEXT = 16 * 2**20  # characters of JSON


class OutOfBounds(ValueError):
    """A file that says more than any of ours; the message is the short reason."""


def check_archive(path: Path) -> None:
    """Refuse a zip archive that unpacks to more than it is.

    `torch.save` compresses nothing, so that tensors can be mapped into memory: whatever is compressed
    or laid over something else was made by another hand.

    Raises:
        OutOfBounds: An entry is compressed, there are too many, they overlap, or the pickle is too
            large.
        zipfile.BadZipFile: It is no zip archive, or a damaged one.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise OutOfBounds(f"it has {len(entries):,} entries, more than {MAX_ENTRIES:,}")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise OutOfBounds(
                f"its entry {entry.filename[:80]!r} is compressed, which torch.save never does"
            )
        pickled = entry.filename.rpartition("/")[2] == "data.pkl"
        if pickled and entry.file_size > MAX_PICKLE:
            raise OutOfBounds(
                f"its pickle has {entry.file_size / 2**20:.0f} MiB, more than the "
                f"{MAX_PICKLE / 2**20:.0f} that tensors' names and plain values need"
            )
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise OutOfBounds("its entries overlap: they hold more than the file")


def check_values(content: Any) -> None:
    """Refuse plain values that are too many or too deep, also where they hold themselves.

    A list that stands in another forty times over is small in a file and endless to walk, so a value
    counts as often as it is met.

    Raises:
        OutOfBounds: There are more than `MAX_VALUES`, or they lie deeper than `MAX_DEPTH`.
    """
    count, opened = 0, [iter([content])]  # the containers that are being walked, the innermost last
    while opened:
        for value in opened[-1]:
            count += 1
            if isinstance(value, (Mapping, list, tuple, set, frozenset)):
                opened.append(iter(value.values() if isinstance(value, Mapping) else value))
                break
            if count > MAX_VALUES:
                break
        else:
            opened.pop()
        if count > MAX_VALUES:
            raise OutOfBounds(f"it holds more than {MAX_VALUES:,} values")
        if len(opened) > MAX_DEPTH + 1:
            raise OutOfBounds(
                f"its values lie deeper than {MAX_DEPTH} in one another, or in themselves"
            )


def parse_json(text: str) -> Any:
    """The values of a JSON text.

    Raises:
        OutOfBounds: It is too long, or its values are too many or too deep.
        ValueError: It is no JSON.
    """
    if len(text) > MAX_TEXT:
        raise OutOfBounds(f"it has {len(text):,} characters, more than {MAX_TEXT:,}")
    try:
        content = json.loads(text)
    except RecursionError:
        raise OutOfBounds(f"its values lie deeper in one another than {MAX_DEPTH}") from None
    check_values(content)
    return content


def read_json(path: Path) -> Any:
    """`parse_json` of a small file.

    Raises:
        OSError: It cannot be read.
        OutOfBounds: It is too large or too deep.
        ValueError: It is no JSON, or no UTF-8.
    """
    if path.stat().st_size > MAX_TEXT:
        raise OutOfBounds(f"it has {path.stat().st_size:,} bytes, more than {MAX_TEXT:,}")
    return parse_json(path.read_text(encoding="utf-8"))


def read_mapping(path: Path) -> dict[str, Any]:
    """`read_json` of a file that need not be there; empty where it cannot be read."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_fetched(path: Path) -> Any:
    """`read_json` of a file that was downloaded.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({first_line(error)}): fetch it again"
        ) from error
