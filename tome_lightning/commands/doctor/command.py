"""`python -m tome_lightning doctor`: what works on this machine, and whether a recipe can run."""

from __future__ import annotations

import recipes
from tome_lightning.arguments import VerbParser
from tome_lightning.screen import say

PROG = "python -m tome_lightning doctor"


def main(argv: list[str]) -> int:
    """Run the verb; returns 1 if something is broken that a run (with a recipe: its run) needs."""
    parser = VerbParser(
        prog=PROG,
        description="Check this machine: versions, devices, attention kernels, decoders, folders; with "
        "--recipe also whether that recipe can run: its options, model, weights, data, devices.",
    )
    parser.add_argument("--recipe", metavar="NAME|FILE", help="followed by any options of fit")
    given, options = parser.parse_known_args(argv)
    if options and given.recipe is None:
        parser.error(f"unrecognized arguments: {options[0]}")
    words = []
    if given.recipe is not None:
        recipes.path(given.recipe)  # a misspelt one is told at once
        words = ["--recipe", given.recipe, *options]
    return doctor(words)


def doctor(words: list[str] | None = None) -> int:
    """Check this machine and print a line for each thing looked at.

    Args:
        words: Of a recipe's run, as for fit: ``["--recipe", "imagenet_vitl", "--data.root", "DIR"]``;
            nothing checks the machine alone.

    Returns:
        1 if something that is needed is broken, else 0.
    """
    from checkpoints.errors import first_line
    from tome_lightning.commands.doctor.findings import Status, broken, format_findings
    from tome_lightning.commands.doctor.machine import check_machine
    from tome_lightning.commands.doctor.recipe import check_recipe
    from tome_lightning.trust import foreign_classes

    if foreign := foreign_classes(words or []):
        say(
            f"the recipe names classes of others, which are imported and made: {', '.join(foreign)}"
        )
    found, kind = check_machine(), ""
    wrong = [f for f in found if f.status is Status.BROKEN]
    if words:
        try:
            more, kind = check_recipe(words)
        except (ImportError, OSError, AttributeError, RuntimeError) as error:  # broken packages
            more = [
                broken("recipe", f"cannot be read: {first_line(error)}", "mend the lines above")
            ]
        found += more
        wrong += [f for f in more if f.status is Status.BROKEN]
        wrong = [f for f in wrong if f.needed_by in ("", kind)]
    say(format_findings(found))
    if words:
        missing = any(f.what == "weights" and f.status is Status.WARNING for f in found)
        able = "can run here once its weights are there" if missing else "can run here"
        say("This recipe cannot run here." if wrong else f"This recipe {able}.")
    return int(bool(wrong))
