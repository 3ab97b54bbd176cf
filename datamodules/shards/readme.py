"""The configurations that a data set's README names, in the YAML at its beginning."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.errors import DataError

README = "README.md"
_YAML = re.compile(r"(?s)\A\s*---[ \t]*\r?\n(.*?\n)---[ \t]*(?:\r?\n|\Z)")


class Config(NamedTuple):
    """A configuration.

    Attributes:
        name: What it is called.
        usual: Whether it is the one where none is asked for.
        patterns: Globs of the files of each of its splits; empty where their names say it.
        folder: Where its files are, below that of the data set; empty for all of it.
    """

    name: str
    usual: bool
    patterns: dict[str, list[str]]
    folder: str


def configs_in(folder: Path) -> list[Config]:
    """The configurations of a data set; none where there is no README or it names none.

    Raises:
        DataError: The README cannot be opened.
    """
    readme = folder / README
    try:
        front = _YAML.match(readme.read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"cannot read {readme}: {error.strerror}") from None
    try:
        about = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError as error:  # a README of anything
        reason = " ".join(str(error).split())
        rank_zero_warn(f"{readme}: its YAML is not used, since it cannot be read ({reason})")
        return []
    listed = about.get("configs") if isinstance(about, dict) else None
    found = listed if isinstance(listed, list) else []
    return [_config(each) for each in found if isinstance(each, dict)]


def chosen(configs: Sequence[Config], name: str | None, where: str) -> Config | None:
    """The configuration of that name, or the usual one; None where there are none and none is asked for.

    Args:
        configs: All there are.
        name: The one asked for; None for the usual one.
        where: The data set, for messages.

    Raises:
        DataError: There is none of that name, or several and none of them is the usual one.
    """
    names = ", ".join(config.name for config in configs)
    if name is not None:
        found = next((config for config in configs if config.name == name), None)
        if found is None:
            there = f"it has {names}" if names else "it has none: leave data.config_name out"
            raise DataError(f"{where} has no configuration {name!r}; {there}")
        return found
    if len(configs) < 2:
        return configs[0] if configs else None
    usual = [config for config in configs if config.usual] or [
        config for config in configs if config.name == "default"
    ]
    if not usual:
        raise DataError(
            f"{where} has several configurations: set data.config_name to one of {names}"
        )
    return usual[0]


def _config(about: dict[str, Any]) -> Config:
    return Config(
        str(about.get("config_name", "default")),
        about.get("default") is True,
        _patterns(about.get("data_files")),
        str(about.get("data_dir") or "").removeprefix("./").strip("/"),
    )


def _patterns(files: Any) -> dict[str, list[str]]:
    """A glob, a list of them, a list of split and globs, or globs by split: all that READMEs hold."""
    if isinstance(files, dict):
        return {str(split): _listed(globs) for split, globs in files.items()}
    named: dict[str, list[str]] = {}
    for each in files if isinstance(files, list) else _listed(files):
        if isinstance(each, dict):
            named.setdefault(str(each.get("split", "train")), []).extend(_listed(each.get("path")))
        else:
            named.setdefault("train", []).append(str(each))
    return named


def _listed(globs: Any) -> list[str]:
    return [
        str(glob) for glob in (globs if isinstance(globs, list) else [globs]) if glob is not None
    ]
