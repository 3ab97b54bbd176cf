"""What a checkpoint is, without building a model."""

from dataclasses import dataclass
from pathlib import Path

from . import timm_hub
from .errors import CheckpointError
from .layout import encoder_size
from .opening import open_checkpoint
from .sources import SOURCES, Source, weights_dir


@dataclass(frozen=True)
class Identity:
    """What a checkpoint holds; enough to choose a model and its defaults.

    `kind` is "encoder", "full" (encoder and MAE decoder) or "fine-tuned"; `num_classes` is None
    without a head; `pooling` is timm's `global_pool` ("avg" or "token") that a fine-tuned file
    was trained with, None where the file leaves the choice (then see `POOLING`).
    """

    family: str
    kind: str
    num_classes: int | None
    depth: int
    width: int
    class_token: bool
    pooling: str | None


def identify(name_or_path: str | Path) -> Identity:
    """Look at a checkpoint: a file, a name in `SOURCES` or a timm name.

    Nothing is downloaded: a name whose file is not on this machine is answered from what is
    known of it. Raises CheckpointError as `load` does for what cannot be read or is no ViT.
    """
    if isinstance(name_or_path, str) and not Path(name_or_path).expanduser().is_file():
        if source := SOURCES.get(name_or_path):
            kept = weights_dir() / source.file
            return identify(kept) if kept.is_file() else _of_source(source)
        if timm_hub.is_timm_name(name_or_path):
            return _of_timm(name_or_path)
    opened = open_checkpoint(name_or_path)
    weights = opened.weights
    try:
        size = encoder_size(weights)
    except CheckpointError as error:
        raise CheckpointError(f"cannot identify {opened.source}: {error}") from None
    head = weights.get("head.weight", weights.get("head.projection.weight"))
    pooling = None
    if opened.kind == "fine-tuned":
        # mae_st pools first and norms after, so its `norm` is not a class token's.
        average = "fc_norm.weight" in weights or opened.layout.NAME == "mae_st"
        pooling = "avg" if average else "token"
    return Identity(
        family=opened.family,
        kind=opened.kind,
        num_classes=None if head is None else head.shape[0],
        depth=size.depth,
        width=size.width,
        class_token="cls_token" in weights,
        pooling=pooling,
    )


def _of_source(source: Source) -> Identity:
    vit = timm_hub.skeleton(source.arch)
    tuned = source.kind == "fine-tuned"
    return Identity(
        family=source.family,
        kind=source.kind,
        num_classes=1000 if tuned else None,
        depth=len(vit.blocks),
        width=vit.embed_dim,
        class_token=True,
        pooling=None if not tuned else "token" if source.arch.startswith("deit") else "avg",
    )


def _of_timm(name: str) -> Identity:
    vit = timm_hub.skeleton(name)
    tuned = vit.num_classes > 0
    pooling = {"avg": "avg", "token": "token"}.get(vit.global_pool) if tuned else None
    return Identity(
        family=timm_hub.family_of(name),
        kind="fine-tuned" if tuned else "encoder",
        num_classes=vit.num_classes or None,
        depth=len(vit.blocks),
        width=vit.embed_dim,
        class_token=vit.cls_token is not None,
        pooling=pooling,
    )
