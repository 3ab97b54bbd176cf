"""What a fine-tuning starts from: a checkpoint's weights, a new head, and what of them is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import checkpoints
from tome_lightning.inputs import Input
from tome_lightning.inputs.preprocessing import difference
from tome_lightning.options import FineTuneError

# fc_norm: new weights where MAE's tokens are averaged
TRAINED_HEAD = ("head.", "head_dist.", "fc_norm.")

NORM_EPS = 1e-6  # of timm's LayerNorms
SHAPE = ("size", "frames", "tubelet", "mels", "stride")  # of samples, in configs and inputs


def resolve(input: Input, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoint's family decides where the options do not.

    Args:
        input: What the model reads; it may choose the pooling itself.
        options: Of `FineTune`, by name.

    Returns:
        ``vit``, timm's arguments, and ``prop_attn``.

    Raises:
        FineTuneError: ``vit`` has the number of classes, which the task sets.
    """
    vit, prop_attn = dict(options["vit"] or {}), options["prop_attn"]
    if "num_classes" in vit:
        raise FineTuneError(
            "model.vit.num_classes is set by the task. Pass --model.task.num_classes instead."
        )
    family, pooling, start = "mae", None, options["checkpoint"]
    unpooled = input.chooses_pool and "global_pool" not in vit
    plain_norm = input.chooses_pool and "norm_eps" not in vit
    hub = start is not None and plain_norm and checkpoints.from_hub(start)
    if start is not None and (prop_attn is None or unpooled or hub):
        identity = checkpoints.identify(start, options["weights"])
        family, pooling = identity.family, identity.pooling
        if hub:  # among the options, so that a run's checkpoint is opened without the Hub
            vit["norm_eps"] = (identity.config and identity.config.norm_eps) or NORM_EPS
    if prop_attn is None:
        prop_attn = checkpoints.PROP_ATTN[family]
    if input.chooses_pool:
        vit.setdefault("global_pool", pooling or checkpoints.POOLING[family])
    return {"vit": vit, "prop_attn": prop_attn}


def load_weights(
    vit: VisionTransformer, input: Input, options: Mapping[str, Any], stage: str, data: Any
) -> checkpoints.LoadReport | None:
    """Load the checkpoint to start from, and say what was loaded.

    Args:
        vit: The model, changed in place.
        input: What it reads, which is held against a config's.
        options: Of `FineTune`, by name.
        stage: ``fit``, which has a new head, or ``validate``, ``test`` or ``predict``, which need one.
        data: The data module, whose preprocessing is held against the checkpoint's.

    Returns:
        What matched; None without a checkpoint.

    Raises:
        FineTuneError: There is no head to measure.
    """
    if options["checkpoint"] is None:
        _tell_random(options["freeze"], stage)
        return None
    report = checkpoints.load(
        vit, options["checkpoint"], head=stage != "fit", inflate=options["inflate"],
        weights=options["weights"],
    )  # fmt: skip
    rank_zero_info(str(report))
    if stage != "fit" and any(name.startswith("head") for name in report.new):
        raise FineTuneError(
            f"{options['checkpoint']} has no head for {vit.num_classes} classes, so "
            f"{stage} would measure random outputs. Fine-tune it first, or give a fine-tuned "
            "file (--model.checkpoint) or a run's checkpoint (--ckpt_path)."
        )
    if told := difference(report.source, report.preprocessing, data):
        rank_zero_info(told)
    if checkpoints.from_hub(options["checkpoint"]):
        config = checkpoints.identify(options["checkpoint"], options["weights"]).config
        if shapes := config and other_shape(report.source, config, input):
            rank_zero_info(shapes)
    positions = report.notes.get("pos_embed", "")
    if options["freeze"] == "positions" and positions and not positions.startswith("trimmed"):
        rank_zero_warn(
            f"the positions were {positions}, and model.freeze keeps them as they are. To train them: "
            "--model.freeze none"
        )
    return report


def other_shape(source: str, config: checkpoints.ModelConfig, input: Input) -> str | None:
    """Where a config was made for samples of another shape than the recipe's, in a line with both.

    Positions are fitted and fixed ones made anew, so that it may well be meant.
    """
    theirs = {name: value for name, value in config.known().items() if name in SHAPE}
    ours = {name: getattr(input, name, None) for name in theirs}
    other = [name for name in theirs if ours[name] is not None and ours[name] != theirs[name]]
    if not other:
        return None
    was, now = (", ".join(f"{name} {of[name]}" for name in other) for of in (theirs, ours))
    ways = " ".join(f"--model.input.{name} {theirs[name]}" for name in other)
    return f"{source} was made for {was}, this model has {now}: {ways} is what it was made for"


def names_of(report: checkpoints.LoadReport | None, known: list[str] | None) -> list[str] | None:
    """The classes' names: those that came with the head where the data only numbers them."""
    theirs = [] if report is None else list(report.class_names)
    numbered = known is None or known == [str(number) for number in range(len(theirs))]
    return theirs if theirs and numbered else known


def _tell_random(frozen: str, stage: str) -> None:
    if frozen == "positions":
        rank_zero_warn(
            "model.freeze is positions without model.checkpoint: random positions stay as they are. "
            "Give a checkpoint, or --model.freeze none"
        )
    elif stage != "fit":
        rank_zero_info(
            f"{stage} measures random weights: there is no --model.checkpoint and no --ckpt_path"
        )


def init_head(vit: VisionTransformer, std: float) -> None:
    """Draw a new head, for every fine-tuning, also from a fine-tuned file, as MAE does."""
    for head in (vit.head, getattr(vit, "head_dist", None)):
        if isinstance(head, nn.Linear):
            nn.init.trunc_normal_(head.weight, std=std)
            nn.init.zeros_(head.bias)


def freeze(vit: VisionTransformer, what: str) -> None:
    """Leave out of training: ``positions``, or with ``backbone`` all but the head and its norm."""
    for name, parameter in vit.named_parameters():
        if what == "positions":
            parameter.requires_grad = not name.startswith("pos_embed")
        elif what == "backbone":
            parameter.requires_grad = name.startswith(TRAINED_HEAD)
