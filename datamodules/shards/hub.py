"""Data sets of the Hugging Face Hub by name, through its own client: cache, tokens, offline mode.

Only shards, the README and small notes are fetched, of the splits and the configuration that are asked
for. A repository's code is neither fetched nor run: one that has no shards is taken as the Hub itself
has converted it to Parquet, if it has.
"""

import re
from collections.abc import Collection, Iterable
from glob import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.errors import DataError
from datamodules.shards import layout
from datamodules.shards.member import SHARDS
from datamodules.shards.readme import README, Config, chosen, configs_in
from datamodules.shards.split_names import named

PREFIX = "hf://datasets/"
SPLITS = ("train", "val", "test")
LABELS = "class_labels_indices.csv"  # what label ids mean, as `pack` writes it beside tar files
NOTES = (README, "dataset_info.json", layout.DICT, layout.STATE, "classes.txt", LABELS)
CONVERTED = "refs/convert/parquet"  # the Hub's own branch: CONFIG/SPLIT/0000.parquet
PARTIAL = "partial-"  # how a split of that branch begins of which the Hub converted the first 5 GB
_NAME = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/@]+|[^/@]+))?"
    r"(?:/(?P<folder>[^@]*[^/@]))?/?"
)


class Place(NamedTuple):
    """A data set of the Hub.

    Attributes:
        root: How it is written.
        repo: OWNER/NAME.
        revision: Branch, tag or commit; None for the main branch.
        folder: Folder of the repository; empty for all of it.
    """

    root: str
    repo: str
    revision: str | None
    folder: str

    def inside(self, names: Iterable[str]) -> list[str]:
        """Of the repository's files those in the folder, from there."""
        start = f"{self.folder}/" if self.folder else ""
        return [name.removeprefix(start) for name in names if name.startswith(start)]


def is_hub(root: str) -> bool:
    """Whether a root says that it is a data set of the Hub."""
    return root.startswith(PREFIX)


def parse(root: str) -> Place:
    """What `hf://datasets/OWNER/NAME[@REVISION][/FOLDER]` says.

    Raises:
        DataError: It is spelled otherwise.
    """
    match = _NAME.fullmatch(root.removeprefix(PREFIX))
    if match is None or ".." in (match["folder"] or "").split("/"):
        raise DataError(
            f"{root!r} is no data set of the Hub: write {PREFIX}OWNER/NAME, {PREFIX}OWNER/NAME@REVISION "
            f"or {PREFIX}OWNER/NAME/FOLDER"
        )
    revision = match["revision"]
    return Place(root, match["repo"], revision and unquote(revision), match["folder"] or "")


def fetch(root: str, config: str | None = None, splits: Collection[str] = SPLITS) -> Path:
    """The folder with a data set's shards and notes, downloaded where they are not in the Hub's cache.

    Args:
        root: `hf://datasets/OWNER/NAME[@REVISION][/FOLDER]`.
        config: Which of its configurations; None for the usual one.
        splits: Which of train, val and test; of val and test the other where there is only that.

    Raises:
        DataError: There is no such data set, revision or configuration, it asks for terms to be
            accepted, holds no shards, or cannot be reached and is not in the cache.
    """
    place = parse(root)
    try:
        return _fetched(place, config, splits)
    except DataError:
        raise
    except Exception as error:  # whatever the transport raises
        folder = _cached(place, config)
        if folder is None:
            raise _explained(place, error) from error
        return folder


def _fetched(place: Place, config: str | None, splits: Collection[str]) -> Path:
    names = _names(place)
    if not any(name.endswith(SHARDS) for name in names):
        return _converted(place, config, splits)
    configs = configs_in(_snapshot(place, [README])) if README in names else []
    if not configs and config is not None and _below(names, config):
        configs = [Config(config, True, {}, config)]
    known = chosen(configs, config, place.root)
    found = layout.assigned((name for name in names if layout.is_near(name, known)), known)
    if layout.DICT in names:  # whose notes have to fit the files
        splits = SPLITS
    notes = [name for name in names if name.rpartition("/")[2] in NOTES]
    return _snapshot(place, map(escape, [*notes, *_needed(place, found, splits)]))


