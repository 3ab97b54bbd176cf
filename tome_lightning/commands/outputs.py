"""The files that a verb writes: refused before any work where they cannot be."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tome_lightning.errors import UsageError

PICTURES = (".png", ".svg", ".pdf")


def check_output(path: Path, force: bool = False) -> Path:
    """A file that a verb is to write, refused before any work if it cannot.

    Raises:
        UsageError: If it is there already (unless ``force``), is a folder, or lies in no folder that
            can be written to.
    """
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Name a file in it.")
    if not folder.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {folder}. Make it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written: no permission in {folder}. Name another file.")
    if path.exists() and not force:
        raise UsageError(
            f"{path} is there already. Name another file, or overwrite it with --force."
        )
    return path


def check_picture(path: Path | None) -> None:
    """Refuse a picture that matplotlib cannot draw, before any work.

    Raises:
        UsageError: For an ending that is none of a picture, or where matplotlib is missing.
    """
    if path is not None and path.suffix not in PICTURES:
        raise UsageError(f"--plot writes {', '.join(PICTURES)}, got {path}.")
    if path is not None and find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib, which is not installed: pip install matplotlib")


def write_json(content: Any, path: Path) -> None:
    """Write values; a reader sees the old file or the new one, never a part."""
    part = path.with_name(path.name + ".tmp")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
