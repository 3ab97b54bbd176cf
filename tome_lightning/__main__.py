"""``python -m tome_lightning``: finds the verb, and makes an exit code of how it ends.

Everything heavy is imported by the verb itself.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from importlib import import_module

from tome_lightning.run.failures import not_restored, of_loaded, users_mistake
from tome_lightning.screen import complain, say, silence
from tome_lightning.siblings import prefer_own
from tome_lightning.trainer.ranks import rank, started_by_first
from tome_lightning.trainer.signals import RunStopped, interrupted, leaving_at_ctrl_c
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
    "pack": "write a data set into tar shards",
    "benchmark": "measure what merging brings to a model, on this machine",
    "sweep": "measure one model at many r: accuracy against throughput",
    "visualize": "draw which patches became one token",
    "inspect": "say what a checkpoint is, and what would load it",
    "compare": "lay the results of runs side by side",
    "export": "write a model as safetensors, torch.export or ONNX, and check it",
}
VERBS = LIGHTNING | COMMANDS
SIGTERM = "lightning.pytorch.utilities.exceptions.SIGTERMException"
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
    verb, *words = argv
    if verb == "--version":
        print(f"tome_lightning {__version__}")
        return 0
    option, _, value = verb.partition("=")
    if option in ("--print_completion", "--print-completion"):
        return _own_verb("completion", [value] if value else words[:1])
    if verb in COMMANDS:
        return _own_verb(verb, words)
    if verb in LIGHTNING:
        return _lightnings_verb(verb, words, own_process)
    close = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Verbs: {', '.join(VERBS)}."
    complain_once(f"unknown verb {verb!r}. {hint}")
    return 2


def _own_verb(verb: str, words: list[str]) -> int:
    with leaving_at_ctrl_c():
        command = import_module(f"tome_lightning.commands.{verb}")
    try:
        return exit_code(lambda: command.main(words))
    except BrokenPipeError:  # `recipes show NAME | head`
        with contextlib.suppress(OSError, ValueError):  # else the interpreter flushes it once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _lightnings_verb(verb: str, words: list[str], own_process: bool) -> int:
    asked = re.search(r" (?:-h|--help(?:[ =](all))?)(?= |$)", " ".join([verb, *words]))
    if asked is not None:
        if asked[1] is None:
            from tome_lightning.commands.short_help import short_help

            print(short_help(verb, f"{LIGHTNING[verb].capitalize()}."))
            return 0
        words = ["--help"]
    with leaving_at_ctrl_c():
        from tome_lightning.cli import main as run
        from tome_lightning.trainer.claim import release
        from tome_lightning.trainer.peers import leaving
    try:
        return leaving(lambda: exit_code(lambda: run([verb, *words])), own_process)
    finally:
        release()


def exit_code(run: Callable[[], int | None]) -> int:
    """Run a verb; what it raises becomes one line and an exit code.

    Args:
        run: Returns the exit code; None is 0.

    Raises:
        Exception: An error that is neither a user's mistake nor known otherwise: a bug of ours.
    """
    silence()
    try:
        return run() or 0
    except (KeyboardInterrupt, SystemExit) as stop:
        return _stopped(stop)
    except RunStopped as stop:
        return 0 if started_by_first() else stop.exit_code
    except Exception as error:
        mistake = users_mistake(error)
        code = _failed(error) if mistake is None else _mistaken(mistake)
        if code is None:
            raise
        return code


def _stopped(stop: BaseException) -> int:
    if of_loaded(stop, SIGTERM):  # before training began, or in other verbs
        return 0 if started_by_first() else 128 + signal.SIGTERM
    if interrupted(stop):
        if not rank():
            say("Stopped by SIGINT", sys.stderr)
        return 0 if started_by_first() else 128 + signal.SIGINT
    code = getattr(stop, "code", None)  # --help, --print_config
    return code if isinstance(code, int) else int(code is not None)


def _mistaken(mistake: BaseException) -> int:
    if getattr(mistake, "of_all", False) and rank():
        return 0 if started_by_first() else 2
    complain_once(mistake)
    return 2


def _failed(error: Exception) -> int | None:
    """Say what ended a run, other than a user's mistake: the exit code, or None if that is not known."""
    if "lightning" in sys.modules:
        from tome_lightning.trainer.peers import follow

        followed = follow(error)
        if followed is not None:
            return followed
    if "torch" in sys.modules:
        from tome_lightning.trainer.memory import out_of_memory

        no_memory = out_of_memory(error)
        if no_memory is not None:
            complain(no_memory)
            return 1
    unrestored = not_restored(error)
    if unrestored is None:
        return None
    complain_once(unrestored)
    return 2


if __name__ == "__main__":
    sys.exit(main())
