"""The shards of a data set's folder by split, without walking what may be a tree of a million files.

It looks at the folder's own entries, those of `data`, of `default` and of the configuration asked for,
of the folders among these that are called like a split, and where its README points to. A folder
with a thousand entries and no shard among them is not looked at any further.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.errors import DataError
from datamodules.shards.member import SHARDS
from datamodules.shards.readme import Config, chosen, configs_in
from datamodules.shards.split_names import (
    WORDS,
    by_patterns,
    by_words,
    compiled,
    named,
    split_named,
)
from datamodules.walking import is_data

DICT, STATE = "dataset_dict.json", "state.json"  # of save_to_disk
MAGIC = frozenset("*?[")
_NUMBERED = re.compile(r"(.+)-\d+-of-(\d+)([-.].+)")
LOOKED_AT = 1000  # entries of a folder without shards
MANY = 100  # folders without shards
DEPTH = 3  # folders that a README's `**` goes down


def splits(folder: Path, config: str | None = None) -> dict[str, list[Path]]:
    """The shards of train, val and test, each sorted by name; nothing where the folder has none.

    A README's configurations come first, then what `save_to_disk` wrote, then the words of `datasets`
    in the names of folders and files (`train`, `validation`, `test`, ...); where no name has one, all
    shards are of train. Shards of no split are told and left out.

    Args:
        folder: Folder of the data set.
        config: Which of its configurations; None for the usual one.

    Raises:
        DataError: There is no such configuration, or the folder's own notes do not fit its files.
    """
    configs = configs_in(folder)
    if not configs and config is not None and (folder / config).is_dir():
        return splits(folder / config)
    if config is None and not any(_shards_of(folder, each) for each in configs):
        configs = []  # the README is of files that are not here, or not here as it has them
    known = chosen(configs, config, str(folder))
    if known is None and (folder / DICT).is_file():
        return _of_dict(folder)
    if known is None and (folder / STATE).is_file():
        return {split_named(_split_noted(folder)) or "train": _of_state(folder)}
    names = _shards_of(folder, known)
    found = assigned(names, known)
    if config is not None and not found:
        raise DataError(f"{folder} has no shards of its configuration {config!r}: fetch them")
    _tell(folder, names, known, found)
    _warn_of_missing(folder, [name for shards in found.values() for name in shards])
    return {split: [folder / name for name in shards] for split, shards in found.items()}


def assigned(names: Iterable[str], config: Config | None) -> dict[str, list[str]]:
    """Shards by split, by their paths relative to the data set's folder.

    A table beside a tar file of the same name is left out: it says what is in that.
    """
    shards = {name for name in names if name.endswith(SHARDS)}
    shards -= {
        name for name in shards if not name.endswith(".tar") and _stem(name) + ".tar" in shards
    }
    if config is not None and config.folder:
        shards = {name for name in shards if name.startswith(f"{config.folder}/")}
    if config is None or not config.patterns:
        return by_words(shards)
    return by_patterns(shards, globs_of(config))


def places_of(config: Config | None) -> list[str]:
    """The folders that are looked at where a README gives no globs."""
    places = ["", "data", "default"]
    if config is None:
        return places
    return [config.folder] if config.folder else [*places, config.name, f"data/{config.name}"]


def is_near(name: str, config: Config | None) -> bool:
    """Whether a file is where `splits` looks for shards, by its path."""
    if config is not None and config.patterns:
        return True
    above = PurePosixPath(name).parent
    within = above.parent if split_named(above.name) else above
    return bool({_place(above), _place(within)}.intersection(places_of(config)))


def _place(folder: PurePosixPath) -> str:
    return "" if folder == PurePosixPath(".") else str(folder)


def globs_of(config: Config) -> dict[str, list[str]]:
    """The globs of a configuration's splits, from the data set's folder."""
    at = PurePosixPath(config.folder)
    return {
        split: [str(at / glob) for glob in globs if "://" not in glob]
        for split, globs in config.patterns.items()
    }


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _shards_of(folder: Path, config: Config | None) -> list[str]:
    if config is not None and config.patterns:
        globs = [glob for each in globs_of(config).values() for glob in each]
        fitting = {name for glob in globs for name in _fitting(folder, glob)}
        return [name for name in fitting if any(compiled(glob).fullmatch(name) for glob in globs)]
    return [name for place in places_of(config) for name in _shards_at(folder, place)]


def _shards_at(folder: Path, place: str) -> list[str]:
    """Shards in a place and in the folders of splits in it; none where they lie there unpacked."""
    shards, folders = _entries(folder, place)
    for below in folders:
        if split_named(PurePosixPath(below).name) is None:
            continue
        inside, further = _entries(folder, below)
        if further or not inside:
            unpacked = {_stem(name) for name in inside}.intersection(further)
            if unpacked or (not inside and _has_entries(folder / below)):
                return []
        shards += inside
    return shards


def _fitting(folder: Path, glob: str) -> list[str]:
    """Shards in the folders that a glob goes through."""
    *folders, _ = PurePosixPath(glob).parts
    fixed = next((n for n, part in enumerate(folders) if MAGIC & set(part)), len(folders))
    depth = DEPTH if "**" in glob else len(folders) - fixed
    places = ["/".join(folders[:fixed])]
    names: list[str] = []
    for _ in range(depth + 1):
        if len(places) > MANY and not names:
            break  # class folders
        found = [_entries(folder, place) for place in places]
        names += [name for shards, _ in found for name in shards]
        places = [below for _, inside in found for below in inside]
    return names


def _entries(folder: Path, place: str) -> tuple[list[str], list[str]]:
    """Shards and folders in a place, as paths from the folder; none if the first entries are others."""
    shards: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder / place) as entries:
            for number, entry in enumerate(entries):
                if number >= LOOKED_AT and not shards:
                    break
                path = f"{place}/{entry.name}" if place else entry.name
                if entry.name.endswith(SHARDS) and not entry.name.startswith("."):
                    shards.append(path)
                elif is_data(entry.name) and entry.is_dir():
                    folders.append(path)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise DataError(f"cannot list {folder / place}: {error.strerror}; check the path") from None
    return shards, sorted(folders)


def _has_entries(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(True for _ in islice(entries, 1))


def _of_dict(folder: Path) -> dict[str, list[Path]]:
    names = [str(name) for name in _noted(folder / DICT).get("splits", [])]
    found = {split: named(split, names) for split in WORDS}
    _say(folder, "splits", set(names).difference(*found.values()))
    return {
        split: [shard for name in called for shard in _of_state(folder / name)]
        for split, called in found.items()
        if called
    }


def _of_state(folder: Path) -> list[Path]:
    noted = _noted(folder / STATE).get("_data_files", [])
    shards = [folder / str(file["filename"]) for file in noted]
    for shard in shards:
        if not shard.is_file():
            raise DataError(
                f"{folder / STATE} names {shard.name}, which is not there: copy it again"
            )
    return shards


def _split_noted(folder: Path) -> str:
    """The split of a data set that was saved by itself: as it says, else what its folder is called."""
    return str(_noted(folder / STATE).get("_split") or folder.absolute().name)


def _noted(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({type(error).__name__}): copy it again") from None
    if not isinstance(about, dict):
        raise DataError(f"{path} is not what save_to_disk writes: copy it again")
    return about


def _tell(
    folder: Path, names: Collection[str], config: Config | None, found: dict[str, list[str]]
) -> None:
    """Say which shards, or which splits of a README, are left out."""
    if config is not None and config.patterns:
        used = {name for split in WORDS for name in named(split, config.patterns)}
        _say(folder, "splits", set(config.patterns) - used)
    else:
        _say(folder, "shards of no split", set(names).difference(*found.values()))


def _warn_of_missing(folder: Path, names: Iterable[str]) -> None:
    """Warn where shards say how many there are of them, and not all are here."""
    series = Counter(found.groups() for found in map(_NUMBERED.fullmatch, names) if found)
    for (start, total, end), count in series.items():
        if count < int(total):
            rank_zero_warn(
                f"{folder}: only {count:,} of the {int(total):,} shards {start}-*-of-{total}{end} are "
                "here; fetch the others for the whole data set"
            )


def _say(folder: Path, what: str, left_out: set[str]) -> None:
    if left_out:
        some = ", ".join(sorted(left_out)[:3])
        rank_zero_info(f"{folder}: left out {len(left_out):,} {what} ({some})")
