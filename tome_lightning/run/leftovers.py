"""Cleans up the directory of a run that ended before it began."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Set
from pathlib import Path

from tome_lightning.trainer.claim import LOCK
from tome_lightning.trainer.ranks import rank

HPARAMS = "hparams.yaml"
SET_UP = re.compile(  # what is written before a run has begun
    rf"(config|environment)(\.resume-\d+)?\.(yaml|json)|{HPARAMS}|events\.out\.tfevents\..*|{LOCK}"
)


def held(directory: Path) -> frozenset[str]:
    """Names of what lies in a run directory; none where that is not there yet."""
    return frozenset(os.listdir(directory)) if directory.is_dir() else frozenset()


def remove_unused(directory: Path, before: Set[str]) -> None:
    """Remove what a run wrote before it failed to begin, and its directory if nothing else is in it.

    Args:
        directory: The run directory.
        before: What lay in it, see `held`.
    """
    if rank() != 0 or not directory.is_dir():
        return
    for name in held(directory) - before:
        with contextlib.suppress(OSError):  # not empty, say
            if SET_UP.fullmatch(name):
                (directory / name).unlink()
            elif name == "checkpoints":
                (directory / name).rmdir()
    with contextlib.suppress(OSError):  # a mount point, say
        if held(directory) <= {LOCK}:
            (directory / LOCK).unlink(missing_ok=True)
            directory.rmdir()
