"""`python -m tome_lightning export`: a model as safetensors, torch.export program or ONNX, checked."""

from __future__ import annotations

import argparse
from pathlib import Path

from tome_lightning.arguments import VerbParser
from tome_lightning.errors import UsageError
from tome_lightning.screen import complain, say
from tome_lightning.trainer.signals import leaving_at_ctrl_c


def main(argv: list[str]) -> int:
    """Run the verb; returns 1 where the file computed something else and was not kept."""
    given = _parser().parse_args(argv)
    if given.batch_size is not None and given.dynamic_batch:
        raise UsageError("--batch-size and --dynamic-batch exclude each other: a number, or any.")
    batch = 1 if given.batch_size is None else given.batch_size
    with leaving_at_ctrl_c():
        from tome_lightning.commands.export.check import ExportMismatchError
        from tome_lightning.commands.export.export import export_model
        from tome_lightning.commands.r_words import parse_r

    try:
        exported = export_model(
            given.out, model=given.model, ckpt=given.ckpt, recipe=given.recipe,
            r=None if given.r is None else parse_r(given.r), prop_attn=given.prop_attn,
            img_size=given.img_size, random_weights=given.random_weights, weights=given.weights,
            format=given.format,
            batch_size=None if given.dynamic_batch else batch,
            scatter=given.scatter, opset=given.opset, force=given.force,
        )  # fmt: skip
    except ExportMismatchError as error:
        complain(error)
        return 1
    say("\n".join(exported.lines()))
    return 0


def _parser() -> VerbParser:
    parser = VerbParser(
        prog="python -m tome_lightning export",
        description="Write a model for other programs: .safetensors (timm's weights), .pt2 (a "
        "torch.export program that merges) or .onnx (merging inside). The file is loaded and its "
        "logits compared with the model's before it gets its name.",
        epilog="e.g.: --ckpt runs/quickstart/0/checkpoints/best.ckpt --out digits.onnx --dynamic-batch",
    )
    add = parser.add_argument
    add("--ckpt", metavar="FILE", help="a run's checkpoint; or weights for --model or --recipe")
    add("--model", metavar="NAME", help="a timm ViT's name")
    add("--recipe", metavar="NAME|FILE", help="a recipe, whose model takes --ckpt")
    add("--random-weights", action="store_true", help="of --model or --recipe: do not load any")
    add("--weights", choices=("live", "ema"), help="of a file of weights that holds both sets")
    add("--out", metavar="FILE", type=Path, required=True, help="what to write")
    add(
        "--format",
        help="safetensors, torch, onnx, timm-hub or hf-folder (folders); by default what the suffix says",
    )
    add(
        "--r", help="16, 16:-1.0 (inflection), 8,8,8 (a block each) or keep=0.9; fixed in the graph"
    )
    switch = argparse.BooleanOptionalAction
    add("--prop-attn", action=switch, help="merged tokens weigh by size in attention")
    add("--img-size", type=int, metavar="PIXELS", help="of --model; by default its own")
    add("--batch-size", type=int, metavar="N", help="samples of every batch; by default 1")
    add("--dynamic-batch", action="store_true", help="batches of any size")
    add("--no-scatter", action="store_false", dest="scatter", help="ONNX without ScatterElements")
    add("--opset", type=int, metavar="N", help="of ONNX, 18 to 23; by default the newest")
    add("--force", action="store_true", help="overwrite the file")
    return parser
