"""A verb's own options are told apart from those of the run that it looks at."""

import pytest

from tome_lightning.arguments import UsageError, VerbParser


@pytest.fixture
def parser() -> VerbParser:
    made = VerbParser(prog="verb")
    made.add_argument("--model")
    made.add_argument("--r", nargs="+")
    made.add_argument("--batch-size", type=int)
    return made


def test_words_that_are_no_options_go_with_the_option_before_them(parser: VerbParser):
    words = "--model vit --model.r -4 --r 8 16 --batch_size=2 -c a.yaml --data.root a b"
    given, others = parser.parse_own(words.split())
    assert vars(given) == {"model": "vit", "r": ["8", "16"], "batch_size": 2}
    assert others == "--model.r -4 -c a.yaml --data.root a b".split()


def test_help_is_the_verbs_own_wherever_it_stands(parser: VerbParser, capsys):
    with pytest.raises(SystemExit) as stop:
        parser.parse_own(["--recipe", "quickstart", "-h"])
    assert stop.value.code == 0
    assert "--batch-size" in capsys.readouterr().out


def test_a_value_of_another_type_is_a_users_mistake(parser: VerbParser):
    with pytest.raises(UsageError, match=r"--batch-size: invalid int value: 'many'"):
        parser.parse_own(["--recipe", "quickstart", "--batch-size", "many"])
