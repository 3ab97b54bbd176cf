"""Names that recipes, checkpoints and scripts of earlier versions import from modules that have moved."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

HOMES = {
    "tome_lightning.checkup": "tome_lightning.commands.doctor",
    "tome_lightning.clip": "tome_lightning.inputs.clip",
    "tome_lightning.commands.scanning": "tome_lightning.commands.scan",
    "tome_lightning.comparison": "tome_lightning.commands.compare",
    "tome_lightning.exporting": "tome_lightning.commands.export",
    "tome_lightning.inspection": "tome_lightning.commands.inspect",
    "tome_lightning.loaded": "tome_lightning.commands.loaded",
    "tome_lightning.notebook": "tome_lightning.commands.fit",
    "tome_lightning.pictures": "tome_lightning.commands.visualize",
    "tome_lightning.spectrogram": "tome_lightning.inputs.spectrogram",
    "tome_lightning.speed": "tome_lightning.commands.benchmark",
    "tome_lightning.sweeping": "tome_lightning.commands.sweep",
}


class OldName(ModuleType):
    """Passes on what it is asked for; what Python's import asks of any module is not passed on."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(HOMES[self.__name__]), name)


class Moved(MetaPathFinder, Loader):
    """Imports the modules of `HOMES` from where they are now.

    Comes first in ``sys.meta_path``: a checkout that is brought up to date keeps the old folders, with
    nothing but ``__pycache__`` in them, and Python takes these for packages.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old name; None for all others."""
        return ModuleSpec(fullname, self) if fullname in HOMES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module of the old name, which passes on all it is asked for."""
        return OldName(spec.name, f"Moved to `{HOMES[spec.name]}`.")

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to run."""


def know_old_names() -> None:
    """Let this process import the old names, too; once."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.insert(0, Moved())
