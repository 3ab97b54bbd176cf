"""The short help names the options that matter, all of them real."""

import re

import pytest

from tome_lightning.__main__ import LIGHTNING, main
from tome_lightning.cli import _nested_options
from tome_lightning.commands.short_help import short_help


def named(text: str) -> set[str]:
    return set(re.findall(r"--([a-z_]+(?:\.[a-z_]+)*)", text))


@pytest.mark.parametrize("verb", ["fit", "predict"])
def test_all_options_are_a_word_away_and_the_short_ones_are_among_them(verb, capsys):
    assert main([verb, "--recipe", "quickstart", "--help"]) == 0
    short = capsys.readouterr().out
    assert f"python -m tome_lightning {verb} --help all" in short
    assert len(short.splitlines()) < 50
    assert main([verb, "--help", "all"]) == 0
    whole = capsys.readouterr().out
    assert whole.startswith(f"usage: python -m tome_lightning {verb} [")
    missing = named(short) - named(whole) - _nested_options() - {"option"}
    assert not missing
    assert len(whole.splitlines()) > 10 * len(short.splitlines())


def test_two_dozen_options_of_fit_come_first():
    assert 20 <= len(named(short_help("fit", "")) - {"help", "option"}) <= 36


@pytest.mark.parametrize("verb", LIGHTNING)
def test_each_verb_says_what_it_is_for(verb, capsys):
    assert main([verb, "-h"]) == 0
    out = capsys.readouterr().out
    assert LIGHTNING[verb][1:] in out
    assert max(map(len, out.splitlines())) <= 120
    assert ("--resume" in out) == (verb == "fit")
    assert ("--ckpt_path" in out) == (verb != "fit")
