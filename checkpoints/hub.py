"""Repositories of the Hugging Face Hub by name, through its own client: cache, tokens, offline mode."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import CheckpointError, first_line
from .hub_config import is_hub_folder
from .hub_folder import WEIGHTS, has_weights

PREFIX = "hf-hub:"  # timm's spelling
_NAME = re.compile(r"^(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?$")
_CONFIGS = ["config.json", "preprocessor_config.json", "README.md"]


def is_hub_name(name: str) -> bool:
    """Whether a string says that it is a repository of the Hub."""
    return name.startswith(PREFIX)


def from_hub(name: str | Path) -> bool:
    """Whether a checkpoint is a repository of the Hub or a folder in its layout."""
    return is_hub_name(str(name)) or is_hub_folder(Path(name).expanduser())


def parse(name: str) -> tuple[str, str | None]:
    """Repository and revision of `hf-hub:OWNER/NAME[@REVISION]`.

    Raises:
        CheckpointError: It is spelled otherwise.
    """
    match = _NAME.match(name.removeprefix(PREFIX))
    if match is None:
        raise CheckpointError(
            f"{name!r} is no repository of the Hub: write {PREFIX}OWNER/NAME or "
            f"{PREFIX}OWNER/NAME@REVISION"
        )
    return match["repo"], match["revision"]


def fetch(name: str) -> Path:
    """The folder with a repository's configs and weights, downloaded where it is not in the Hub's cache.

    Safetensors where there are some, else what torch saved. A repository's code is neither fetched
    nor run.

    Raises:
        CheckpointError: There is no such repository or revision, it asks for terms to be accepted, holds
            no weights, or cannot be reached.
    """
    repo, revision = parse(name)
    for weights in WEIGHTS:
        stem, _, suffix = weights.rpartition(".")
        wanted = [*_CONFIGS, weights, f"{weights}.index.json", f"{stem}-*-of-*.{suffix}"]
        folder = _snapshot(name, repo, revision, wanted)
        if has_weights(folder):
            return folder
    raise CheckpointError(
        f"{name} has no weights that can be read ({' or '.join(WEIGHTS)}): choose another repository"
    )


def fetch_config(name: str) -> Path:
    """The folder with a repository's configs, some kilobytes, and whatever of it is in the cache.

    Raises:
        CheckpointError: As `fetch`; or it has no config.json.
    """
    repo, revision = parse(name)
    folder = _snapshot(name, repo, revision, _CONFIGS)
    if not is_hub_folder(folder):
        raise CheckpointError(f"{name} has no config.json, so it holds no model: choose another")
    return folder


def cached(name: str) -> Path | None:
    """The folder of a repository that is on this machine with its weights; nothing is fetched."""
    import huggingface_hub

    repo, revision = parse(name)
    try:
        folder = Path(
            huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
        )
    except (OSError, ValueError):  # LocalEntryNotFoundError is both
        return None
    return folder if has_weights(folder) else None


def _snapshot(name: str, repo: str, revision: str | None, wanted: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=wanted)
        )
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name} asks for its terms to be accepted: do so on its page, then log in (hf auth login) "
            "or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name} is not on the Hub, or is private: check the name, and log in (hf auth login) or "
            "set HF_TOKEN if it is yours"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{repo} has no revision {revision}: leave it out, or check it"
        ) from error
    except Exception as error:  # whatever the transport raises
        raise CheckpointError(
            f"{name} cannot be fetched ({type(error).__name__}: {first_line(error)}): connect this "
            f"machine, or download the repository elsewhere (hf download {repo} --local-dir FOLDER: "
            f"config.json and {WEIGHTS[0]}), put the folder anywhere here and give its path"
        ) from error
