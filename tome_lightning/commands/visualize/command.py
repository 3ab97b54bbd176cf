"""`python -m tome_lightning visualize`: which patches became one token."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tome_lightning.arguments import VerbParser
from tome_lightning.commands.outputs import check_output
from tome_lightning.screen import say
from tome_lightning.trainer.signals import leaving_at_ctrl_c

if TYPE_CHECKING:
    from tome_lightning.commands.visualize.groups import Groups


def main(argv: list[str]) -> None:
    """Run the verb."""
    given = _parser().parse_args(argv)
    check_output(given.out, given.force)
    with leaving_at_ctrl_c():
        import torch

        from tome_lightning.commands.loaded import load_model
        from tome_lightning.commands.r_words import parse_r
        from tome_lightning.commands.visualize.pictures import check_depths, check_kind, visualize

    check_kind(given.out, len(given.input))
    rs = None if given.r is None else [parse_r(text) for text in given.r]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights, the same each time
        loaded = load_model(
            given.model, given.ckpt, given.recipe, prop_attn=given.prop_attn,
            img_size=given.img_size, random_weights=given.random_weights, weights=given.weights,
        )  # fmt: skip
    check_depths(given.depth, loaded.model.depth)
    found = visualize(
        loaded, given.input, given.out, rs, given.depth,
        distinct=None if given.colours is None else given.colours == "distinct", force=given.force,
    )  # fmt: skip
    named = "" if loaded.weights.startswith(loaded.name) else f"{loaded.name}: "
    say(f"{named}{loaded.weights}")
    for file, groups in zip(given.input, found, strict=True):
        for g in groups:
            say(f"  {file}, {_describe(g, loaded.model.num_tokens)}")
    if all(g.tokens == loaded.model.num_tokens for groups in found for g in groups):
        say("nothing has merged: ask for more with --r")
    say(f"written: {given.out}")


def _describe(g: Groups, num_tokens: int) -> str:
    merged = int((g.sizes > 1).sum())
    words = "nothing merges" if not merged else (
        f"{merged} of {len(g.sizes)} groups hold several patches, the largest {g.sizes.max()}"
    )  # fmt: skip
    return f"{g.when}: {num_tokens} -> {g.tokens} tokens, {words}"


def _parser() -> VerbParser:
    parser = VerbParser(
        prog="python -m tome_lightning visualize",
        description="Draw which patches of pictures, clips or sounds became one token.",
    )
    switch = argparse.BooleanOptionalAction
    add = parser.add_argument
    add("--ckpt", type=str, help="a run's checkpoint; with --model or --recipe a file of weights")
    add("--model", help="a timm name; its published weights unless --ckpt is given")
    add("--recipe", help="a recipe's model")
    add("--random-weights", action="store_true", help="leave the weights as drawn")
    add("--weights", choices=("live", "ema"), help="of a file of weights that holds both sets")
    add("--input", nargs="+", required=True, metavar="FILE",
        help="what to show it; in a tar file SHARD.tar::NAME")  # fmt: skip
    add("--out", type=Path, required=True, metavar="FILE",
        help=".png, .jpg, .webp; of a clip also .gif, .mp4")  # fmt: skip
    add(
        "--r",
        nargs="+",
        metavar="R",
        help="16, 16:-1.0, 8,8,8 or keep=0.9; by default the model's own",
    )
    add(
        "--depth",
        nargs="+",
        type=int,
        metavar="N",
        help="look after N blocks; by default after all",
    )
    add("--prop-attn", action=switch, help="merged tokens weigh by size in attention")
    add("--img-size", type=int, help="side of the image, with --model")
    add("--colours", choices=("distinct", "mean"),
        help="of a clip: mean colours, or a hue for each group (default of grey clips)")  # fmt: skip
    add("--force", action="store_true", help="overwrite")
    return parser
