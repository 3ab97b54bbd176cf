"""Put a checkpoint's weights into a ViT, all of them accounted for, or nothing at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from timm.models import VisionTransformer
from torch import Tensor

from . import colours, inflation
from .errors import CheckpointError
from .layout import KERNEL, encoder_size, in_head, is_decoder, positions_of, some, tubelet_of
from .opening import Opened, open_checkpoint
from .report import LoadReport
from .sets import Which
from .tables import check_tables, check_tokens, fit_mel_table, fit_tables


class _Fit(NamedTuple):
    weights: dict[str, Tensor]  # of the model's names and shapes
    notes: dict[str, str]  # of each weight not taken as it is
    dropped: list[str]


def load(
    vit: VisionTransformer,
    name_or_path: str | Path,
    *,
    head: bool = True,
    inflate: bool = False,
    weights: Which | None = None,
) -> LoadReport:
    """Load a checkpoint into a timm ViT, in place, and say what became of every name.

    The decoder is left out; the head is taken if the file has one of the model's shape; MAE's
    pre-training `norm` is left out of a model that pools first (`fc_norm` starts fresh; mae_st's
    is kept as `fc_norm`); position tables of another image size or frame count are resampled,
    separable ones summed for a joint table, those of longer or shorter sound interpolated or cut;
    an RGB image file starts a model of one channel by the sum of its colours. Everything else must
    agree name by name and shape by shape. Values take the model's dtype and device.

    Args:
        vit: a plain timm VisionTransformer (or VisionTransformerDistilled); for video one whose
            `patch_embed.proj` is a Conv3d and whose `patch_embed.grid_size` is (t, h, w); for sound
            one of one channel whose grid is (time, mels).
        name_or_path: a file, a folder in the Hub's layout, a name in `SOURCES`, a timm name
            (`vit_base_patch16_224.mae`), or `hf-hub:OWNER/NAME[@REVISION]`.
        head: False leaves the file's classifier out even if it fits.
        inflate: True spreads an image checkpoint over the time of a video model, see `inflate`.
        weights: which set of a file that holds two: `live` or `ema`, see `state_dict_of`.

    Raises:
        CheckpointError: no such checkpoint, one that cannot be read, or one that does not fit
            the model, which is then unchanged.
    """
    if not isinstance(vit, VisionTransformer):
        raise CheckpointError(
            f"load() fills timm's VisionTransformer, got {type(vit).__name__}: "
            "load first, then patch() the model"
        )
    if any(parameter.is_meta for parameter in vit.parameters()):
        raise CheckpointError(
            "the model is on the meta device, with no memory: to_empty() it first"
        )
    opened = open_checkpoint(name_or_path, weights)
    try:
        fit = _fit(opened, vit, head, inflate)
    except CheckpointError as error:
        raise CheckpointError(f"cannot load {opened.source}: {error}") from None
    names = list(vit.state_dict())
    vit.load_state_dict(fit.weights, strict=False)  # _fit has compared all names and shapes
    return LoadReport(
        source=opened.source,
        family=opened.family,
        kind=opened.kind,
        matched=tuple(n for n in names if n in fit.weights and n not in fit.notes),
        new=tuple(n for n in names if n not in fit.weights),
        reshaped=tuple(n for n in names if n in fit.notes),
        dropped=tuple(fit.dropped),
        notes=fit.notes,
        taken=opened.taken,
        held=opened.held,
        preprocessing=opened.preprocessing,
        class_names=opened.class_names if "head.weight" in fit.weights else (),
    )


def _fit(opened: Opened, vit: VisionTransformer, head: bool, inflate: bool) -> _Fit:
    own, grid = vit.state_dict(), vit.patch_embed.grid_size
    dropped = [*opened.beside, *(name for name in opened.weights if is_decoder(name))]
    encoder_size(opened.weights)  # a ViT at all?
    file = opened.layout.convert({k: v for k, v in opened.weights.items() if not is_decoder(k)})
    _check_dimensions(file, own, opened, inflate)
    _check_size(file, own)
    check_tables(file)
    notes: dict[str, str] = {}
    tubelet, positions = tubelet_of(own), positions_of(own)
    if inflate and tubelet and positions:
        dropped += ["pos_embed"] if positions == "sinusoid" and "pos_embed" in file else []
        file, notes = inflation.inflate_noted(file, grid, tubelet, positions)
    _check_patches(file, own)
    check_tokens(file, own)
    unused = _unused_heads(file, own, head)
    unused += _unused_norm(file, own, takes_head=any(in_head(n) for n in file.keys() - unused))
    for name in unused:
        del file[name]
    if opened.spectrogram:
        fitted, changes = fit_mel_table(file, own, grid, opened.mel_grid)
    else:
        fitted, changes = fit_tables(file, own, grid)
    if colours.fit_by_sum(file, own):
        fitted, changes[KERNEL] = colours.sum_colours(fitted), colours.NOTE
    _check_names(fitted, own)
    return _Fit(fitted, notes | changes, dropped + unused)


def _check_dimensions(
    file: Mapping[str, Tensor], own: Mapping[str, Tensor], opened: Opened, inflate: bool
) -> None:
    theirs, ours, family = tubelet_of(file), tubelet_of(own), opened.family
    if theirs and not ours:
        raise CheckpointError(
            f"the file is a {family} video checkpoint, with patches of {theirs} frames, which a model "
            "of images or spectrograms cannot take: use a Clip input, or a checkpoint of images (mae, "
            "tome, timm) or of sound (audiomae)"
        )
    if opened.spectrogram and (ours or own[KERNEL].shape[1] != 1):
        what = "clips" if ours else f"images of {own[KERNEL].shape[1]} channels"
        raise CheckpointError(
            f"the file is a spectrogram checkpoint ({family}), with one input channel and patches over "
            f"time x mels, the model takes {what}: use a Spectrogram input, or a checkpoint of "
            f"{'video (mae_st, videomae)' if ours else 'images (mae, tome, timm)'}"
        )
    if inflate and (theirs or not ours):
        what = f"the file is a {family} video checkpoint" if theirs else "the model takes no clips"
        raise CheckpointError(
            f"inflate spreads an image checkpoint over the time of a video model, and {what}: "
            "leave it out (--model.inflate false)"
        )
    if ours and not theirs and not inflate:
        raise CheckpointError(
            f"the file is a {family} checkpoint without time, the model's patches span {ours} "
            "frames: use a video checkpoint (mae_st, videomae), or spread an image's weights over "
            "time with inflate=True (--model.inflate true)"
        )


def _check_size(file: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    theirs, ours = encoder_size(file), encoder_size(own)
    if theirs != ours:
        raise CheckpointError(
            f"the file has {theirs}; the model has {ours.depth} of {ours.width}, and blocks are "
            "not cut or grown: build the model in the file's size"
        )


def _check_patches(file: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if (tubelet := tubelet_of(file)) != (wanted := tubelet_of(own)):
        raise CheckpointError(
            f"the file's tubelets have {tubelet} frames, the model's {wanted}, and patch kernels "
            f"are not resampled: set model.input.tubelet: {tubelet}"
        )
    theirs, ours = file[KERNEL].shape[1:], own[KERNEL].shape[1:]
    skip = int(colours.fit_by_sum(file, own))
    if theirs[skip:] != ours[skip:]:
        raise CheckpointError(
            f"the file's patches are {_dims(theirs)} (channels x size), the model's {_dims(ours)}, "
            "and patch kernels are not resampled: build the model with the file's patches"
        )


def _unused_heads(file: Mapping[str, Tensor], own: Mapping[str, Tensor], wanted: bool) -> list[str]:
    """The file's head names to leave out: each head is taken whole or not at all."""
    unused: list[str] = []
    for prefix in ("head.", "head_dist."):
        theirs = {n: w.shape for n, w in file.items() if n.startswith(prefix)}
        ours = {n: w.shape for n, w in own.items() if n.startswith(prefix)}
        if not wanted or theirs != ours:
            unused += theirs
    return unused


