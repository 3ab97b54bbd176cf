"""`python -m tome_lightning inspect`: what a checkpoint is, and what of it would load."""

from __future__ import annotations

import json

from tome_lightning.arguments import VerbParser
from tome_lightning.screen import say, typed
from tome_lightning.trainer.signals import leaving_at_ctrl_c


def main(argv: list[str]) -> None:
    """Run the verb; a file that does not fit the recipe is a user's mistake."""
    parser = VerbParser(
        prog="python -m tome_lightning inspect",
        description="Say what a checkpoint is: family, kind, size, classes, r, epoch, licence. It is "
        "read safely: nothing in it is run, and no weights are downloaded.",
    )
    parser.add_argument(
        "file", help="a file, a Hub folder, or a name: ours, timm's, hf-hub:OWNER/NAME"
    )
    parser.add_argument("--recipe", help="say what of it this recipe's model would take")
    parser.add_argument("--json", action="store_true", help="as JSON, with all that is known")
    given = parser.parse_args(argv)
    with leaving_at_ctrl_c():
        from tome_lightning.commands.inspect.facts import (
            dry_run,
            fitting_recipes,
            format_facts,
            inspect_checkpoint,
        )
    facts = inspect_checkpoint(given.file)
    fitting = fitting_recipes(facts)
    if given.json:
        loads = {} if given.recipe is None else {"loads": dry_run(given.file, given.recipe)}
        say(json.dumps({**facts, "recipes": fitting, **loads}, indent=2))
        return
    say(given.file)
    say(format_facts(facts))
    if facts["what"] == "a run's checkpoint":
        say(f"  test it      python -m tome_lightning test --ckpt_path {typed(given.file)}")
    elif fitting:
        say(
            f"  fits         {', '.join(fitting)}  (fit --recipe NAME --init_from {typed(given.file)})"
        )
    if given.recipe is not None:
        say(dry_run(given.file, given.recipe))
