"""The model of a recipe, with random weights, built from the words of a command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tome_lightning.arguments import parse_part, read_arguments, read_yaml
from tome_lightning.errors import UsageError
from tome_lightning.finetune import FineTune

DTYPES = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}  # of trainer.precision


class RecipeModel(NamedTuple):
    """A recipe's module, and what its other parts say of samples and steps.

    Attributes:
        recipe: As the user named it.
        module: Made as fit makes it, without weights.
        batch_size: Samples a step (with repeats), on one device.
        dtype: float32, bfloat16 or float16: the recipe's trainer.precision.
        img_size: Rows and columns of the data's samples, where they are square pictures.
    """

    recipe: str
    module: FineTune
    batch_size: int | None = None
    dtype: str | None = None
    img_size: tuple[int, int] | None = None


def build(words: Iterable[str], whole_run: bool = False) -> RecipeModel:
    """Build the model of a recipe.

    Args:
        words: ``--recipe`` and ``--model.KEY`` options, as for fit.
        whole_run: Whether options of data, trainer and so on may be among them; they are left out.

    Raises:
        UsageError: For options that are none, and what the model's parts refuse.
    """
    from lightning.pytorch.cli import LightningArgumentParser

    arguments = read_arguments(list(words))
    if arguments.recipe is None:
        raise UsageError("benchmark needs --model NAME (timm's) or --recipe NAME|FILE.")
    argv, settings = _model_only(arguments.argv, whole_run)
    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(FineTune, "model")
    module: FineTune = parser.instantiate(parse_part(parser, argv)).model
    return RecipeModel(arguments.recipe, module, **settings)


def _model_only(words: Iterable[str], whole_run: bool) -> tuple[list[str], dict[str, Any]]:
    """The words about the model, and what a recipe's other parts say of batch and precision."""
    out: list[str] = []
    settings: dict[str, Any] = {}
    taken = True
    words = iter(words)
    for word in words:
        if word == "--config":
            recipe = read_yaml(Path(next(words)))
            model = {key: v for key, v in recipe.items() if str(key).split(".")[0] == "model"}
            out += ["--config", json.dumps(model)]
            settings |= _settings(recipe)
            continue
        if word.startswith("--"):
            taken = word[2:].split("=")[0].split(".")[0] == "model"
            if not taken and not whole_run:
                raise UsageError(
                    f"benchmark takes no {word.partition('=')[0]}: without --end-to-end it measures the "
                    "model alone (--model.KEY). See --help for its own options."
                )
        if taken:
            out.append(word)
    return out, settings


def _settings(recipe: dict[str, Any]) -> dict[str, Any]:
    data = recipe.get("data") or {}
    data = data.get("init_args", data)
    found: dict[str, Any] = {}
    if "batch_size" in data:
        found["batch_size"] = int(data["batch_size"]) * int(data.get("repeat_aug") or 1)
    if isinstance(data.get("size"), int):
        found["img_size"] = (data["size"], data["size"])
    if "precision" in (recipe.get("trainer") or {}):
        found["dtype"] = DTYPES.get(str(recipe["trainer"]["precision"]), "float32")
    return found
