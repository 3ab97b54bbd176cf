"""From a name or a path to weights and what they are."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import timm
from torch import Tensor

from . import ast, audiomae, hub, timm_hub, timm_vit
from .errors import CheckpointError
from .families import PROP_ATTN, Layout, layout_of, named
from .hub_config import ModelConfig
from .layout import in_head, some
from .preprocessing import Preprocessing, of_family, of_ours, of_timm, size_of
from .reading import Checkpoint, read
from .sets import Which
from .sources import SOURCES, fetch

_SUFFIXES = {".pth", ".pt", ".pyth", ".ckpt", ".bin", ".safetensors"}


@dataclass(frozen=True)
class Opened:
    """A checkpoint's weights under the encoder's names in the file, decoder included.

    `spectrogram` tells sound from images, whose files have the same names; `mel_grid` is then the
    patches over time and over the mels, where they are known. `taken` is the set of weights this is of
    those the file holds (`held`: each and where), `beside` are names that belong to no ViT.
    """

    source: str
    weights: Mapping[str, Tensor]
    layout: Layout
    family: str  # the layout's, unless the file's name, timm's tag or our metadata knows better
    spectrogram: bool = False
    mel_grid: audiomae.MelGrid | None = None
    taken: Which = "live"
    held: Mapping[Which, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    config: ModelConfig | None = None  # of a folder in the Hub's layout

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the head; none where they are not told."""
        return () if self.config is None else self.config.class_names

    @property
    def kind(self) -> str:
        """ "full" with MAE's decoder, "fine-tuned" with a head or its norm, else "encoder"."""
        if any(name.startswith("decoder") for name in self.weights):
            return "full"
        tuned = any(in_head(name) or name.startswith("fc_norm.") for name in self.weights)
        return "fine-tuned" if tuned else "encoder"


def open_checkpoint(name_or_path: str | Path, which: Which | None = None) -> Opened:
    """Find, if need be download, and read a checkpoint: a file, a folder, or a name.

    Names are those of `SOURCES`, timm's, and `hf-hub:OWNER/NAME[@REVISION]`.
    """
    name = str(name_or_path)
    path = Path(name_or_path).expanduser()
    if isinstance(name_or_path, str) and not path.is_file():
        if hub.is_hub_name(name):
            path = hub.fetch(name)
        elif name in SOURCES:
            path = fetch(SOURCES[name])
        elif timm_hub.is_timm_name(name):
            if which == "ema":
                raise CheckpointError(
                    f"{name} is one set of weights, which timm publishes: leave weights=ema out"
                )
            weights = timm_hub.weights_of(name)
            return Opened(
                name, weights, layout_of(weights), timm_hub.family_of(name),
                preprocessing=of_timm(name, tuned="head.weight" in weights),
            )  # fmt: skip
        elif not path.exists() and not looks_like_path(name):
            raise unknown_name(name)
    content = read(path, which)
    if content.config is not None:
        return _of_folder(name, content, content.config)
    weights, ours, mel_grid = content.weights, content.family, content.mel_grid
    if ours is not None and ours not in PROP_ATTN:
        raise CheckpointError(
            f"{path} says it is of family {ours!r}, which is none of {', '.join(PROP_ATTN)}: "
            "it was saved by another version"
        )
    # Ours have timm's names whatever they came from, so a `norm` in them is a class token's.
    layout = timm_vit if ours else layout_of(weights)
    # Trained with merging or not, the layout is the same: only the released file's name tells.
    tome = {source.file: "tome" for source in SOURCES.values() if source.family == "tome"}
    family = ours or tome.get(path.name) or layout.NAME
    spectrogram = ours == audiomae.NAME or mel_grid is not None or audiomae.matches(weights)
    if spectrogram and not ours:
        mel_grid = audiomae.published_grid(weights)
    if spectrogram and family == "mae":  # in ours that is whatever was trained without merging
        family = audiomae.NAME
    if content.averaged:
        name += " (averaged weights)"
    if content.data is not None:
        known = of_ours(content.data)
    else:
        size = None if spectrogram else size_of(weights)
        known = of_family(family, tuned=any(map(in_head, weights)), size=size)
    return Opened(
        name, weights, layout, family, spectrogram, mel_grid,
        content.taken, content.held, content.beside, known,
    )  # fmt: skip


def _of_folder(name: str, content: Checkpoint, config: ModelConfig) -> Opened:
    """What the Hub's config says is believed before what names and shapes look like."""
    weights, family = content.weights, config.family
    layout = named(family) if family else layout_of(weights)
    if family == ast.NAME:
        weights, layout = _turned(name, weights, config), timm_vit
    if family is None and content.family in PROP_ATTN:  # ours, exported
        family, layout = content.family, timm_vit
    family = family or layout.NAME
    spectrogram = family in (ast.NAME, audiomae.NAME)
    grid = config.mel_grid or (
        audiomae.published_grid(weights) if family == audiomae.NAME else None
    )
    known = config.preprocessing
    if not known.known() or (config.maker == "timm" and spectrogram):  # timm's are of images
        known = of_family(family, tuned=any(map(in_head, weights)), size=config.size)
    return Opened(
        name, weights, layout, family, spectrogram, grid,
        content.taken, content.held, content.beside, known, config,
    )  # fmt: skip


def _turned(name: str, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    if not ast.matches(weights):
        raise CheckpointError(
            f"{name} says that it is an AST, and its weights are of another model"
        )
    grid = config.mel_grid or ast.grid_of(weights)
    if weights["pos_embed"].shape[1] != ast.PREFIX + grid[0] * grid[1]:
        raise CheckpointError(
            f"{name} has {weights['pos_embed'].shape[1]} positions, and its config.json says "
            f"{grid[0]}x{grid[1]} patches and {ast.PREFIX} tokens: fetch it again"
        )
    return ast.turned(weights, grid)


def looks_like_path(name: str) -> bool:
    """Whether a string that names no file was meant to."""
    return "/" in name or "\\" in name or Path(name).suffix in _SUFFIXES


def unknown_name(name: str) -> CheckpointError:
    """The error for a string that names nothing, with the nearest names."""
    names = [*SOURCES, *timm.list_models(["vit_*", "deit*"], pretrained=True)]
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"named are {some(SOURCES, few=8)}"
    return CheckpointError(
        f"{name!r} is neither a file, nor a published checkpoint we name, nor a timm model: {hint}"
    )
