"""What a checkpoint is, without building a model."""

from dataclasses import dataclass, field
from pathlib import Path

from . import audiomae, hub, timm_hub
from .errors import CheckpointError
from .hub_config import ModelConfig, read_config
from .layout import Positions, encoder_size, positions_of, tubelet_of
from .opening import Opened, open_checkpoint
from .preprocessing import Preprocessing, of_family, of_timm
from .sets import Which
from .sources import SOURCES, Source, weights_dir


@dataclass(frozen=True)
class Identity:
    """What a checkpoint holds; enough to choose a model and its defaults.

    `kind` is "encoder", "full" (encoder and MAE decoder) or "fine-tuned"; `num_classes` is None
    without a head; `pooling` is timm's `global_pool` ("avg" or "token") that a fine-tuned file
    was trained with and that the video families ask for, None where the file leaves the choice
    (then see `POOLING`). Of video, `positions` is "separable", "joint" or "sinusoid" and
    `tubelet` the frames under one patch; both are None for images and sound. `preprocessing` is what is
    known of the samples that the weights want; `class_names` those of the head, where they are told;
    `config` what the `config.json` of a folder in the Hub's layout says.
    """

    family: str
    kind: str
    num_classes: int | None
    depth: int
    width: int
    class_token: bool
    pooling: str | None
    positions: Positions | None = None
    tubelet: int | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing, compare=False)
    class_names: tuple[str, ...] = ()
    config: ModelConfig | None = field(default=None, compare=False)


def identify(name_or_path: str | Path, weights: Which | None = None) -> Identity:
    """Look at a checkpoint: a file, a folder or a name, as for `load`; so is `weights`.

    No weights are downloaded: a name whose file is not on this machine is answered from what is
    known of it, of a repository of the Hub from its config, which is fetched.

    Raises CheckpointError as `load` does for what cannot be read or is no ViT.
    """
    if isinstance(name_or_path, str) and not Path(name_or_path).expanduser().is_file():
        if hub.is_hub_name(name_or_path):
            return _of_repository(name_or_path, weights)
        if source := SOURCES.get(name_or_path):
            kept = weights_dir() / source.file
            return identify(kept, weights) if kept.is_file() else _of_source(source)
        if timm_hub.is_timm_name(name_or_path):
            return _of_timm(name_or_path)
    opened = open_checkpoint(name_or_path, weights)
    found = opened.weights
    try:
        size = encoder_size(found)
    except CheckpointError as error:
        raise CheckpointError(f"cannot identify {opened.source}: {error}") from None
    head = found.get("head.weight", found.get("head.projection.weight"))
    return Identity(
        family=opened.family,
        kind=opened.kind,
        num_classes=None if head is None else head.shape[0],
        depth=size.depth,
        width=size.width,
        class_token="cls_token" in found,
        pooling=_pooling(opened),
        positions=positions_of(found),
        tubelet=tubelet_of(found),
        preprocessing=opened.preprocessing,
        class_names=opened.class_names if head is not None else (),
        config=opened.config,
    )


def _pooling(opened: Opened) -> str | None:
    # mae_st pools first and norms after, so its `norm` is not a class token's; VideoMAE has none.
    if opened.layout.NAME in ("mae_st", "videomae"):
        return "avg"
    if opened.kind != "fine-tuned":
        return None
    if opened.config is not None and opened.config.pooling is not None:
        return opened.config.pooling
    return "avg" if "fc_norm.weight" in opened.weights else "token"


def _of_source(source: Source) -> Identity:
    vit = timm_hub.skeleton(source.arch)
    return Identity(
        family=source.family,
        kind=source.kind,
        num_classes=source.num_classes,
        depth=len(vit.blocks),
        width=vit.embed_dim,
        class_token=source.class_token,
        pooling=source.pooling,
        positions=source.positions,
        tubelet=source.tubelet,
        preprocessing=of_family(source.family, source.kind == "fine-tuned"),
    )


def _of_repository(name: str, weights: Which | None) -> Identity:
    """From the copy in the cache, from what is known of a published one, or from its config."""
    if folder := hub.cached(name):
        return identify(folder, weights)
    known = [source for source in SOURCES.values() if source.hub == hub.parse(name)[0]]
    return _of_source(known[0]) if known else _of_config(hub.fetch_config(name))


def _of_config(folder: Path) -> Identity:
    config = read_config(folder)
    depth, width, class_token, pooling = config.depth, config.width, True, config.pooling
    if config.maker == "timm":
        vit = timm_hub.build(config.kind, dict(config.args))
        depth, width, class_token = len(vit.blocks), vit.embed_dim, vit.cls_token is not None
        pooling = pooling or {"avg": "avg", "token": "token"}.get(vit.global_pool)
    if depth is None or width is None:
        raise CheckpointError(
            f"{folder}/config.json does not say the model's size (num_hidden_layers, hidden_size): "
            "fetch the weights, then look at their folder"
        )
    family = config.family or (audiomae.NAME if config.mels else "timm")
    video = family == "videomae"
    known = config.preprocessing
    tuned = config.trained == "fine-tuned"
    return Identity(
        family=family,
        kind=config.trained,
        num_classes=config.num_classes,
        depth=depth,
        width=width,
        class_token=class_token and not video,
        pooling=pooling if tuned or video else None,
        positions="sinusoid" if video else None,
        tubelet=config.tubelet if video else None,
        preprocessing=known if known.known() else of_family(family, tuned, config.size),
        class_names=config.class_names,
        config=config,
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
        preprocessing=of_timm(name, tuned),
    )
