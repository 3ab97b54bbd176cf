"""`python -m tome_lightning scan`: which files of a data set cannot be read, and what the others are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tome_lightning.arguments import VerbParser, read_arguments
from tome_lightning.commands.data_alone import data_of
from tome_lightning.commands.scan.walk import SPLITS, scan
from tome_lightning.errors import UsageError
from tome_lightning.screen import say, typed

if TYPE_CHECKING:
    from datamodules.file_check import FileCheck

__all__ = ["main", "scan"]


def main(argv: list[str]) -> None:
    """Run the verb; bad files are a result, not a failure."""
    given, words = _parser().parse_own(argv)
    arguments = read_arguments(words)
    data = _data(arguments.argv, given.out)
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

    def adjust(options: Any) -> None:
        if out is None:
            raise UsageError("scan needs --out FILE, the JSON file to write, e.g. --out scan.json")
        if "exclude" in options.init_args:
            options.init_args.exclude = None  # a repaired file may come back

    return data_of("scan", words, _parser(), adjust)
