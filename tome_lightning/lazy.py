"""Names as a package offers them: imported when they are asked for (PEP 562), and written down."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of ``package`` for the names in ``homes``, each with the module it is in."""

    def getattr_(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_


def public_path(kind: type) -> str:
    """The class path that is written to a file: that of the package, if it offers the class.

    ``tome_lightning.inputs.Image`` for a class of ``tome_lightning.inputs.image``: which file of the
    package it is in may change.
    """
    package = kind.__module__.rpartition(".")[0]
    room = sys.modules.get(package) if "." in package else None  # the front door offers all of it
    offered = getattr(room, kind.__name__, None)
    return f"{package if offered is kind else kind.__module__}.{kind.__qualname__}"
