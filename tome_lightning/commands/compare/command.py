"""`python -m tome_lightning compare`: the results of runs side by side."""

from __future__ import annotations

import json

from tome_lightning.arguments import UsageError, VerbParser
from tome_lightning.screen import complain, say


def main(argv: list[str]) -> int:
    """Run the verb.

    Args:
        argv: The command line after `compare`.

    Returns:
        The exit code: 0, or 2 for a user's mistake.
    """
    from tome_lightning.commands.compare.runs import compare, tell

    parser = VerbParser(
        prog="python -m tome_lightning compare",
        description="Lay runs side by side: metrics, speed, memory, and the settings that differ. A run "
        "with --model.r 0, the dense control, is what the others are measured against.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directories or summary.json files"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    try:
        given = parser.parse_args(argv)
        found = compare(*given.runs)
    except UsageError as error:
        complain(error)
        return 2
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    say(json.dumps(found, indent=2) if given.json else tell(found))
    return 0
