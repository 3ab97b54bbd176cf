"""A file's position tables in the model's kind and size, and which kinds go together."""

from collections.abc import Callable, Mapping

from torch import Tensor

from . import colours
from .errors import CheckpointError
from .layout import KERNEL, Positions, encoder_size, positions_of, side
from .positions import (
    interpolate_joint,
    interpolate_positions,
    interpolate_time,
    materialise,
    mel_grid_of,
    resize_time,
    resized,
    steps_of,
)

_Weights = Mapping[str, Tensor]
_Grid = tuple[int, ...]  # (h, w) of images, (t, h, w) of video, (t, f) of sound
_Fitted = tuple[dict[str, Tensor], dict[str, str]]  # weights, and how those made anew were made


def check_tables(file: _Weights) -> None:
    """Raise CheckpointError unless the file's position tables are [1, rows, its width]."""
    width = encoder_size(file).width
    for name, table in _tables(file).items():
        if table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != width:
            raise CheckpointError(
                f"the file's {name} is {list(table.shape)}, and a position table is "
                f"[1, rows, {width}]: the file is damaged, or of another kind of model"
            )


def check_tokens(file: _Weights, own: _Weights) -> None:
    """Raise CheckpointError unless the file's class token and positions are the model's kind."""
    theirs, ours = positions_of(file), positions_of(own)
    changes = [] if (theirs, ours) in _FITS else [f"model.input.positions: {theirs}"]
    if ("cls_token" in file) != ("cls_token" in own):
        changes.append(f"model.vit.class_token: {str('cls_token' in file).lower()}")
    if changes:
        raise CheckpointError(
            f"the file has {_tokens(file)}, the model {_tokens(own)}, and the first are not made "
            f"into the second: set {' and '.join(changes)}"
        )


def fit_tables(file: _Weights, own: _Weights, grid: _Grid) -> _Fitted:
    """The file's weights with position tables of the model's kind and size.

    Args:
        file: weights under timm's names, which the checks above have let through.
        own: the model's state dict.
        grid: the model's patches, (rows, columns) or (steps, rows, columns).

    Returns:
        The weights, and of each table that had to be made anew how, in words.

    Raises:
        CheckpointError: a table of another size whose own grid is not known.
    """
    tables, notes = _FITS[positions_of(file), positions_of(own)](file, own, grid)
    others = {name: value for name, value in file.items() if name not in _tables(file)}
    return others | tables, notes


def fit_mel_table(
    file: _Weights, own: _Weights, grid: tuple[int, int], known: tuple[int, int] | None
) -> _Fitted:
    """`fit_tables` for a file of spectrograms: other lengths are cut or interpolated along time.

    Args:
        file: weights under timm's names.
        own: the model's state dict.
        grid: the model's patches over time and over the mels.
        known: the file's, where they are known.

    Raises:
        CheckpointError: the file's patches over the mels are others, or not known.
    """
    theirs, ours = file.get("pos_embed"), own.get("pos_embed")
    if theirs is None or ours is None:
        return dict(file), {}
    num_prefix = ours.shape[1] - grid[0] * grid[1]
    steps, _ = mel_grid_of(theirs.shape[1] - num_prefix, grid, known)
    if steps == grid[0]:
        return dict(file), {}
    table = resize_time(theirs, steps, grid[0], num_prefix)
    trimmed = f"trimmed from {steps} to {grid[0]} time steps"
    note = trimmed if steps > grid[0] else _longer(steps, grid[0])
    return {**file, "pos_embed": table}, {"pos_embed": note}


def _tables(weights: _Weights) -> dict[str, Tensor]:
    return {name: table for name, table in weights.items() if name.startswith("pos_embed")}


def _tokens(weights: _Weights) -> str:
    positions = positions_of(weights)
    class_token = f"{'a' if 'cls_token' in weights else 'no'} class token"
    return f"{positions} positions and {class_token}" if positions else class_token


def _longer(old: int, new: int) -> str:
    return f"interpolated along time from {old} to {new} steps"


