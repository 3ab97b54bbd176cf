"""`python -m tome_lightning scan`: which files of a data set cannot be read, and what the others are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tome_lightning.arguments import (
    UsageError,
    VerbParser,
    explain_parse_error,
    read_arguments,
    read_yaml,
)
from tome_lightning.commands.scan.walk import SPLITS, scan
from tome_lightning.screen import say, typed
from tome_lightning.trainer.signals import leaving_at_ctrl_c

if TYPE_CHECKING:
    from datamodules.file_check import FileCheck

__all__ = ["main", "scan"]

OTHER_PARTS = ("model", "tome", "trainer", "seed_everything", "run_dir", "ckpt_path", "save")


def main(argv: list[str]) -> None:
    """Run the verb; nothing is wrong with it whatever the files are like.

    Args:
        argv: The command line after `scan`.

    Raises:
        ValueError: For a user's mistake.
    """
    given, words = _parser().parse_own(argv)
    arguments = read_arguments(words)
    data = _data(_data_only(arguments.argv), given.out)
    splits = [split.strip() for split in given.splits.split(",")]
    content = scan(data, given.out, splits, given.quick, given.workers, recipe=arguments.recipe)
    say("\n".join(format_summary(content, given.out, data.file_check(given.quick))))


def format_summary(content: Mapping[str, Any], out: str, check: FileCheck) -> list[str]:
    """Lines for the screen: what a scan by that check found, and what to do with it."""
    splits = ", ".join(f"{name} {count['files']:,}" for name, count in content["counts"].items())
    lines = [f"{content['files']:,} files ({splits}; lists {content['manifest_hash']})"]
    for name, count in content["counts"].items():
        if empty := count["classes_without_files"]:
            lines.append(f"{name}: {len(empty)} classes without a good file, e.g. {empty[0]}")
    if missing := content["missing"]:
        lines.append(
            f"missing: {len(missing):,}, e.g. {missing[0]['path']}; left out of the splits"
        )
    lines += check.tell(content)
    lines += _format_bad(content["bad"])
    leave_out = (
        f"; to leave the bad files out: --data.exclude {typed(out)}" if content["bad"] else ""
    )
    return [*lines, f"written: {out}{leave_out}"]


def _format_bad(bad: Sequence[Mapping[str, str]]) -> list[str]:
    """The number of bad files, and of the three most frequent types of error one example."""
    kinds = Counter(row["reason"].partition(":")[0] for row in bad)
    lines = [f"bad: {len(bad):,}"]
    for kind, count in kinds.most_common(3):
        row = next(row for row in bad if row["reason"].partition(":")[0] == kind)
        lines.append(f"  {count:,} {kind}, e.g. {row['path']}: {row['reason'][len(kind) + 2 :]}")
    others = len(bad) - sum(count for _, count in kinds.most_common(3))
    return [*lines, f"  {others:,} others"] if others else lines


def _parser() -> VerbParser:
    parser = VerbParser(
        prog="python -m tome_lightning scan",
        description="Find the files of a data set that cannot be read; sum up the rest.",
        epilog="The data set is a recipe's: --recipe NAME|FILE; or --data CLASS. With its options: "
        "--data.root DIR, --data.val_list FILE ... e.g.: --recipe imagenet_vitl --data.root imagenet "
        "--out scan.json",
    )
    add = parser.add_argument
    add("--out", metavar="FILE",
        help="JSON file to write; FILE.partial keeps what a stopped scan has found")  # fmt: skip
    add("--splits", default=",".join(SPLITS), help="what to scan: %(default)s")
    quick = "some frames of each video, the header of each sound, header and end of each picture"
    add("--quick", action="store_true", help=quick)
    add("--workers", type=int, metavar="N",
        help="processes, by default one for each core; 0 for this process alone")  # fmt: skip
    return parser


def _data(words: list[str], out: str | None) -> Any:
    """The data module that the words name."""
    with leaving_at_ctrl_c():
        parser = _data_parser()
    options = _parse(parser, words)
    if options.data is None:
        raise UsageError(
            "scan needs a data set: --recipe NAME|FILE, or --data CLASS --data.root DIR"
        )
    if out is None:
        raise UsageError("scan needs --out FILE, the JSON file to write, e.g. --out scan.json")
    if "exclude" in options.data.init_args:
        options.data.init_args.exclude = None  # a repaired file may come back
    return parser.instantiate(options).data


def _data_parser() -> Any:
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.cli import LightningArgumentParser

    parser = LightningArgumentParser(
        prog="python -m tome_lightning scan", exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
    return parser


def _parse(parser: Any, words: list[str]) -> Any:
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(words)
    except ArgumentError as error:
        parsers = (parser, _parser())
        own = {
            option.removeprefix("--") for one in parsers for option in one._option_string_actions
        }
        raise UsageError(explain_parse_error(str(error), own | _data_options())) from error


def _data_only(words: Iterable[str]) -> list[str]:
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
                f"scan only takes data options (--data.KEY), got {option}. Leave it out: scan makes "
                "no model and no trainer."
            )
        out.append(word)
    return out


def _data_options() -> set[str]:
    """`data.root` and so on: options of the class that the recipe chooses are no parser actions."""
    import datamodules

    classes = (getattr(datamodules, name) for name in datamodules.__all__)
    modules = (cls for cls in classes if hasattr(cls, "prepare_data"))
    return {f"data.{name}" for cls in modules for name in signature(cls).parameters}
