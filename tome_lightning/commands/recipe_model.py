"""The model of a recipe, with random weights, built from the words of a command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from tome_lightning.arguments import parse_part, part_parser, read_arguments, split_part
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
    settings: dict[str, Any] = {}
    for content in whole:
        settings |= _settings(content)
    return RecipeModel(arguments.recipe, module, **settings)


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
