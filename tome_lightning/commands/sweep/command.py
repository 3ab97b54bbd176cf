"""`python -m tome_lightning sweep`: one model at many r, accuracy against throughput."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tome_lightning.arguments import VerbParser
from tome_lightning.commands.outputs import check_output, check_picture, write_json
from tome_lightning.errors import UsageError
from tome_lightning.screen import say
from tome_lightning.trainer.signals import leaving_at_ctrl_c

if TYPE_CHECKING:
    from tome_lightning.commands.sweep.rows import SweepRow

PROG = "python -m tome_lightning sweep"
INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """Run the verb; returns 130 after Ctrl-C, which leaves what was measured."""
    given, others = _parser().parse_own(argv)
    added = _check(given, others)
    output = _Output(given, added)
    if not others:
        output.finish()
        return 0
    with leaving_at_ctrl_c():
        from tome_lightning.commands.r_words import parse_r
        from tome_lightning.commands.sweep.measure import sweep
    rs = [parse_r(text) for text in given.r]
    try:
        sweep(
            rs, words=others, stage=given.stage, limit=given.limit, batch_size=given.batch_size,
            rounds=given.rounds, name=given.name, after=output.take,
        )  # fmt: skip
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning makes the second of the first
        if isinstance(stop, SystemExit) and not output.rows:
            raise  # --help, or nothing was measured
        say("interrupted: what was measured so far", sys.stderr)
        output.finish()
        return INTERRUPTED
    output.finish()
    return 0


def _parser() -> VerbParser:
    parser = VerbParser(
        prog=PROG,
        description="Measure one model at many r: the metrics of `validate`, and the throughput of all "
        "r in turn with the dense model. This is how one chooses r.",
        epilog="All other options are those of `validate`: --ckpt_path FILE, or --recipe NAME with "
        "--model.checkpoint; --data.root DIR, --trainer.precision ... "
        "e.g.: --ckpt_path runs/quickstart/0/checkpoints/best.ckpt --r 2 4 6 keep=0.9 --plot r.png",
    )
    add = parser.add_argument
    add("--r", nargs="+", default=[], help="16, 16:-1.0 (inflection), 8,8,8 or keep=0.9; several")
    add("--stage", default="val", metavar="val|test", help="which data to measure the metrics on")
    add("--limit", type=int, metavar="N", help="batches of data to measure on, for a trial")
    add("--within", type=float, default=0.5, metavar="POINTS", help="loss that the verdict allows")
    add("--batch-size", type=int, metavar="N", help="of the timed passes")
    add("--rounds", type=int, metavar="N", help="timed rounds; by default some 20 s an r, 5 to 25")
    add("--name", help="of the run, in table and picture")
    add("--json", type=Path, metavar="FILE", help="write the rows, as they come")
    add("--plot", type=Path, metavar="FILE.png", help="draw accuracy against throughput")
    add(
        "--add",
        type=Path,
        nargs="+",
        default=[],
        metavar="JSON",
        help="other sweeps, drawn as well",
    )
    add("--force", action="store_true", help="overwrite --json and --plot")
    return parser


def _check(given: argparse.Namespace, others: Sequence[str]) -> list[SweepRow]:
    """Refuse what needs no model to be refused; returns the rows of other sweeps."""
    if not others and not given.add:
        raise UsageError(
            "sweep needs a model: --ckpt_path FILE (a run's), or --recipe NAME with a checkpoint."
        )
    models = ("--ckpt_path", "--ckpt-path", "--recipe", "--config", "-c")
    if others and not any(word.partition("=")[0] in models for word in others):
        raise UsageError(
            f"sweep needs a model beside {others[0]}: --ckpt_path FILE (a run's), or --recipe NAME "
            "with a checkpoint."
        )
    if others and not given.r:
        raise UsageError("sweep needs some r, such as --r 0 4 8 keep=0.9.")
    if given.r and not others:
        raise UsageError("--r needs a model to measure: --ckpt_path FILE, or --recipe NAME.")
    if given.json is not None and not others:
        raise UsageError("--json keeps what is measured, and --add alone measures nothing.")
    if given.within < 0:
        raise UsageError(f"--within is 0 or more points, got {given.within:g}.")
    check_picture(given.plot)
    for path in (given.json, given.plot):
        if path is not None:
            check_output(path, given.force)
    if not given.add:
        return []
    with leaving_at_ctrl_c():
        from tome_lightning.commands.sweep.rows import read_rows
    return [row for path in given.add for row in read_rows(path)]


class _Output:
    """Where rows go: the JSON as they come, the screen and the picture at the end."""

    def __init__(self, given: argparse.Namespace, added: list[SweepRow]) -> None:
        self.given, self.added = given, added
        self.rows: list[SweepRow] = []

    def take(self, rows: list[SweepRow]) -> None:
        self.rows = rows
        if self.given.json is not None:
            write_json([row.as_dict() for row in rows], self.given.json)

    def finish(self) -> None:
        from tome_lightning.commands.sweep.table import format_report

        given: Any = self.given
        rows = [*self.rows, *self.added]
        if not rows:
            return
        say("\n".join(format_report(rows, given.within)))
        written = [given.json] if given.json is not None and self.rows else []
        if given.plot is not None and any(row.samples_per_s is not None for row in rows):
            from tome_lightning.commands.sweep.plot import plot

            plot(rows, given.plot, given.within)
            written.append(given.plot)
        for path in written:
            say(f"written: {path}")