def _unused_norm(
    file: Mapping[str, Tensor], own: Mapping[str, Tensor], takes_head: bool
) -> list[str]:
    """The file's last norm, where a model that pools first starts a fresh `fc_norm` instead."""
    if "fc_norm.weight" in file and "fc_norm.weight" not in own:
        raise CheckpointError(
            "the file's last norm goes with average pooling (fc_norm), the model pools otherwise, "
            'and its last norm would be untrained: build the model with global_pool="avg"'
        )
    if "norm.weight" not in file or "fc_norm.weight" not in own:
        return []
    if takes_head:
        raise CheckpointError(
            "the file's head was trained on the class token (norm), the model averages patches "
            '(fc_norm): build it with global_pool="token", or leave the head out with head=False'
        )
    return [name for name in file if name.startswith("norm.")]


def _check_names(file: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    fresh = {n for n in own if in_head(n) or n.startswith("fc_norm.")}
    if missing := [n for n in own if n not in file and n not in fresh]:
        raise CheckpointError(
            f"the file lacks {some(missing)} of the model's encoder, which would stay random: "
            "build the model the file was made for, or fetch the whole file"
        )
    if unexpected := [n for n in file if n not in own]:
        raise CheckpointError(
            f"the file has {some(unexpected)}, which the model lacks, and without it the result is "
            "another: build the model the file was made for"
        )
    if other := [n for n in file if file[n].shape != own[n].shape]:
        shapes = f"{_dims(file[other[0]].shape)} in the file, {_dims(own[other[0]].shape)} here"
        raise CheckpointError(
            f"{some(other)} differ in shape ({shapes}): build the model the file was made for"
        )


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
