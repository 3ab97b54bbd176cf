"""Whether a value out of a file is plainly what a type hint says."""

from __future__ import annotations

import types
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MAX_TEXT = 4096  # characters of a string, the longest path of Linux
MAX_INT = 2**63
Number = int | float


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is plainly what a type hint says; no hint of a class of objects fits anything.

    Args:
        value: Of a file.
        hint: Of numbers, strings, None, literals, and lists, tuples, dicts, unions and dataclasses of
            these; ``object`` for what is looked at elsewhere.
    """
    kind, inner = get_origin(hint), get_args(hint)
    if hint is object:
        return True
    if hint in (None, type(None)):
        return value is None
    if kind in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if kind is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if kind in (list, tuple):
        return isinstance(value, (list, tuple)) and all(fits(one, inner[0]) for one in value)
    if kind is dict:
        return isinstance(value, dict) and all(
            fits(name, inner[0]) and fits(one, inner[1]) for name, one in value.items()
        )
    if is_dataclass(hint):
        known = get_type_hints(hint)
        return isinstance(value, dict) and all(
            name in known and fits(one, known[name]) for name, one in value.items()
        )
    if hint in (int, float):
        numbers: tuple[type, ...] = (int,) if hint is int else (int, float)
        return type(value) in numbers and (type(value) is float or abs(value) <= MAX_INT)
    if hint is str:
        return type(value) is str and len(value) <= MAX_TEXT and "\0" not in value
    return hint is bool and type(value) is bool
