"""`python -m tome_lightning recipes`: list, show and copy the recipes, without importing torch."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

import recipes
from tome_lightning.arguments import VerbParser
from tome_lightning.commands.outputs import check_output
from tome_lightning.errors import UsageError
from tome_lightning.screen import say, typed

PROG = "python -m tome_lightning recipes"
WIDTHS = (22, 28, 21, 23)  # of a table's columns, in characters
GAP = "  "


def main(argv: list[str]) -> None:
    """Run the verb."""
    say(_run(argv))


def table() -> str:
    """The shipped recipes: name, task, published number, hardware."""
    rows = [("recipe", "task", "published (expected)", "hardware")]
    for name in recipes.names():
        header = recipes.header(name)
        published = _short(header.get("published") or f"({header.get('expected', 'none')})")
        hardware = _short(header.get("hardware", "2 CPU cores")).partition(";")[0]
        rows.append((name, _short(header["title"]), published, hardware))
    lines = [line for row in rows for line in _row(row)]
    return "\n".join([lines[0], *lines[1:]])


def copy(name: str, file: Path, force: bool = False) -> Path:
    """Copy a recipe to a file of one's own.

    Args:
        name: A shipped recipe's name.
        file: What to write; a folder takes it under its own name.
        force: Whether it may overwrite.

    Raises:
        recipes.RecipeError: There is no such recipe; says which are nearest.
        UsageError: The file cannot be written, is there already, or is no .yaml.
    """
    source = recipes.path(name)
    target = file / source.name if file.is_dir() else file
    if target.suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"A recipe is a .yaml file, got {target}. Try {target.with_suffix('.yaml')}."
        )
    try:
        shutil.copyfile(source, check_output(target, force))
    except (OSError, shutil.SameFileError) as error:
        raise UsageError(f"{target} cannot be written: {error}. Name another file.") from error
    return target


def _run(argv: list[str]) -> str:
    parser = VerbParser(
        prog=PROG, description="The recipes: complete runs as YAML files of values."
    )
    verbs = parser.add_subparsers(dest="what", metavar="{list,show,copy}")
    verbs.add_parser("list", help="names, tasks, published numbers, hardware")
    show = verbs.add_parser("show", help="print a recipe with its comments")
    show.add_argument("name")
    to_copy = verbs.add_parser("copy", help="copy a recipe, to change it")
    to_copy.add_argument("name")
    to_copy.add_argument("file", type=Path)
    to_copy.add_argument("--force", action="store_true", help="overwrite")
    given = parser.parse_args(argv)
    if given.what == "show":
        file = recipes.path(given.name)
        try:
            return file.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} cannot be read as text: {error}.") from error
    if given.what == "copy":
        file = copy(given.name, given.file, given.force)
        return f"Wrote {file}. Run it: python -m tome_lightning fit --recipe {typed(file)}"
    return table() + (
        "\n\nA recipe with all its values:  recipes show NAME      one to change:  recipes copy NAME FILE"
    )


def _short(text: str) -> str:
    """The part of a header's line that a table has room for."""
    left_out = r" \([^()]*\)|, in (minutes|the ToMe).*| in training and evaluation|; ours: [^;)]*"
    text = re.sub(left_out, "", text).removeprefix("written for ")
    text = text.replace(" with Token Merging", "").replace("fine-tuned on", "on").rstrip(".")
    return "; ".join(text.split("; ")[:2])


def _row(cells: Sequence[str]) -> list[str]:
    wrapped = [
        textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, WIDTHS, strict=True)
    ]
    lines = []
    for i in range(max(map(len, wrapped))):
        parts = [cell[i] if i < len(cell) else "" for cell in wrapped]
        line = GAP.join(f"{part:<{width}}" for part, width in zip(parts, WIDTHS, strict=True))
        lines.append(line.rstrip())
    return lines
