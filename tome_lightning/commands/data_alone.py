"""A recipe's data set, without its model and trainer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tome_lightning.arguments import (
    VerbParser,
    data_options,
    options_in,
    parse_part,
    read_yaml,
)
from tome_lightning.errors import UsageError
from tome_lightning.trainer.signals import leaving_at_ctrl_c

OTHER_PARTS = ("model", "tome", "trainer", "seed_everything", "run_dir", "ckpt_path", "save")


def data_of(
    verb: str, words: Iterable[str], own: VerbParser, adjust: Callable[[Any], None] | None = None
) -> Any:
    """The data module that words name.

    Args:
        verb: What messages call the verb.
        words: What `read_arguments` leaves of the command line.
        own: Parses the verb's own options, which messages may suggest.
        adjust: Changes the class and options of the data before it is made.

    Raises:
        UsageError: For no data set, options of other parts, or those that it has not.
        DataError: For an option without meaning.
    """
    words = _data_only(verb, words)
    with leaving_at_ctrl_c():
        parser = _data_parser(own.prog)
    options = parse_part(parser, words, options_in(own) | data_options())
    if options.data is None:
        raise UsageError(
            f"{verb} needs a data set: --recipe NAME|FILE, or --data CLASS --data.root DIR"
        )
    if adjust is not None:
        adjust(options.data)
    return parser.instantiate(options).data


def _data_parser(prog: str) -> Any:
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.cli import LightningArgumentParser

    parser = LightningArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
    return parser


def _data_only(verb: str, words: Iterable[str]) -> list[str]:
    """The command line with only the data of each recipe; options of other parts are refused."""
    out: list[str] = []
    words = iter(words)
    for word in words:
        if word == "--config":
            recipe = read_yaml(Path(next(words)))
            data = {key: value for key, value in recipe.items() if str(key).split(".")[0] == "data"}
            out += ["--config", json.dumps(data)] if data else []
            continue
        option = word.partition("=")[0]
        if option.startswith("--") and option[2:].split(".")[0] in OTHER_PARTS:
            raise UsageError(
                f"{verb} only takes data options (--data.KEY), got {option}. Leave it out: {verb} "
                "makes no model and no trainer."
            )
        out.append(word)
    return out
