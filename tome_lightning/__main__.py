"""``python -m tome_lightning``: finds the verb; everything heavy is imported by the verb itself."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import sys
from importlib import import_module

from tome_lightning.screen import say
from tome_lightning.siblings import prefer_own
from tome_lightning.trainer.signals import leaving_at_ctrl_c
from tome_lightning.trainer.telling import complain_once
from tome_lightning.trainer.threads import wait_asleep
from tome_lightning.version import __version__

HIDDEN = prefer_own()  # here, not in main: processes that multiprocessing spawns import this, too

LIGHTNING = {
    "fit": "fine-tune a model as a recipe says",
    "validate": "measure a model on the validation data",
    "test": "measure a model on the test data",
    "predict": "write a model's scores for the test data",
}
COMMANDS = {  # each a module in tome_lightning.commands
    "recipes": "list, show and copy the recipes",
    "doctor": "check this machine: versions, devices, decoders, and whether a recipe can run",
    "scan": "find the files of a data set that cannot be read",
    "benchmark": "measure what merging brings to a model, on this machine",
    "sweep": "measure one model at many r: accuracy against throughput",
    "visualize": "draw which patches became one token",
    "inspect": "say what a checkpoint is, and what would load it",
    "compare": "lay the results of runs side by side",
    "export": "write a model as safetensors, torch.export or ONNX, and check it",
}
VERBS = LIGHTNING | COMMANDS
USAGE = """\
usage: python -m tome_lightning VERB [--recipe NAME|FILE] [--option value ...]

{verbs}

A first run:    python -m tome_lightning fit --recipe quickstart
Options:        python -m tome_lightning fit --help
What will run:  python -m tome_lightning fit --recipe quickstart --print_config"""


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C, 1 for our own."""
    wait_asleep(os.environ)
    if HIDDEN and "LOCAL_RANK" not in os.environ:
        say(
            f"note: {' and '.join(map(str, HIDDEN))} cannot be imported here, since tome_lightning has a "
            "package of that name: rename it to use its classes",
            sys.stderr,
        )
    try:
        return _run(sys.argv[1:] if argv is None else argv, own_process=argv is None)
    except KeyboardInterrupt:  # before the verb is there to take care of it
        say("Stopped by SIGINT", sys.stderr)
        return 130


def _run(argv: list[str], own_process: bool) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text, and cost no run
        sys.stdout.reconfigure(errors="backslashreplace")
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {verb:<12} {text}" for verb, text in VERBS.items())))
        return 0
    if argv[0] == "--version":
        print(f"tome_lightning {__version__}")
        return 0
    if argv[0].partition("=")[0] in ("--print_completion", "--print-completion"):
        from tome_lightning.cli import print_completion

        return print_completion(argv[0].partition("=")[2] or (argv[1] if argv[1:] else "bash"))
    if argv[0] not in VERBS:
        close = difflib.get_close_matches(argv[0], VERBS, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Verbs: {', '.join(VERBS)}."
        complain_once(f"unknown verb {argv[0]!r}. {hint}")
        return 2
    if argv[0] in COMMANDS:
        try:
            with leaving_at_ctrl_c():
                command = import_module(f"tome_lightning.commands.{argv[0]}")
            return int(command.main(argv[1:]))
        except BrokenPipeError:  # `recipes show NAME | head`
            with contextlib.suppress(
                OSError, ValueError
            ):  # else the interpreter flushes it once more
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
    asked = re.search(r" (?:-h|--help(?:[ =](all))?)(?= |$)", " ".join(argv))
    if asked is not None:
        if asked[1] is None:
            from tome_lightning.commands.short_help import short_help

            print(short_help(argv[0], f"{LIGHTNING[argv[0]].capitalize()}."))
            return 0
        argv = [argv[0], "--help"]
    with leaving_at_ctrl_c():
        from tome_lightning.cli import main as run

    return run(argv, own_process)


if __name__ == "__main__":
    sys.exit(main())
