"""What the verbs around training open: a model by name, recipe or checkpoint, ready to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg

import checkpoints
import datamodules
import recipes
from checkpoints.hints import Number, fits
from checkpoints.notes import exported
from tome_lightning.arguments import UsageError, read_yaml
from tome_lightning.commands.model import LoadedModel as LoadedModel
from tome_lightning.commands.recipe_model import from_recipe as from_recipe
from tome_lightning.inputs import Image, Input
from tome_lightning.run.trusted import plain_data, trusted_data, trusted_model
from tome_lightning.tome import R, patch
from tome_lightning.tome.plan import check_possible
from tome_lightning.trainer.checkpoint_file import (
    CheckpointFileError,
    MalformedRunError,
    read_header,
)
from tome_lightning.trust import Untrusted, recipe_name

HALF = (0.5,)  # what timm assumes of a model that says nothing of its pixels


def load_model(
    model: str | None = None,
    ckpt: str | Path | None = None,
    recipe: str | None = None,
    *,
    r: R | None = None,
    prop_attn: bool | None = None,
    img_size: int | None = None,
    random_weights: bool = False,
    weights: checkpoints.Which | None = None,
    model_words: Sequence[str] = (),
) -> LoadedModel:
    """Open a model.

    Args:
        model: A timm name; with a tag, or without ``ckpt``, its published weights are fetched.
        ckpt: A run's checkpoint, which says all by itself; or, with ``model`` or ``recipe``, a file of
            weights or a name in ``checkpoints.SOURCES``.
        recipe: A recipe whose model is built; its own checkpoint is loaded unless ``ckpt`` is given.
        r: Tokens merged per block; by default the run's or the recipe's, 0 for a timm model.
        prop_attn: By default the run's or the recipe's, else what the weights' family wants.
        img_size: Side of the image, of a timm model.
        random_weights: Leave the weights as drawn, where none are at hand.
        weights: Which set of a file of weights that holds two, ``live`` or ``ema``; by default the live.
        model_words: ``--model.KEY=VALUE`` options that overrule the recipe's.

    Raises:
        UsageError: If what is named is not enough, too much, or not there.
        checkpoints.CheckpointError: If weights cannot be read or do not fit.
        InputError: For an unknown timm name.
        PlanError: For an r that the model has not the tokens for.
        UnsupportedModelError: If its tokens cannot be merged.
    """
    if model is not None and recipe is not None:
        raise UsageError("--model NAME and --recipe exclude each other: each is a model.")
    if img_size is not None and (model is None or img_size < 1):
        if model is None:
            raise UsageError(
                "--img-size is for --model NAME; a run's model has the size it was made with."
            )
        raise UsageError(f"--img-size is the side of the image in pixels, got {img_size}.")
    if random_weights and (ckpt is not None or (model is None and recipe is None)):
        raise UsageError(
            "--random-weights goes with --model NAME or --recipe NAME, without --ckpt."
        )
    if weights is not None and model is None and recipe is None:
        raise UsageError(
            f"--weights {weights} goes with --model NAME or --recipe NAME; a run's checkpoint is taken "
            "as the run has measured it."
        )
    if model is not None:
        loaded = _of_timm(model, ckpt, img_size, random_weights, weights)
    elif recipe is not None:
        loaded = _of_recipe(recipe, ckpt, random_weights, list(model_words), weights)
    elif ckpt is not None:
        loaded = _of_run(Path(ckpt))
    else:
        raise UsageError(
            "Which model? Give --ckpt FILE (a run's), --model NAME (timm's) or --recipe."
        )
    net = loaded.model
    size = loaded.data.get("size")
    if net.vit.dynamic_img_size and isinstance(size, int):
        net.img_size = (size, size)
    if prop_attn is not None:
        net.prop_attn = prop_attn
    if r is not None:
        net.r = r
    check_possible(net.r, net.depth, net.num_tokens, net.num_prefix)
    net.eval()
    return loaded


def own_size(known: PretrainedCfg | None) -> int:
    """Pixels a side of a timm model, 224 where timm does not say."""
    return known.input_size[-1] if known is not None and known.input_size else 224


def run_header(path: Path) -> dict[str, Any] | None:
    """The plain values of a run's checkpoint, read safely; None of other files, also damaged ones.

    Raises:
        UsageError: It is one whose parts are not of the types that ours have.
    """
    if not path.is_file() or path.suffix == ".safetensors":
        return None
    try:
        saved = read_header(path)
    except MalformedRunError as error:
        raise UsageError(f"{path} cannot be loaded: {error}.") from error
    except CheckpointFileError:
        return None
    return saved if {"hyper_parameters", "state_dict"} <= saved.keys() else None


def is_run_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint that a run of ours wrote."""
    try:
        return run_header(path) is not None
    except UsageError:
        return False


