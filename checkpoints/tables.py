"""A file's position tables in the model's kind and size, and which kinds go together."""

from collections.abc import Callable, Mapping

from torch import Tensor

from .errors import CheckpointError
from .layout import Positions, encoder_size, positions_of
from .positions import (
    interpolate_joint,
    interpolate_positions,
    interpolate_time,
    materialise,
    steps_of,
)

_Weights = Mapping[str, Tensor]
_Grid = tuple[int, ...]  # (h, w) of images, (t, h, w) of video


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


def fit_tables(file: _Weights, own: _Weights, grid: _Grid) -> tuple[dict[str, Tensor], set[str]]:
    """The file's weights with position tables of the model's kind and size.

    Args:
        file: weights under timm's names, which the checks above have let through.
        own: the model's state dict.
        grid: the model's patches, (rows, columns) or (steps, rows, columns).

    Returns:
        The weights, and the names of the tables that had to be made anew.

    Raises:
        CheckpointError: a table of another size whose own grid cannot be told.
    """
    theirs = _tables(file)
    tables = _FITS[positions_of(file), positions_of(own)](theirs, own, grid)
    others = {name: value for name, value in file.items() if name not in theirs}
    return others | tables, {name for name in tables if tables[name] is not theirs.get(name)}


def _tables(weights: _Weights) -> dict[str, Tensor]:
    return {name: table for name, table in weights.items() if name.startswith("pos_embed")}


def _tokens(weights: _Weights) -> str:
    positions = positions_of(weights)
    class_token = f"{'a' if 'cls_token' in weights else 'no'} class token"
    return f"{positions} positions and {class_token}" if positions else class_token


def _image(tables: _Weights, own: _Weights, grid: _Grid) -> dict[str, Tensor]:
    theirs, ours = tables.get("pos_embed"), own.get("pos_embed")
    # Only the count can be compared: a file does not say its grid, and ours may not be square.
    if theirs is None or ours is None or theirs.shape[1] == ours.shape[1]:
        return dict(tables)
    rows, columns = grid
    # What the table has beyond the patches: 0 with no_embed_class, 2 when distilled.
    num_prefix = ours.shape[1] - rows * columns
    return {**tables, "pos_embed": interpolate_positions(theirs, (rows, columns), num_prefix)}


def _separable(tables: _Weights, own: _Weights, grid: _Grid) -> dict[str, Tensor]:
    steps, rows, columns = grid
    fitted = dict(tables)
    spatial, temporal = tables["pos_embed_spatial"], tables.get("pos_embed_temporal")
    if spatial.shape[1] != rows * columns:
        fitted["pos_embed_spatial"] = interpolate_positions(spatial, (rows, columns), 0)
    if temporal is not None and temporal.shape[1] != steps:
        fitted["pos_embed_temporal"] = interpolate_time(temporal, steps)
    return fitted


def _materialised(tables: _Weights, own: _Weights, grid: _Grid) -> dict[str, Tensor]:
    fitted = _separable(tables, own, grid)
    spatial, temporal = fitted.pop("pos_embed_spatial"), fitted.pop("pos_embed_temporal", None)
    if temporal is None:
        return dict(tables)  # comparing the names then tells
    table = materialise(spatial, temporal, fitted.pop("pos_embed_class", None))
    return fitted | {"pos_embed": table}


def _joint(tables: _Weights, own: _Weights, grid: _Grid) -> dict[str, Tensor]:
    theirs, ours = tables["pos_embed"], own["pos_embed"]
    if theirs.shape[1] == ours.shape[1]:
        return dict(tables)
    steps, rows, columns = grid
    num_prefix = ours.shape[1] - steps * rows * columns
    old_steps = steps_of(theirs.shape[1] - num_prefix, (steps, rows, columns))
    table = interpolate_joint(theirs, old_steps, (steps, rows, columns), num_prefix)
    return {**tables, "pos_embed": table}


def _fixed(tables: _Weights, own: _Weights, grid: _Grid) -> dict[str, Tensor]:
    return dict(tables)


# (the file's kind, the model's): a pair that is not here is refused.
_FITS: Mapping[
    tuple[Positions | None, Positions | None],
    Callable[[_Weights, _Weights, _Grid], dict[str, Tensor]],
] = {
    (None, None): _image,
    ("separable", "separable"): _separable,
    ("separable", "joint"): _materialised,
    ("joint", "joint"): _joint,
    ("sinusoid", "sinusoid"): _fixed,
}
