"""The model of a recipe, with random weights, built from the words of a command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tome_lightning.arguments import parse_part, part_parser, read_arguments, split_part
from tome_lightning.commands.model import LoadedModel
from tome_lightning.errors import UsageError
from tome_lightning.finetune import FineTune

DTYPES = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}  # of trainer.precision


def from_recipe(words: Iterable[str], whole_run: bool = False) -> LoadedModel:
    """The model of a recipe with random weights, r as the recipe has it.

    Args:
        words: ``--recipe`` and ``--model.KEY`` options, as for fit.
        whole_run: Whether options of data, trainer and so on may be among them; they are left out.

    Raises:
        UsageError: For options that are none, and what the model's parts refuse.
    """
    arguments = read_arguments(list(words))
    if arguments.recipe is None:
        raise UsageError("benchmark needs --model NAME (timm's) or --recipe NAME|FILE.")
    argv, others, whole = split_part(arguments.argv, "model")
    if others and not whole_run:
        raise UsageError(
            f"benchmark takes no {others[0].partition('=')[0]}: without --end-to-end it measures the "
            "model alone (--model.KEY). See --help for its own options."
        )
    parser = part_parser()
    parser.add_lightning_class_args(FineTune, "model")
    module: FineTune = parser.instantiate(parse_part(parser, argv)).model
    model, settings = module.model, dict[str, Any]()
    if not any(model.plan()):
        model.r = 0
    for recipe in whole:  # the last one that says something
        data = recipe.get("data") or {}
        data = data.get("init_args", data)
        if "batch_size" in data:
            settings["batch_size"] = int(data["batch_size"]) * int(data.get("repeat_aug") or 1)
        if isinstance(data.get("size"), int) and model.vit.dynamic_img_size:
            model.img_size = (data["size"], data["size"])
        if "precision" in (recipe.get("trainer") or {}):
            settings["dtype"] = DTYPES.get(str(recipe["trainer"]["precision"]), "float32")
    return LoadedModel(arguments.recipe, model, module.input, task=module.task, **settings)
