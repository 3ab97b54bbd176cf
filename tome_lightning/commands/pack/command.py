"""`python -m tome_lightning pack`: a data set in tar shards, in the order of its lists."""

from __future__ import annotations

from typing import Any

from tome_lightning.arguments import VerbParser, read_arguments
from tome_lightning.commands.data_alone import data_of
from tome_lightning.commands.pack.packing import Packed, pack
from tome_lightning.commands.pack.speed import compare_reading, format_reading
from tome_lightning.errors import UsageError
from tome_lightning.screen import say, typed

__all__ = ["main", "pack"]


def main(argv: list[str]) -> None:
    """Run the verb; bad files are a result, not a failure.

    Args:
        argv: The command line after `pack`.

    Raises:
        ValueError: For a user's mistake.
    """
    given, words = _parser().parse_own(argv)
    arguments = read_arguments(words)
    if given.out is None:
        raise UsageError("pack needs a folder to write to, first, e.g.: pack shards --recipe ...")
    if given.measure < 0:
        raise UsageError(f"--measure is 0 or more samples, got {given.measure}.")
    data: Any = data_of("pack", arguments.argv, _parser())
    packed = pack(
        data,
        given.out,
        given.splits,
        given.shard_size,
        given.resize,
        given.flac,
        given.num_workers,
        recipe=arguments.recipe,
    )
    say("\n".join(format_summary(packed)))
    if given.measure and (reading := compare_reading(data, packed, given.measure)) is not None:
        say(format_reading(reading, bool(packed.convert)))


def format_summary(packed: Packed) -> list[str]:
    """Lines for the screen: what is in the shards, and what is not."""
    lines = [
        f"{name}: {split.samples:,} samples, {split.bytes:,} bytes in shards: {len(split.shards):,} "
        f"(list {split.digest})"
        for name, split in packed.splits.items()
    ]
    if packed.convert:
        lines.append(f"every file: {packed.convert}")
    if packed.bad:
        first, bad_files = packed.bad[0], packed.folder / "bad_files.json"
        lines.append(
            f"left out: {len(packed.bad):,} files that cannot be read, e.g. {first.path}: "
            f"{first.reason}; the samples after them have other indices than in a run on the files, "
            f"unless that leaves them out, too: --data.exclude {typed(bad_files)}"
        )
    return [*lines, f"written and read back: {packed.folder}"]


def _parser() -> VerbParser:
    parser = VerbParser(
        prog="python -m tome_lightning pack",
        usage="python -m tome_lightning pack OUT --recipe NAME|FILE --data.root DIR [--option value ...]",
        description="Write a data set into tar shards, in WebDataset's convention and in the order of "
        "its lists: a run on them has the same samples under the same indices. The same command goes on "
        "where it was stopped.",
        epilog="The data set is a recipe's: --recipe NAME|FILE; or --data CLASS. With its options: "
        "--data.root DIR, --data.exclude FILE ... e.g.: pack shards --recipe imagenet_vitl --data.root "
        "imagenet --shard_size 1GB",
    )
    add = parser.add_argument
    add("out", metavar="OUT", nargs="?", help="folder of the shards; made if it is not there")
    add("--shard_size", default="1GB", metavar="SIZE",
        help="bytes of a shard at most: 1GB (the default), 500MB, 64MiB")  # fmt: skip
    splits = (
        "what to write: train val test; by default train, val, and test where it has other files"
    )
    add("--splits", nargs="+", metavar="SPLIT", help=splits)
    resize = "make larger pictures (JPEG) and videos (H.264, no sound) N pixels on the short side"
    add("--resize", type=int, metavar="N", help=resize)
    add("--flac", action="store_true", help="make sounds 16 kHz, one channel, FLAC")
    add("--num_workers", type=int, metavar="N",
        help="processes, by default one for each core; 0 for this process alone")  # fmt: skip
    measure = (
        "samples that are read from files and shards at the end to compare them: %(default)s; or 0"
    )
    add("--measure", type=int, default=200, metavar="N", help=measure)
    return parser
