"""The packages that come with this one have common names: a user's own must not stand in for them."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

NAMES = ("datamodules", "checkpoints", "recipes")
HOME = Path(__file__).resolve().parents[1]


class Siblings:
    """Finds the packages of `NAMES` beside this one, whatever comes first: for `sys.meta_path`.

    What comes first is the working folder, for ``python -m``.
    """

    @staticmethod
    def find_spec(
        name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The place of a package of ours; None for all others."""
        return PathFinder.find_spec(name, [str(HOME)]) if name in NAMES else None


def prefer_own() -> list[Path]:
    """Let this process, which is ours, find our own packages; returns those of the user that it hides."""
    hidden = [place for name in NAMES if (place := _elsewhere(name)) is not None]
    if Siblings not in sys.meta_path:
        sys.meta_path.insert(0, Siblings)
    return hidden


def check_own() -> None:
    """Refuse to take another package for one of ours, in a process that is the user's.

    Raises:
        ImportError: One of that name comes first; says where it is.
    """
    for name in NAMES:
        if (place := _elsewhere(name)) is not None:
            raise ImportError(
                f"{place} stands in for tome_lightning's own {name}, which is {HOME / name}: Python "
                "finds it first. Rename it, start Python in another folder (or with -P), or put "
                f"{HOME} first in sys.path (PYTHONPATH)."
            )


def _elsewhere(name: str) -> Path | None:
    """The package that is found instead of ours; a folder without ``__init__.py`` never is."""
    try:
        spec = find_spec(name)
    except ValueError:  # a module that was made by hand
        return None
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin).resolve()
    if place.name == "__init__.py":
        place = place.parent
    return None if place == HOME / name else place
