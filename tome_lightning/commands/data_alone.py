"""A recipe's data set, without its model and trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tome_lightning.arguments import (
    VerbParser,
    data_options,
    options_in,
    parse_part,
    part_parser,
    split_part,
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
    words, others, _ = split_part(words, "data")
    for option in (word.partition("=")[0] for word in others):
        if option.startswith("--") and option[2:].split(".")[0] in OTHER_PARTS:
            raise UsageError(
                f"{verb} only takes data options (--data.KEY), got {option}. Leave it out: {verb} "
                "makes no model and no trainer."
            )
    nothing = UsageError(
        f"{verb} needs a data set: --recipe NAME|FILE, or --data CLASS --data.root DIR"
    )
    if not any(word in ("--config", "--data") or word.startswith("--data=") for word in words):
        raise nothing
    with leaving_at_ctrl_c():
        from lightning.pytorch import LightningDataModule

        parser = part_parser(prog=own.prog)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
    words += others  # of nothing: the parser says so
    options = parse_part(parser, words, options_in(own) | data_options())
    if options.data is None:
        raise nothing
    if adjust is not None:
        adjust(options.data)
    return parser.instantiate(options).data
