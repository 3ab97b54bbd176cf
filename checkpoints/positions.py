"""Position tables of another size: of images, over time, over both, and of spectrograms."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .errors import CheckpointError
from .layout import side


def interpolate_positions(pos: Tensor, grid: tuple[int, int], num_prefix: int) -> Tensor:
    """Resample a learned position table to another patch grid, the way MAE does.

    Bicubic, half-pixel centres, no antialiasing, in float32. timm resamples with antialiasing,
    which changes the bicubic kernel even when the grid grows; timm's own checkpoints are
    resampled MAE's way here too.

    Args:
        pos: [B, P + S*S, D], the prefix rows (class token) first, then a square grid row by row.
        grid: rows and columns (h, w) of patches wanted.
        num_prefix: P, rows that are kept as they are.

    Returns:
        [B, P + h*w, D] in float32.

    Raises:
        CheckpointError: the rows after the prefix fill no square grid.
    """
    count = pos.shape[1] - num_prefix
    edge = side(count)
    if edge is None:
        raise CheckpointError(
            f"the file's position table has {pos.shape[1]} rows, of which {count} remain after the "
            f"model's {num_prefix} for prefix tokens and fill no square, so they do not fit "
            f"{grid[0]}x{grid[1]} patches: build the model for the file's input size and tokens"
        )
    pos = pos.detach().float()
    prefix, patches = pos[:, :num_prefix], pos[:, num_prefix:]
    if (edge, edge) != tuple(grid):
        image = patches.unflatten(1, (edge, edge)).permute(0, 3, 1, 2)  # [B, D, S, S]
        image = interpolate(image, size=grid, mode="bicubic", align_corners=False, antialias=False)
        patches = image.flatten(2).transpose(1, 2)  # [B, h*w, D]
    return torch.cat([prefix, patches], dim=1)


def resized(count: int, grid: tuple[int, int]) -> str:
    """What `interpolate_positions` does to a square of `count` patches, for a report."""
    edge = side(count)
    return f"resized from {edge}x{edge} to {grid[0]}x{grid[1]}"


def interpolate_time(pos: Tensor, steps: int) -> Tensor:
    """Resample a table over time, [B, T, D], to [B, steps, D] in float32: linear, half-pixel.

    The first and the last row are carried on beyond their centres, not extrapolated.
    """
    time = pos.detach().float().transpose(1, 2)  # [B, D, T]
    return interpolate(time, size=steps, mode="linear", align_corners=False).transpose(1, 2)


def interpolate_joint(
    pos: Tensor, old_steps: int, grid: tuple[int, int, int], num_prefix: int
) -> Tensor:
    """Resample a table over space and time: each step as an image, then each place over time.

    Args:
        pos: [1, P + T*S*S, D], the prefix rows first, then time slowest, rows, columns.
        old_steps: T, which the table itself does not tell (see `steps_of`).
        grid: steps, rows and columns (t, h, w) of patches wanted.
        num_prefix: P, rows that are kept as they are.

    Returns:
        [1, P + t*h*w, D] in float32.

    Raises:
        CheckpointError: a step's rows fill no square grid.
    """
    prefix, patches = pos[:, :num_prefix].detach().float(), pos[:, num_prefix:]
    frames = interpolate_positions(patches.unflatten(1, (old_steps, -1))[0], grid[1:], 0)
    places = interpolate_time(frames.transpose(0, 1), grid[0])  # [h*w, t, D]
    return torch.cat([prefix, places.transpose(0, 1).reshape(1, -1, pos.shape[-1])], dim=1)


def steps_of(count: int, grid: tuple[int, int, int]) -> int:
    """The steps T in a joint table of `count` = T*S*S patches, for a model of `grid` (t, h, w).

    A table does not say its T: 1568 patches may be 8x14x14, 2x28x28 or 32x7x7. Taken is what
    agrees with the model in size or in steps, since few change both at once, and of two such 8
    steps (16 frames in tubelets of 2, which every published file has) or else the same size;
    where nothing agrees, 8 steps, or the only way there is.

    Raises:
        CheckpointError: none of these, or more than one.
    """
    steps, rows, columns = grid
    # One patch a step would always be a way to cut a table, and is never a model.
    cuts = {t: n for t in range(1, count) if count % t == 0 and (n := side(count // t)) and n > 1}
    likely = [t for t, n in cuts.items() if (n, n) == (rows, columns)]
    likely += [steps] if steps in cuts else []
    if 8 in (likely or cuts):
        return 8
    found = likely[:1] or list(cuts)
    if len(found) == 1:
        return found[0]
    ways = " or ".join(f"{t}x{n}x{n}" for t, n in cuts.items()) or "no steps of square images"
    raise CheckpointError(
        f"the file's {count} positions are {ways} (time x rows x columns), which does not tell how "
        f"they become the model's {steps}x{rows}x{columns}: build the model for the file's frames "
        "or size"
    )


def resize_time(pos: Tensor, old_steps: int, steps: int, num_prefix: int) -> Tensor:
    """Fit a spectrogram's table to another length: cut, or interpolated along time alone.

    Row F*t + f belongs to token (t, f), whatever its values look like: the network saw it there.
    AudioMAE's own routine, which nothing in it calls, cuts the table along the axes of the swapped
    grid that its values follow (8x64); most tokens would then get the row of another token.

    Args:
        pos: [1, P + T*F, D], the prefix rows first, then time slowest, mels.
        old_steps: T, which the table itself does not tell (see `mel_grid_of`).
        steps: time steps wanted.
        num_prefix: P, rows that are kept as they are.

    Returns:
        [1, P + steps*F, D]. Not longer than before, the table's own first rows; longer, each mel's
        rows resampled as by `interpolate_time`, in float32.
    """
    bands = pos[0, num_prefix:].unflatten(0, (old_steps, -1))  # [T, F, D]
    if steps <= old_steps:
        return pos[:, : num_prefix + steps * bands.shape[1]]
    longer = interpolate_time(bands.transpose(0, 1), steps).transpose(0, 1)  # [steps, F, D]
    return torch.cat([pos[:, :num_prefix].detach().float(), longer.flatten(0, 1)[None]], dim=1)


def mel_grid_of(
    count: int, grid: tuple[int, int], known: tuple[int, int] | None
) -> tuple[int, int]:
    """The steps and mels (T, F) in a table of `count` patches, for a model of `grid` (t, f).

    A table does not say its F: where it is not `known` otherwise, it is the model's.

    Raises:
        CheckpointError: the table has another count than the grid that is known, or is no multiple
            of the model's mels; or the mels differ, which are not resampled.
    """
    steps, mels = known or (count // grid[1], grid[1])
    if steps * mels != count or count < 1:
        what = f"not its {steps}x{mels}" if known else f"no multiple of the model's {mels}"
        raise CheckpointError(
            f"the file has {count} positions beside those that the model's prefix tokens take, "
            f"{what} patches (time x mels): build the model for the file's mels, stride and tokens"
        )
    if mels != grid[1]:
        raise CheckpointError(
            f"the file's positions are {steps}x{mels} patches (time x mels), the model's "
            f"{grid[0]}x{grid[1]}, and only time is resampled: set model.input.mels and "
            f"model.input.stride to get {mels} (128 mels give 8 at stride 16, 12 at stride 10)"
        )
    return steps, mels


def materialise(spatial: Tensor, temporal: Tensor, prefix: Tensor | None) -> Tensor:
    """The joint table of separable ones, whose place s at time t is `spatial[s] + temporal[t]`.

    Args:
        spatial: [1, S, D].
        temporal: [1, T, D].
        prefix: the class token's [1, 1, D]; None without class token.

    Returns:
        [1, (1 +) T*S, D] in float32, time slowest. Equal at inference; a model that trains it
        trains T*S rows, not T + S.
    """
    patches = (temporal.float()[:, :, None] + spatial.float()[:, None]).flatten(1, 2)
    return patches if prefix is None else torch.cat([prefix.float(), patches], dim=1)
