"""What a benchmark measures: a model with random weights, its input and its loss."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer

from tome_lightning.arguments import UsageError, explain_parse_error, read_arguments, read_yaml
from tome_lightning.inputs import Clip, Image, Input
from tome_lightning.tasks import SingleLabel, Task
from tome_lightning.tome import R, ToMeViT, patch

NUM_CLASSES = 1000  # of a timm model's head, whatever its weights were made for
DTYPES = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}


@dataclass(frozen=True)
class Case:
    """A stock ViT and what is needed to run and train it.

    Attributes:
        name: A timm name or a recipe's.
        vit: The dense model, as timm made it.
        input: What it reads.
        task: What it learns.
        r: The recipe's own; ``None`` of a timm model.
        prop_attn: The recipe's own; off for a timm model, as in ``patch``.
        checkpointing: The recipe's own.
        batch_size: Samples a step of the recipe (with repeats), on one device.
        dtype: float32, bfloat16 or float16: the recipe's trainer.precision.
        img_size: Size of the data's samples, where the model takes any; by default its own.
    """

    name: str
    vit: VisionTransformer
    input: Input
    task: Task
    r: R | None = None
    prop_attn: bool = False
    checkpointing: bool = False
    batch_size: int | None = None
    dtype: str | None = None
    img_size: tuple[int, ...] | None = None

    @property
    def model(self) -> ToMeViT:
        """The model that merges nothing yet; shares the weights."""
        model = patch(self.vit)
        model.img_size = self.shape[1:]
        return model

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch."""
        return self.input.shape if self.img_size is None else (self.input.shape[0], *self.img_size)

    def tokens(self, training: bool) -> int:
        """Tokens that enter the first block; training may leave some out."""
        model = self.model
        return model.train_tokens if training else model.num_tokens


def from_timm(
    name: str,
    img_size: int | None = None,
    frames: int | None = None,
    depth: int | None = None,
) -> Case:
    """A timm ViT by its name, or a video ViT of its size.

    Args:
        name: A timm name; a weights tag behind a dot is left out.
        img_size: Side of the image in pixels; by default the model's own.
        frames: Makes it a model of clips, cut into tubelets of two frames.
        depth: Keep only the first blocks.

    Raises:
        InputError: For an unknown name, or sizes that its patches do not tile.
        UnsupportedModelError: If its tokens cannot be merged.
        UsageError: If it has fewer blocks.
    """
    plain = name.partition(".")[0]
    known = get_pretrained_cfg(plain) if plain in timm.list_models() else None
    size = img_size or (known.input_size[-1] if known is not None and known.input_size else 224)
    read: Input = Image(size=size, timm_model=plain)
    if frames is None:
        vit = read.build(num_classes=NUM_CLASSES)
    else:
        with torch.device("meta"):
            skeleton = patch(read.build(num_classes=NUM_CLASSES)).vit
        read, vit = _as_video(skeleton, size, frames)
    patch(vit)  # refuses what cannot merge
    if depth is not None:
        if not 1 <= depth <= len(vit.blocks):
            raise UsageError(f"--depth is 1 to {len(vit.blocks)} for {plain}, got {depth}.")
        vit.blocks = vit.blocks[:depth]
    return Case(plain, vit, read, SingleLabel(NUM_CLASSES))


def from_recipe(words: Iterable[str], whole_run: bool = False) -> Case:
    """The model of a recipe, made as fit makes it but for its weights.

    Args:
        words: ``--recipe`` and ``--model.KEY`` options, as for fit.
        whole_run: Whether options of data, trainer and so on may be among them; they are left out.

    Raises:
        UsageError: For options that are none, and what the model's parts refuse.
    """
    from lightning.pytorch.cli import LightningArgumentParser

    from tome_lightning.finetune import FineTune

    arguments = read_arguments(list(words))
    if arguments.recipe is None:
        raise UsageError("benchmark needs --model NAME (timm's) or --recipe NAME|FILE.")
    argv, settings = _model_only(arguments.argv, whole_run)
    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(FineTune, "model")
    module: FineTune = parser.instantiate(_parse(parser, argv)).model
    model, size = module.model, settings.get("img_size")
    if not model.vit.dynamic_img_size:
        size = None
    elif size is not None:
        model.img_size = size
    return Case(
        arguments.recipe, model.vit, module.input, module.task,
        r=model.r if any(model.plan()) else None,
        prop_attn=model.prop_attn,
        checkpointing=bool(model.vit.grad_checkpointing),
        batch_size=settings.get("batch_size"),
        dtype=settings.get("dtype"),
        img_size=size,
    )  # fmt: skip


def _as_video(vit: VisionTransformer, size: int, frames: int) -> tuple[Clip, VisionTransformer]:
    block: Any = vit.blocks[0]
    side = vit.patch_embed.patch_size[0]
    clip = Clip(frames=frames, size=size, patch=side)
    return clip, clip.build(
        embed_dim=vit.embed_dim,
        depth=len(vit.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / vit.embed_dim,
        num_classes=NUM_CLASSES,
    )


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


def _parse(parser: Any, argv: list[str]) -> Any:
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        own = {name.removeprefix("--") for a in parser._actions for name in a.option_strings}
        raise UsageError(explain_parse_error(str(error), own)) from error


def parse_r(text: str) -> R:
    """r as the command line writes it: ``16``, ``16:-1.0``, ``8,8,8``, ``keep=0.9``, or YAML.

    Raises:
        UsageError: For anything else.
    """
    try:
        if text[:1] in "[{" and text:
            value: R = yaml.safe_load(text)
            return value
        if text.startswith("keep="):
            return {"keep": float(text.removeprefix("keep="))}
        if ":" in text:
            r, inflection = text.split(":")
            return {"r": int(r), "inflection": float(inflection)}
        if "," in text:
            return [int(part) for part in text.split(",") if part.strip()]
        return int(text)
    except (ValueError, yaml.YAMLError):
        raise UsageError(
            f"--r is tokens merged per block, 16, with an inflection, 16:-1.0, a list, 8,8,8, or the "
            f"share that is kept, keep=0.9; got {text!r}."
        ) from None


def default_r(case: Case, training: bool) -> R:
    """The recipe's own r; else the constant one that merges nearly all patches by the last block.

    Patches / blocks gives what ToMe's authors use: 16 for ViT-B/16 and 8 for ViT-L/16 at 224 pixels,
    65 for a video ViT-L.
    """
    if case.r is not None:
        return case.r
    model = case.model
    return max(1, (case.tokens(training) - model.num_prefix) // model.depth)
