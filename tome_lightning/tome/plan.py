"""How many tokens each block merges: r over depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import TypeAlias

from tome_lightning.tome.matching import max_r

R: TypeAlias = "int | Sequence[int] | Mapping[str, float]"
"""r of a model: one int for all blocks; a list, one entry a block (missing ones are 0);
``{"r": 16, "inflection": -1.0}``, linear over depth; ``{"keep": 0.9}``, a share of each block."""


class PlanError(ValueError):
    """An r that no model can follow: one line that says what, got, why and the way out."""


def check_r(r: R, depth: int) -> R:
    """Return r in its plain form (int, list of ints or dict), or say what is wrong with it.

    Raises:
        PlanError: If r is negative, not a whole number, a list longer than the model is deep, or a
            mapping with other keys or values than ``{"r", "inflection"}`` or ``{"keep"}``.
    """
    if isinstance(r, Mapping):
        return _check_mapping(r)
    if isinstance(r, Sequence) and not isinstance(r, str | bytes):
        if len(r) > depth:
            raise PlanError(
                f"r lists {len(r)} values but the model has {depth} blocks. Give one value a block."
            )
        return [_whole(value, f"r[{i}]") for i, value in enumerate(r)]
    return _whole(r, "r")


def requested_plan(r: R, depth: int) -> tuple[int, ...] | None:
    """What r asks of each block before any clamp; ``None`` for a keep share, which never asks for
    a number."""
    r = check_r(r, depth)
    if isinstance(r, Mapping):
        if "keep" in r:
            return None
        return _linear(int(r["r"]), float(r["inflection"]), depth)
    if isinstance(r, Sequence):
        return (*r, *([0] * (depth - len(r))))
    return (r,) * depth


def layer_plan(r: R, depth: int, num_tokens: int, num_prefix: int) -> tuple[int, ...]:
    """How many tokens each block really merges: r over depth, after the clamp.

    A block merges at most half of its tokens that are not prefix tokens. ``{"keep": share}`` makes
    each block keep at least that share of its patch tokens.

    Args:
        r: See ``R``.
        depth: Blocks of the model.
        num_tokens: Tokens that enter the first block, prefix tokens included.
        num_prefix: Tokens that never merge.

    Raises:
        PlanError: If r is not valid for the depth.
    """
    r = check_r(r, depth)
    requested = requested_plan(r, depth)
    plan: list[int] = []
    for layer in range(depth):
        if requested is None:
            assert isinstance(r, Mapping)
            patches = max(0, num_tokens - num_prefix)
            # rounded: 0.9 means nine tenths, not the double beside it
            wanted = patches - math.ceil(round(r["keep"] * patches, 9))
        else:
            wanted = requested[layer]
        plan.append(min(wanted, max_r(num_tokens, num_prefix)))
        num_tokens -= plan[-1]
    return tuple(plan)


def check_possible(r: R, depth: int, num_tokens: int, num_prefix: int) -> None:
    """Refuse an r that no block could ever follow, even with all tokens still there.

    Blocks that run out of tokens are another thing: `layer_plan` clamps those, as the reference.

    Raises:
        PlanError: If a block is asked for more than half of the model's patch tokens.
    """
    most = max_r(num_tokens, num_prefix)
    asked = max(requested_plan(r, depth) or (0,))
    if asked > most:
        raise PlanError(
            f"r={r} asks a block to merge {asked} tokens, but of this model's {num_tokens} tokens a "
            f"block can merge at most {most} (half of the patch tokens). Lower r."
        )


def token_counts(plan: Sequence[int], num_tokens: int) -> tuple[int, ...]:
    """Tokens that enter each block, and at the end those that leave the last one."""
    counts = [num_tokens]
    for r in plan:
        counts.append(counts[-1] - r)
    return tuple(counts)


def scale_r(r: R, share: float, depth: int) -> R:
    """A share (0 to 1) of r, rounded down to whole tokens; keeps the form of r."""
    r = check_r(r, depth)
    if share >= 1:
        return r
    if isinstance(r, Mapping):
        if "keep" in r:
            return {"keep": 1 - (1 - r["keep"]) * share}
        return {**r, "r": _share_of(r["r"], share)}
    if isinstance(r, Sequence):
        return [_share_of(value, share) for value in r]
    return _share_of(r, share)


def _share_of(value: float, share: float) -> int:
    return math.floor(value * share + 1e-9)  # 55 * 3 / 11 is 15, not 14.999...


def _linear(r: int, inflection: float, depth: int) -> tuple[int, ...]:
    # Truncated as the reference does, so (16, -1.0) over 12 blocks sums to 187, not 192.
    if depth == 1:
        return (r,)
    low = int(r * (1 - inflection))
    return tuple(int(low + layer * (2 * r - 2 * low) / (depth - 1)) for layer in range(depth))


def _check_mapping(r: Mapping[str, float]) -> Mapping[str, float]:
    if set(r) == {"keep"}:
        keep = r["keep"]
        if not _is_number(keep) or not 0 < keep <= 1:
            raise PlanError(
                f"keep is the share of patch tokens to keep, above 0 and up to 1, got {keep!r}."
            )
        return {"keep": float(keep)}
    if set(r) in ({"r"}, {"r", "inflection"}):
        inflection = r.get("inflection", 0.0)
        if not _is_number(inflection) or not -1 <= inflection <= 1:
            raise PlanError(
                f"inflection lies between -1 (merge early) and 1 (merge late), got {inflection!r}."
            )
        return {"r": _whole(r["r"], "r"), "inflection": float(inflection)}
    raise PlanError(
        'r as a mapping is {"r": 16, "inflection": -1.0} or {"keep": 0.9}, '
        f"got the keys {sorted(map(str, r))}."
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise PlanError(
            f"{name} is the whole number of tokens a block merges, got {value!r}. "
            'For a schedule over depth use {"r": 16, "inflection": -1.0}.'
        )
    if value < 0:
        raise PlanError(f"{name} is the number of tokens a block merges, 0 or more, got {value}.")
    return int(value)
