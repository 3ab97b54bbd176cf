"""Which shard is of which split, by its path alone: as a README says, or by the usual words."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

# The words of `datasets`, and what may stand beside them: imagenet1k-validation-07.tar, eval00.parquet.
WORDS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT = {word: split for split, words in WORDS.items() for word in words}
_WORD = re.compile(rf"(?:^|[-._ 0-9])({'|'.join(_SPLIT)})(?=[-._ 0-9]|$)")

Patterns = Mapping[str, Sequence[str]]  # of each split of a README, with globs


def split_named(name: str) -> str | None:
    """The split that the name of a folder, a file or a split of a README speaks of."""
    found = _WORD.search(name.lower())
    return None if found is None else _SPLIT[found[1]]


def split_of(path: str) -> str | None:
    """The split of a file, by its folders, the innermost first, else by its own name."""
    *folders, own = PurePosixPath(path).parts
    return next(filter(None, map(split_named, [*reversed(folders), own])), None)


def by_words(paths: Iterable[str]) -> dict[str, list[str]]:
    """Files by split; where none has a split in its path all are of train, as in `datasets`.

    Args:
        paths: Paths relative to the folder of the data set, with `/`.
    """
    ordered = sorted(paths)
    found = {path: split_of(path) for path in ordered}
    if not any(found.values()):
        return {"train": ordered} if ordered else {}
    return _without_empty({s: [path for path in ordered if found[path] == s] for s in WORDS})


def by_patterns(paths: Iterable[str], patterns: Patterns) -> dict[str, list[str]]:
    """Files by split, as the globs of a README say.

    A split that is called by a usual word is taken for itself; else all those that have it in their
    name are taken together.

    Args:
        paths: As of `by_words`.
        patterns: The globs of each split of the README.
    """
    ordered = sorted(paths)
    return _without_empty({
        split: [path for path in ordered if any(glob.fullmatch(path) for glob in globs)]
        for split in WORDS
        for globs in [[compiled(each) for name in named(split, patterns) for each in patterns[name]]]
    })  # fmt: skip


def named(split: str, names: Iterable[str]) -> list[str]:
    """Of the splits of a data set those that are meant by train, val or test."""
    every = [name for name in names if split_named(name) == split]
    return [name for name in every if name.lower() in WORDS[split]] or every


def compiled(glob: str) -> re.Pattern[str]:
    """A glob as `datasets` reads it: `*` within a folder, `**` through all."""
    from fsspec.utils import glob_translate

    return re.compile(glob_translate(glob.removeprefix("./")))


def _without_empty(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {split: paths for split, paths in found.items() if paths}
