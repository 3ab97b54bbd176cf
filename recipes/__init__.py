"""Recipes: YAML files that are only values, each a complete run. This module finds them by name."""

import re
from difflib import get_close_matches
from pathlib import Path

__all__ = ["ALIASES", "RecipeError", "header", "names", "path"]

_FOLDER = Path(__file__).parent
ALIASES = {"audioset_vitb": "audioset2m_vitb"}
"""Other names of recipes."""

_SUFFIXES = (".yaml", ".yml")


class RecipeError(ValueError):
    """No such recipe; the message is one line and names the nearest ones."""


def names() -> tuple[str, ...]:
    """The recipes that ship with the package, sorted."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))


def path(name: str) -> Path:
    """The YAML file of a recipe: a shipped recipe's name, or the path of a file of one's own.

    Raises:
        RecipeError: `name` is neither.
    """
    shipped, name = names(), ALIASES.get(name, name)
    if name in shipped:
        return _FOLDER / f"{name}.yaml"
    given = Path(name).expanduser()
    is_yaml = given.suffix in _SUFFIXES
    if is_yaml and given.is_file():
        return given
    if is_yaml:
        problem = f"there is no file {name!r} (seen from {Path.cwd()})"
    elif given.exists():
        problem = f"{name!r} is not a .yaml or .yml file"
    else:
        problem = f"there is no recipe {name!r}"
    near = get_close_matches(given.stem if is_yaml else name, shipped)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise RecipeError(
        f"{problem}; {hint}Give the path of a .yaml file or one of: {', '.join(shipped)}"
    )


def header(name: str) -> dict[str, str]:
    """What the comment at the top of a recipe says: its ``title``, and by key ``published``,
    ``hardware``, ``data``, ... as far as they are there.

    Raises:
        RecipeError: As `path` does.
    """
    file = path(name)
    found: dict[str, str] = {}
    key = None
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or (line.strip() == "#" and len(found) > 1):
            break
        entry = re.match(r"#   (\w+) +(\S.*)", line)
        text = line.removeprefix("#").strip()
        if entry:
            key = entry[1]
            found[key] = entry[2]
        elif text and key:
            found[key] += f" {text}"
        elif text and "title" not in found:
            found["title"] = text.partition(": ")[2] or text
    return found
