"""`python -m tome_lightning compare`: the results of runs side by side."""

from __future__ import annotations

import json

from tome_lightning.arguments import VerbParser
from tome_lightning.screen import say


def main(argv: list[str]) -> None:
    """Run the verb."""
    from tome_lightning.commands.compare.runs import compare, format_comparison

    parser = VerbParser(
        prog="python -m tome_lightning compare",
        description="Lay runs side by side: metrics, speed, memory, and the settings that differ. A run "
        "with --model.r 0, the dense control, is what the others are measured against.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directories or summary.json files"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args(argv)
    found = compare(*given.runs)
    say(json.dumps(found, indent=2) if given.json else format_comparison(found))