def best_metrics(saved: Mapping[str, Any]) -> dict[str, float]:
    """What a run's checkpoint notes of the metrics of its best.ckpt."""
    record = (saved.get("callbacks") or {}).get("RunRecord") or {}
    metrics = record.get("metrics")
    return dict(metrics) if metrics and fits(metrics, dict[str, Number]) else {}


def _of_run(path: Path) -> LoadedModel:
    from tome_lightning.finetune import FineTune

    if path.is_dir():
        raise UsageError(
            f"{path} is a folder. Name a checkpoint in it: {path / 'checkpoints' / 'best.ckpt'}"
        )
    if not path.is_file():
        known = str(path) in checkpoints.SOURCES
        what = "names weights alone" if known else "is no file"
        raise UsageError(f"--ckpt {path} {what}. {_WHICH}")
    saved = run_header(path)
    if saved is None:
        checkpoints.identify(path)  # says so if it is damaged, or no checkpoint at all
        raise UsageError(f"{path} holds weights alone, which several models could take. {_WHICH}")
    ours = saved.get("tome_lightning", {})
    try:
        # before Lightning takes them as they are:
        trusted_model(saved["hyper_parameters"], len(saved["state_dict"]))
        data = trusted_data(ours.get("data"), made=False).config or plain_data(ours.get("data"))
    except Untrusted as error:
        raise UsageError(f"{path} cannot be loaded: it is refused: {error}.") from error
    try:
        module = FineTune.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{path} cannot be loaded: its weights do not fit the model that it describes ({reason})."
        ) from error
    mean, std = _scale(data, module.input)
    given, averaged = saved["hyper_parameters"], "averaging_state" in saved
    family = str(ours.get("family"))
    return LoadedModel(
        name=str(path), model=module.model, input=module.input, mean=mean, std=std,
        weights=f"{path}, epoch {saved.get('epoch')}{', averaged over training' * averaged}",
        task=module.task, class_names=module.class_names, data=dict(data.get("init_args") or {}),
        recipe=recipe_name(ours), family=family if family in checkpoints.PROP_ATTN else "timm",
        averaged=averaged, source=given.get("checkpoint"), of_run=True,
        vit_arguments=dict(given.get("vit") or {}),
    )  # fmt: skip


_WHICH = (
    "Give a run's checkpoint, or say which model takes these weights: --model NAME (timm's) or "
    "--recipe NAME."
)


