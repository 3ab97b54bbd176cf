"""Names as a package offers them: imported when they are asked for (PEP 562), and written down."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(
    package: str, rooms: Mapping[str, str], before: Callable[[], None] | None = None
) -> tuple[Callable[[str], Any], list[str]]:
    """The ``__getattr__`` and the ``__all__`` of a package.

    Args:
        package: Its name.
        rooms: The names that it offers, by their module; one of its own begins with a dot.
        before: Called before one is imported.
    """
    homes = {name: module for module, names in rooms.items() for name in names.split()}

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if before is not None:
            before()
        return getattr(import_module(homes[name], package), name)

    return getattr_, list(homes)


def public_path(kind: type) -> str:
    """The class path that is written to a file: of a class of ours that of the room that offers it.

    ``tome_lightning.inputs.Image`` for a class of ``tome_lightning.inputs.image``: which file of the
    room it is in may change.
    """
    package = kind.__module__.rpartition(".")[0]
    # not the front door, which offers those of all rooms
    ours = package.startswith("tome_lightning.")
    offered = getattr(sys.modules.get(package), kind.__name__, None) if ours else None
    return f"{package if offered is kind else kind.__module__}.{kind.__qualname__}"