def _image(file: _Weights, own: _Weights, grid: _Grid) -> _Fitted:
    tables, (rows, columns) = _tables(file), grid
    theirs, ours = tables.get("pos_embed"), own.get("pos_embed")
    if theirs is None or ours is None:
        return tables, {}
    # What the table has beyond the patches: 0 with no_embed_class, 2 when distilled.
    num_prefix = ours.shape[1] - rows * columns
    count = theirs.shape[1] - num_prefix
    # Only the count can be compared: a file does not say its grid, and ours may not be square.
    # But 14x14 patches of colours are no 49x4 of a spectrogram.
    if count == rows * columns and (rows == columns or not colours.fit_by_sum(file, own)):
        return tables, {}
    _check_is_image(file, count, rows, columns)
    tables["pos_embed"] = interpolate_positions(theirs, (rows, columns), num_prefix)
    return tables, {"pos_embed": resized(count, (rows, columns))}


def _check_is_image(file: _Weights, count: int, rows: int, columns: int) -> None:
    # 32x8 patches fill a square too; of spectrograms only our own runs' checkpoints say their grid.
    edge = side(count)
    if file[KERNEL].shape[1] == 1 and edge and rows != columns and count % columns == 0:
        raise CheckpointError(
            f"the file's {count} positions may be {edge}x{edge} of a grey image or "
            f"{count // columns}x{columns} of a spectrogram (time x mels), which it does not tell: "
            "give the .ckpt of the run that made it, or build the model for the file's input size"
        )


def _separable(file: _Weights, own: _Weights, grid: _Grid) -> _Fitted:
    tables, notes, (steps, rows, columns) = _tables(file), {}, grid
    spatial, temporal = tables["pos_embed_spatial"], tables.get("pos_embed_temporal")
    if spatial.shape[1] != rows * columns:
        tables["pos_embed_spatial"] = interpolate_positions(spatial, (rows, columns), 0)
        notes["pos_embed_spatial"] = resized(spatial.shape[1], (rows, columns))
    if temporal is not None and temporal.shape[1] != steps:
        tables["pos_embed_temporal"] = interpolate_time(temporal, steps)
        notes["pos_embed_temporal"] = _longer(temporal.shape[1], steps)
    return tables, notes


def _materialised(file: _Weights, own: _Weights, grid: _Grid) -> _Fitted:
    tables, notes = _separable(file, own, grid)
    spatial, temporal = tables.pop("pos_embed_spatial"), tables.pop("pos_embed_temporal", None)
    if temporal is None:
        return _tables(file), {}  # comparing the names then tells
    table = materialise(spatial, temporal, tables.pop("pos_embed_class", None))
    names = ("pos_embed_spatial", "pos_embed_temporal")
    parts = (name + (f" ({notes[name]})" if name in notes else "") for name in names)
    return tables | {"pos_embed": table}, {"pos_embed": f"the sums of {' and '.join(parts)}"}


def _joint(file: _Weights, own: _Weights, grid: _Grid) -> _Fitted:
    tables, (steps, rows, columns) = _tables(file), grid
    theirs, ours = tables["pos_embed"], own["pos_embed"]
    if theirs.shape[1] == ours.shape[1]:
        return tables, {}
    num_prefix = ours.shape[1] - steps * rows * columns
    count = theirs.shape[1] - num_prefix
    old_steps = steps_of(count, (steps, rows, columns))
    tables["pos_embed"] = interpolate_joint(theirs, old_steps, (steps, rows, columns), num_prefix)
    changes = [resized(count // old_steps, (rows, columns))] * (count != old_steps * rows * columns)
    changes += [_longer(old_steps, steps)] * (old_steps != steps)
    return tables, {"pos_embed": " and ".join(changes)}


def _fixed(file: _Weights, own: _Weights, grid: _Grid) -> _Fitted:
    return _tables(file), {}


# (the file's kind, the model's): a pair that is not here is refused.
_FITS: Mapping[
    tuple[Positions | None, Positions | None],
    Callable[[_Weights, _Weights, _Grid], _Fitted],
] = {
    (None, None): _image,
    ("separable", "separable"): _separable,
    ("separable", "joint"): _materialised,
    ("joint", "joint"): _joint,
    ("sinusoid", "sinusoid"): _fixed,
}
