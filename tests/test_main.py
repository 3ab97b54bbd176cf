"""The verbs: what they import for their help, and their exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tome_lightning.__main__ import COMMANDS, exit_code, main
from tome_lightning.arguments import UsageError
from tome_lightning.trainer.loss_guard import NonFiniteLossError
from tome_lightning.trainer.signals import RunStopped

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "lightning", "timm", "torchvision", "matplotlib", "jsonargparse")
LIGHT = {verb: (0, [verb, "--help"]) for verb in (*COMMANDS, "fit", "validate", "test", "predict")}
LIGHT |= {
    "no verb": (0, ["--help"]),
    "list": (0, ["recipes", "list"]),
    "show": (0, ["recipes", "show", "quickstart"]),
    "wrong verb": (2, ["bnchmark"]),
    "wrong option": (2, ["benchmark", "--model", "vit", "--round", "2"]),
    "no model": (2, ["sweep", "--r", "2"]),
}


def test_help_and_early_mistakes_import_nothing_heavy():
    code = (
        "import sys; from tome_lightning.__main__ import main\n"
        f"for name, (code, words) in {LIGHT!r}.items():\n"
        "    assert main(words) == code, name\n"
        f"    heavy = [module for module in {HEAVY!r} if module in sys.modules]\n"
        "    assert not heavy, (name, heavy)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("usage: python -m tome_lightning") == len(LIGHT) - 5
    assert run.stderr.count("error: ") == 3


class Killed(SystemExit):
    """As Lightning's, for SIGTERM: not that, so a plain exit."""


def interrupted_exit() -> SystemExit:
    stop = SystemExit(1)
    stop.__context__ = KeyboardInterrupt()
    return stop


def raised(error: BaseException) -> int:
    def run() -> int:
        raise error

    return exit_code(run)


def test_what_a_verb_returns_is_the_exit_code():
    assert [exit_code(lambda code=code: code) for code in (None, 0, 1, 130)] == [0, 0, 1, 130]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UsageError("a\n  b"), 2, "error: a b\n"),
        (KeyboardInterrupt(), 130, "Stopped by SIGINT\n"),
        (interrupted_exit(), 130, "Stopped by SIGINT\n"),
        (SystemExit(), 0, ""),
        (SystemExit(3), 3, ""),
        (SystemExit("words"), 1, ""),
        (Killed(4), 4, ""),
        (RunStopped(15), 143, ""),
    ],
)
def test_what_ends_a_verb_becomes_a_line_and_a_code(error, code, told, capsys):
    assert raised(error) == code
    assert capsys.readouterr().err == told


def test_sigterm_has_the_code_that_shells_give_it():
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    assert raised(SIGTERMException()) == 143


def test_a_bug_of_ours_is_raised_with_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("variables", "code", "lines"),
    [
        ({}, 2, 1),
        ({"LOCAL_RANK": "1"}, 0, 0),  # the first process would be killed soon if this one failed
        ({"LOCAL_RANK": "1", "RANK": "1"}, 2, 0),
        ({"LOCAL_RANK": "0", "RANK": "0"}, 2, 1),
    ],
)
def test_what_all_processes_raise_is_told_by_the_first(variables, code, lines, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert raised(NonFiniteLossError(f"loss is nan {variables}")) == code
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_a_pipe_that_is_closed_early_is_no_failure(monkeypatch):
    def closed(text):
        raise BrokenPipeError

    monkeypatch.setattr("tome_lightning.commands.recipes.say", closed)
    monkeypatch.setattr("os.dup2", lambda *files: None)
    assert main(["recipes", "list"]) == 0
