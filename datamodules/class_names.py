"""Kinetics-400's class names, and what tells whether a user's labels are in their order."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from datamodules.errors import DataError
from datamodules.filelist import FileList

KINETICS400 = "kinetics400"
LOOKED_AT = 2000  # rows of a list whose folder names are compared with their labels
_FILE = Path(__file__).with_name("kinetics400.txt")  # torchvision's, alphabetical: abseiling is 0


def kinetics400() -> list[str]:
    """The 400 names in the order of their index."""
    return _FILE.read_text(encoding="utf-8").splitlines()


def plain(name: str) -> str:
    """A name as all copies of the data set have it: lower case, letters and digits alone."""
    return re.sub("[^a-z0-9]+", "", name.lower())


def match_folders(folder: Path, found: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    """Class index of each class folder: spaces, underscores, quotes and case do not matter.

    Raises:
        DataError: A folder is none of `names`; its nearest ones are given.
    """
    index = {plain(name): label for label, name in enumerate(names)}
    found = list(found)
    unknown = [name for name in found if plain(name) not in index]
    if unknown:
        near = [names[index[name]] for name in get_close_matches(plain(unknown[0]), index, n=2)]
        hint = f", nearest {' or '.join(near)}" if near else ""
        raise DataError(
            f"{folder}: {len(unknown)} of {len(found)} class folders are none of the {len(names)} "
            f"known classes, for example {unknown[0]!r}{hint}: with labels in another order a "
            "trained model would look broken. Rename them; or, for classes of your own, set "
            "data.class_list to null and model.task.num_classes to their number"
        )
    return {name: index[plain(name)] for name in found}


def check_labels(path: Path, files: FileList, names: Sequence[str]) -> None:
    """Compare a list's labels with the class folders in its paths, where it has some.

    Raises:
        DataError: More than half of the recognised folders have another index than their label.
    """
    index = {plain(name): label for label, name in enumerate(names)}
    rows = np.linspace(0, len(files) - 1, min(LOOKED_AT, len(files))).astype(int)
    known = wrong = 0
    example = ""
    for row in rows:
        name, label = files[int(row)]
        expected = index.get(plain(Path(name).parent.name))
        known += expected is not None
        if expected is not None and expected != label:
            wrong += 1
            example = example or f"{name!r} has label {label}, but its class is number {expected}"
    if wrong > known / 2:
        raise DataError(
            f"{path}: {wrong} of {known} labels looked at are not those of the class folders in "
            f"their paths, for example {example}: a trained model would look broken. Write the "
            "list anew, or give data.class_list a file with its own order of classes"
        )