def _converted(place: Place, config: str | None, splits: Collection[str]) -> Path:
    from huggingface_hub.errors import RevisionNotFoundError

    nothing = DataError(
        f"{place.root} holds no tar, Parquet or Arrow files, and the Hub has not converted it: download "
        "it by the way its page tells, and set data.root to the folder"
    )
    if place.revision is not None or place.folder:
        raise nothing
    branch = place._replace(revision=CONVERTED)
    try:
        names = [name for name in _names(branch) if name.endswith(SHARDS)]
    except RevisionNotFoundError:
        raise nothing from None
    folders = sorted({name.partition("/")[0] for name in names})
    configs = [Config(name, False, {}, name) for name in folders]
    known = chosen(configs, config, place.root)
    found = layout.assigned(names, known)
    needed = _needed(place, found, splits)
    if partial := sorted({name.split("/")[1] for name in needed if f"/{PARTIAL}" in name}):
        rank_zero_warn(
            f"{place.root}: the Hub has converted only the first 5 GB of {', '.join(partial)}"
        )
    folder = _snapshot(branch, map(escape, needed))
    return folder if config is not None or known is None else folder / known.name


def _needed(place: Place, found: dict[str, list[str]], splits: Collection[str]) -> list[str]:
    instead = {"val": "test", "test": "val"}
    needed = {
        name
        for split in splits
        for name in found.get(split) or found.get(instead.get(split, ""), [])
    }
    if not needed:
        there = f"only of {', '.join(found)}" if found else "of no split"
        raise DataError(
            f"{place.root} has shards, but none of {', '.join(splits)}: {there}; choose another "
            "data.config_name, or a folder of it"
        )
    return sorted(needed)


def _below(names: Iterable[str], folder: str) -> bool:
    return any(name.startswith(f"{folder}/") for name in names)


def _names(place: Place) -> list[str]:
    """All files of a repository's folder, as the Hub lists them."""
    import huggingface_hub

    names = huggingface_hub.HfApi().list_repo_files(
        place.repo, repo_type="dataset", revision=place.revision
    )
    return place.inside(names)


def _snapshot(place: Place, globs: Iterable[str], local: bool = False) -> Path:
    """The folder in the Hub's cache with what these globs mean of it; `local` fetches nothing."""
    import huggingface_hub

    start = f"{place.folder}/" if place.folder else ""
    found = huggingface_hub.snapshot_download(
        place.repo,
        repo_type="dataset",
        revision=place.revision,
        allow_patterns=[f"{escape(start)}{glob}" for glob in globs],
        local_files_only=local,
    )
    return Path(found, place.folder)


def _cached(place: Place, config: str | None) -> Path | None:
    """The folder of a data set whose shards are on this machine; nothing is fetched."""
    branches = [place]
    if place.revision is None and not place.folder:
        branches.append(place._replace(revision=CONVERTED))
    for branch in branches:
        try:
            folder = _snapshot(branch, [README], local=True)
            configs = configs_in(folder)
            if branch.revision == CONVERTED and config is None:
                below = sorted(path.name for path in folder.iterdir() if path.is_dir())
                known = chosen([Config(name, False, {}, name) for name in below], None, place.root)
                folder = folder if known is None else folder / known.name
            elif configs:  # all that its globs mean: the client knows what the repository holds
                _snapshot(branch, _globs(chosen(configs, config, place.root)), local=True)
        except OSError:  # no folder, or not all of it
            continue
        if layout.splits(folder, config):
            return folder
    return None


def _globs(config: Config | None) -> list[str]:
    """Globs of the splits of a configuration that are used, and of the README."""
    globs = {} if config is None else layout.globs_of(config)
    used = [glob for split in SPLITS for name in named(split, globs) for glob in globs[name]]
    return [README, *used]


def _explained(place: Place, error: Exception) -> DataError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return DataError(
            f"{place.root} asks for its terms to be accepted: do so on its page, then log in (hf auth "
            "login) or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(
            f"{place.root} is not on the Hub, or is private: check the name, and log in (hf auth login) "
            "or set HF_TOKEN if it is yours"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(
            f"{place.repo} has no revision {place.revision}: leave it out, or check it"
        )
    reason = (str(error).splitlines() or [""])[0]
    return DataError(
        f"{place.root} cannot be fetched ({type(error).__name__}: {reason}): connect this machine, or "
        f"download it elsewhere (hf download {place.repo} --repo-type dataset --local-dir FOLDER), put "
        "the folder anywhere here and set data.root to its path"
    )
