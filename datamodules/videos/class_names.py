"""Class names: Kinetics-400's, and whether others are the same in the same order."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path

import numpy as np

from datamodules.errors import DataError
from datamodules.filelist import FileList
from datamodules.shards.member import member

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
        place = member(name)
        folder = Path(name if place is None else place.name).parent.name
        expected = index.get(plain(folder))
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


def numbered(path: Path, files: FileList) -> list[str]:
    """Numbers as names, from 0 to the highest label of a list.

    Raises:
        DataError: It has no labels.
    """
    if files.unlabelled:
        raise DataError(
            f"{path} has no labels, so nothing says what the classes are; give data.class_list, or a "
            "run's checkpoint (--ckpt_path)"
        )
    return [str(label) for label in range(int(files.labels.max()) + 1)]


def refuse_other_classes(theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Compare a checkpoint's classes with those of the data.

    Raises:
        DataError: The names or their order differ, so logits would be misread.
    """
    if list(theirs) == list(ours):
        return
    pairs = zip_longest(theirs, ours)
    index, (a, b) = next(item for item in enumerate(pairs) if item[1][0] != item[1][1])
    raise DataError(
        f"the checkpoint was trained on other classes: {len(theirs)} there, {len(ours)} "
        f"here, class {index} is {a!r} there and {b!r} here; use its own data set"
    )


def refuse_other_folders(
    folder: Path, found: Sequence[str], expected: Sequence[str], of_checkpoint: bool
) -> None:
    """Compare the class folders of a split with the classes.

    Args:
        folder: The split's.
        found: Its class folders.
        expected: All classes.
        of_checkpoint: These are a checkpoint's, of which new data may well have some only.

    Raises:
        DataError: There are others; or, but for a checkpoint's, some are missing.
    """
    missing = [] if of_checkpoint else sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    parts = [
        f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for word, names in (("missing", missing), ("unknown", extra))
        if names
    ]
    if not parts:
        return
    whose = "checkpoint" if of_checkpoint else "training split"
    why = (
        f"it has {', '.join(expected[:3])}, ..."
        if of_checkpoint
        else "all splits need the same ones"
    )
    raise DataError(
        f"{folder} has not the class folders of the {whose}: {' and '.join(parts)}; {why}"
    )
