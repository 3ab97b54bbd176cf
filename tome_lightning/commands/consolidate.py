"""`python -m tome_lightning consolidate`: one checkpoint file from the folder of a sharded run."""

from __future__ import annotations

import argparse
from pathlib import Path

from tome_lightning.arguments import UsageError
from tome_lightning.screen import say
from tome_lightning.signals import leaving_at_ctrl_c


def main(argv: list[str]) -> int:
    """Run the verb.

    Args:
        argv: The command line after `consolidate`.

    Returns:
        The exit code: 0, or 2 for a user's mistake.
    """
    with leaving_at_ctrl_c():
        from tome_lightning.cli import exit_code

    return exit_code(lambda: _run(argv))


def _run(argv: list[str]) -> None:
    from tome_lightning.sharding import consolidate, header_file

    parser = argparse.ArgumentParser(
        prog="python -m tome_lightning consolidate",
        description="Write one checkpoint file from the folder that a run with --trainer.strategy "
        "fsdp2_sharded has saved. It is what every other strategy, test and predict take.",
    )
    parser.add_argument("folder", type=Path, help="e.g. runs/kinetics_vith/0/checkpoints/last.ckpt")
    parser.add_argument("file", type=Path, help="what to write; must not be there yet")
    given = parser.parse_args(argv)
    if header_file(given.folder) == given.folder:
        kind = "a file" if given.folder.is_file() else "no folder of a sharded checkpoint"
        raise UsageError(
            f"{given.folder} is {kind}. Give the folder that fsdp2_sharded wrote, such as "
            "runs/kinetics_vith/0/checkpoints/last.ckpt."
        )
    if given.file.exists():
        raise UsageError(f"{given.file} is there already. Give another name.")
    consolidate(given.folder, given.file)
    say(f"Wrote {given.file}")
