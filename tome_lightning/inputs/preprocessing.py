"""Whether the data prepares samples as the weights want them."""

from __future__ import annotations

import inspect
import math
from typing import Any

from checkpoints import Preprocessing


def difference(source: str, wanted: Preprocessing, data: Any) -> str | None:
    """What a data module does otherwise than the weights want, in a line with both and the options.

    Args:
        source: The checkpoint, as it is to be called.
        wanted: What is known of it.
        data: A data module; one without ``preprocessing`` says nothing that could be compared.

    Returns:
        None where nothing differs. Channels of another number (an image model's weights for sound) are
        another kind of sample, and not compared.
    """
    given: dict[str, Any] = dict(getattr(data, "preprocessing", {}))
    known = wanted.known()
    if len(known.get("mean", ())) != len(given.get("mean", ())):
        return None
    other = [name for name in known if name in given and not _same(known[name], given[name])]
    if not other:
        return None
    theirs, ours = (
        ", ".join(f"{name} {_plain(values[name])}" for name in other) for values in (known, given)
    )
    taken = inspect.signature(type(data)).parameters
    options = [_option(name, known[name]) for name in other if name in taken]
    way_out = f": {' '.join(options)} sets what they want" if options else ""
    return f"{source} was made with {theirs}; the data has {ours}{way_out}"


def _same(wanted: Any, given: Any) -> bool:
    if isinstance(wanted, str):
        return bool(wanted == given)
    pairs = zip(wanted, given, strict=True) if isinstance(wanted, tuple) else [(wanted, given)]
    return all(math.isclose(a, b, rel_tol=1e-3) for a, b in pairs)  # published to three digits


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return (
            f"[{','.join(f'{number:g}' for number in value)}]"
            if len(value) > 1
            else f"{value[0]:g}"
        )
    return value if isinstance(value, str) else f"{value:g}"


def _option(name: str, value: Any) -> str:
    also = f" --model.input.size {value}" if name == "size" else ""
    return f"--data.{name} {_plain(value)}{also}"
