"""`python -m tome_lightning benchmark`: what Token Merging brings to a model, on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tome_lightning.arguments import VerbParser, nearest, read_arguments
from tome_lightning.commands.outputs import check_output, check_picture, write_json
from tome_lightning.errors import UsageError
from tome_lightning.screen import say
from tome_lightning.trainer.signals import leaving_at_ctrl_c

if TYPE_CHECKING:
    from tome_lightning.commands.benchmark.rows import Row
    from tome_lightning.commands.loaded import LoadedModel

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


def main(argv: list[str]) -> int:
    """Run the verb; returns 0, or 1 where a variant could not be measured."""
    given, others = _parser().parse_own(argv)
    _check(given, others)
    if given.loader:
        _time_loader(given, others)
        return 0
    with leaving_at_ctrl_c():
        from tome_lightning.commands.benchmark.bench import (
            find_device,
            resolve_batches,
            resolve_settings,
            run,
        )
        from tome_lightning.commands.r_words import parse_r
    device = find_device(given.device)
    with leaving_at_ctrl_c():  # that of a recipe imports Lightning
        loaded = _load(given, others)
    rs = None if given.r is None else [parse_r(text) for text in given.r]
    settings = resolve_settings(
        loaded, device, rs, given.mode, given.dtype, compile=given.compile,
        prop_attn=given.prop_attn, checkpointing=given.checkpointing, rounds=given.rounds,
    )  # fmt: skip
    batches = resolve_batches(loaded, settings, given.batch_size)
    output = _Output(given.json, given.plot, loaded, settings.training)
    rows = run(loaded, settings, batches, after=output.take, meanwhile=output.keep)
    output.draw(rows)
    if given.end_to_end:
        from tome_lightning.commands.benchmark.end_to_end import measure

        output.take_whole_run(measure([*others, *_same_for_fit(given)]))
    output.say_files()
    return int(any(row.error is not None for row in rows))


def _parser() -> VerbParser:
    parser = VerbParser(
        prog="python -m tome_lightning benchmark",
        description="Time a dense ViT against itself with Token Merging: one process, in turn, the same "
        "random weights and batch. Says how much of what the arithmetic allows is realised.",
        epilog="--recipe NAME|FILE measures a recipe's model instead, with its options: --model.KEY. "
        "e.g.: --model vit_base_patch16_224 --r 8 16 --mode train",
    )
    add = parser.add_argument
    switch: Any = argparse.BooleanOptionalAction
    add("--model", metavar="NAME", help="a timm ViT's name")
    add("--img-size", type=int, metavar="PIXELS", help="of --model; by default its own")
    add("--frames", type=int, metavar="N", help="makes --model a video model, tubelets of 2 frames")
    add("--depth", type=int, metavar="N", help="of --model: its first N blocks only")
    add(
        "--r", nargs="+", help="16, 16:-1.0 (inflection), 8,8,8 (a block each) or keep=0.9; several"
    )
    size = "one or several; by default so many that a GPU is busy, 64 or more; on a CPU 8"
    add("--batch-size", type=int, nargs="+", metavar="N", help=size)
    add("--mode", default="forward", help="forward, or train: backward and AdamW as well")
    add("--dtype", help="float32 (default), bfloat16 or float16, by autocast")
    add("--compile", action="store_true", help="torch.compile for dense and merged alike")
    add("--prop-attn", action=switch, help="merged tokens weigh by size in attention")
    add("--checkpointing", action=switch, help="recompute blocks in the backward pass")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    add("--rounds", type=int, metavar="N", help="timed rounds; by default 20 s a variant, 5 to 25")
    add("--json", type=Path, metavar="FILE", help="write the rows")
    add("--plot", type=Path, metavar="FILE.png", help="draw speed-up against r")
    add("--end-to-end", action="store_true", help="with --recipe: time its data and Trainer too")
    add("--loader", action="store_true", help="with --recipe: time one core that makes its samples")
    return parser


def _check(given: argparse.Namespace, others: Sequence[str]) -> None:
    """Refuse contradicting options before a model is built."""
    recipe = any(word.split("=")[0] in ("--recipe", "--config", "-c") for word in others)
    if given.model is None and not recipe:
        raise UsageError("benchmark needs --model NAME (timm's) or --recipe NAME|FILE.")
    if given.model is not None and recipe:
        raise UsageError("--model NAME and --recipe exclude each other: each is a model.")
    if given.model is not None and others:
        word, known = others[0].partition("=")[0], _parser()._option_string_actions
        raise UsageError(f"Unknown option {word!r} with --model NAME. {nearest(word, known)}")
    for name in ("img_size", "frames", "depth"):
        if recipe and getattr(given, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is for --model NAME; a recipe has --model.input.KEY and "
                "--model.vit.depth."
            )
    if given.end_to_end and not recipe:
        raise UsageError("--end-to-end needs data: give --recipe NAME|FILE instead of --model.")
    if given.loader:
        _check_loader(given, recipe)
    for path in (given.json, given.plot):
        if path is not None:
            check_output(path, force=True)
    check_picture(given.plot)


def _check_loader(given: argparse.Namespace, recipe: bool) -> None:
    if not recipe:
        raise UsageError("--loader needs data: give --recipe NAME|FILE instead of --model.")
    for name, usual in vars(_parser().parse_args([])).items():
        if name not in ("loader", "json") and getattr(given, name) != usual:
            raise UsageError(
                f"--loader times the data alone: leave out --{name.replace('_', '-')}."
            )


def _load(given: argparse.Namespace, others: list[str]) -> LoadedModel:
    from tome_lightning.commands.benchmark.timm_model import from_timm
    from tome_lightning.commands.loaded import from_recipe

    if given.model is not None:
        return from_timm(given.model, given.img_size, given.frames, given.depth)
    return from_recipe(others, whole_run=given.end_to_end)


class _Output:
    """Where rows go as they come: the screen, the JSON file, the picture."""

    def __init__(
        self, rows: Path | None, plot: Path | None, loaded: LoadedModel, training: bool
    ) -> None:
        self.json, self.plot = rows, plot
        self.loaded, self.training = loaded, training
        self.content: list[dict[str, Any]] = []

    def take(self, rows: list[Row]) -> None:
        """Print the rows of the batch size that was measured last; write all."""
        from tome_lightning.commands.benchmark.report import format_report

        say("\n".join(format_report([row for row in rows if row.batch == rows[-1].batch])))
        self.keep(rows)

    def keep(self, rows: list[Row]) -> None:
        """Write what there is: a run that is cut off leaves the rounds it had."""
        self.content = [row.as_dict() for row in rows]
        self._write()

    def take_whole_run(self, result: Any) -> None:
        say("\n".join(result.lines()))
        self.content.append({"variant": "end_to_end", **result.as_dict()})
        self._write()

    def draw(self, rows: list[Row]) -> None:
        from tome_lightning.commands.benchmark.plot import mac_limit, plot

        if self.plot is not None:
            most = max(row.r for row in rows if isinstance(row.r, int))
            merged = max((row.tokens_in - row.tokens_out) / row.depth for row in rows)
            plot(rows, mac_limit(self.loaded, self.training, 1.15 * max(most, merged)), self.plot)

    def say_files(self) -> None:
        for path in (self.json, self.plot):
            if path is not None:
                say(f"written: {path}")

    def _write(self) -> None:
        if self.json is not None:
            write_json(self.content, self.json)


def _same_for_fit(given: argparse.Namespace) -> list[str]:
    """This verb's options as those of fit; of several r none is fit's, and batches are the data's."""
    from tome_lightning.commands.r_words import parse_r

    words = {
        "model.r": json.dumps(parse_r(given.r[0])) if given.r and len(given.r) == 1 else None,
        "model.prop_attn": given.prop_attn,
        "model.grad_checkpointing": given.checkpointing,
        "model.compile": given.compile or None,
        "trainer.accelerator": given.device.partition(":")[0] if given.device != "auto" else None,
        "trainer.precision": PRECISIONS[given.dtype] if given.dtype else None,
    }
    return [f"--{name}={value}" for name, value in words.items() if value is not None]


def _time_loader(given: argparse.Namespace, others: list[str]) -> None:
    from tome_lightning.commands.data_alone import data_of

    arguments = read_arguments(others)
    data = data_of("benchmark --loader", arguments.argv, _parser())
    with leaving_at_ctrl_c():
        from tome_lightning.commands.benchmark.loader import SECONDS, lines, measure_loader
    rows = measure_loader(data, SECONDS)
    say("\n".join(lines(rows)))
    if given.json is not None:
        write_json([row._asdict() for row in rows], given.json)
        say(f"written: {given.json}")
