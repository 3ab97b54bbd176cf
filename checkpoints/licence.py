"""What may be done with weights, as far as it is known."""

from pathlib import Path

from timm.models import get_pretrained_cfg

from .errors import CheckpointError
from .identity import identify
from .notes import exported
from .reading import read
from .sources import LICENCE, SOURCES

# Families whose published files are all under `LICENCE`; a run of ours has two of the names, too.
NON_COMMERCIAL = ("mae", "tome", "mae_st", "audiomae", "videomae")


def licence_of(weights: str | Path | None, depth: int = 8) -> str | None:
    """What is known of the licence of weights: a published name, a timm name or a file.

    Runs of ours are followed back to what they started from, as long as the files are there.

    Args:
        weights: As ``model.checkpoint`` names them; ``None`` for random ones.
        depth: Runs to follow at most.
    """
    if weights is None or not depth:
        return None
    path = Path(weights)
    if not path.is_file():
        return licence_of_name(str(weights))
    try:
        found = read(path)
        if found.run:
            return licence_of(found.started_from, depth - 1)
        if ours := exported(path):
            return ours.get("licence")
        family = identify(path).family
    except CheckpointError:
        return None
    if known := licence_of_name(path.name):
        return known
    if family in NON_COMMERCIAL:
        return f"weights of the {family} family, whose published files are {LICENCE} (no commercial use)"
    return None


def licence_of_name(name: str) -> str | None:
    """The same of a name alone, one of `SOURCES`, of their files or of timm's; no file is looked at."""
    for source in SOURCES.values():
        if name in (source.name, source.file) or Path(name).name == source.file:
            if source.family not in NON_COMMERCIAL or LICENCE not in source.how:
                return f"weights of {source.name}: {source.how}"
            return f"weights of {source.name}, {LICENCE} (no commercial use)"
    try:
        config = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # no name of timm's
        return None
    known = None if config is None else config.license
    return None if not known else f"weights of timm's {name}, {known}"