def _of_recipe(
    recipe: str,
    ckpt: str | Path | None,
    random_weights: bool,
    words: list[str],
    which: checkpoints.Which | None,
) -> LoadedModel:
    if ckpt is not None and is_run_checkpoint(Path(ckpt)):
        raise UsageError(
            f"{ckpt} is a run's checkpoint and has its model with it: leave --recipe out."
        )
    content = read_yaml(recipes.path(recipe))
    section = content.get("model") or {}
    weights = ckpt or section.get("checkpoint")
    if ckpt is not None:
        words = [*words, f"--model.checkpoint={ckpt}"]
    elif random_weights or weights is None:
        words = [*words, "--model.checkpoint=null"]
    if weights is None and not random_weights:
        raise UsageError(
            f"The recipe {recipe} starts from random weights. Give --ckpt FILE, or --random-weights."
        )
    built = from_recipe(["--recipe", recipe, *words])
    known: dict[str, Any] = {}
    if weights is not None and not random_weights:
        inflate = bool(section.get("inflate"))
        which = which or section.get("weights")
        report = checkpoints.load(built.vit, weights, inflate=inflate, weights=which)
        no_head = any(name.startswith("head") for name in report.new)
        said = report.brief + ", with a new head of random weights" * no_head
        known = {"weights": said, "no_head": no_head, **_origin(report, weights)}
    data = content.get("data") or {}
    mean, std = _scale(data, built.input)
    return replace(
        built, name=recipe, mean=mean, std=std, data=dict(data.get("init_args") or {}),
        recipe=Path(recipe).stem, vit_arguments=dict(section.get("vit") or {}), **known,
    )  # fmt: skip


def _of_timm(
    name: str,
    ckpt: str | Path | None,
    img_size: int | None,
    random_weights: bool,
    which: checkpoints.Which | None,
) -> LoadedModel:
    plain = name.partition(".")[0]
    if ckpt is not None and is_run_checkpoint(Path(ckpt)):
        raise UsageError(
            f"{ckpt} is a run's checkpoint and has its model with it: leave --model out."
        )
    known = get_pretrained_cfg(name if _has_tag(name) else plain) if _is_timm(plain) else None
    size = img_size or own_size(known)
    read = Image(size=size, timm_model=plain)
    weights = None if random_weights else str(ckpt or name)
    kind = None if weights is None or not _is_timm(plain) else checkpoints.identify(weights)
    pool = {} if kind is None or kind.pooling is None else {"global_pool": kind.pooling}
    classes = (kind.num_classes if kind is not None else None) or 0
    net = patch(read.build(num_classes=classes, **pool))
    loading: dict[str, Any] = {}
    if weights is not None:
        report = checkpoints.load(net.vit, weights, weights=which)
        loading = {"weights": report.brief, **_origin(report, weights)}
    net.prop_attn = checkpoints.PROP_ATTN[kind.family if kind is not None else "timm"]
    noted = exported(Path(ckpt)) if ckpt is not None else {}
    net.r = noted.get("r") or 0
    mean = tuple(known.mean) if known is not None else HALF * 3
    std = tuple(known.std) if known is not None else HALF * 3
    if ckpt is not None and kind is not None and (noted or not _has_tag(name)):
        pixels = kind.preprocessing  # not those of timm's own weights
        if pixels.mean and pixels.std and len(pixels.mean) == len(pixels.std) == len(mean):
            mean, std = pixels.mean, pixels.std
    return LoadedModel(
        name=name, model=net, input=read, mean=mean, std=std, class_names=noted.get("class_names"),
        **loading,
    )  # fmt: skip


def _origin(report: checkpoints.LoadReport, source: str | Path) -> dict[str, Any]:
    return {"family": report.family, "averaged": report.taken == "ema", "source": source}


def _is_timm(plain: str) -> bool:
    return plain in timm.list_models()


def _has_tag(name: str) -> bool:
    return "." in name and name in timm.list_models(name, pretrained=True)


def _scale(data: dict[str, Any], input: Input) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a data module brings samples to: as given, or its defaults.

    For a class of somebody else's, which is never imported because a file names it, the input's usual.
    """
    given = data.get("init_args") or {}
    kind = str(data.get("class_path", "")).rpartition(".")[2]
    ours = {cls.__name__: cls for cls in datamodules.data_sets()}
    options = ours[kind].options() if kind in ours else {}
    values: list[tuple[float, ...]] = []
    for name, usual in (("mean", input.usual_mean), ("std", input.usual_std)):
        value: Any = given.get(name)
        if value is None:
            value = options[name].default if name in options else usual
        each = tuple(value) if isinstance(value, (list, tuple)) else (float(value),)
        channels = input.shape[0]  # another number of values is not of this model's samples
        values.append(each if len(each) == channels else HALF * channels)
    return values[0], values[1]
