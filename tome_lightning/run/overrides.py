"""Options from Python: numbers of any library become plain values, objects are handed on as they are."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from tome_lightning.errors import UsageError
from tome_lightning.inputs import Input
from tome_lightning.lazy import public_path
from tome_lightning.tasks import Task

KINDS = {"trainer.callbacks": Callback, "trainer.logger": Logger}
NAME = re.compile(r"[A-Za-z_][\w.-]*\+?")


class Objects(NamedTuple):
    """Objects that are handed to the trainer as they are: they stand in no config.

    Attributes:
        callbacks: Beside those that recipe and options name.
        loggers: In the place of those; empty for what the options say.
    """

    callbacks: tuple[Callback, ...] = ()
    loggers: tuple[Logger, ...] = ()

    def noted(self, trainer: Mapping[str, Any]) -> dict[str, Any]:
        """The trainer's options with the objects' classes, as a checkpoint notes them.

        A run that goes on has to be given them again, as objects or by their names: see
        `resume.check_left_out`.
        """
        noted = dict(trainer)
        if self.callbacks:
            given = noted.get("callbacks") or []
            noted["callbacks"] = [*_listed(given), *_classes(self.callbacks)]
        if self.loggers:
            noted["logger"] = _classes(self.loggers)
        return noted

    def comment(self) -> str:
        """A comment for ``config.yaml`` that names the objects it cannot hold."""
        named = [one["class_path"] for one in _classes([*self.callbacks, *self.loggers])]
        return f"# objects given in Python, not in this file: {', '.join(named)}\n" if named else ""


def read_overrides(
    *given: Mapping[str, Any] | None, callbacks: Any = None, logger: Any = None
) -> tuple[list[str], Objects]:
    """The words of a command line, and the objects beside it.

    Args:
        given: Dotted options and their values.
        callbacks: Objects, or classes by name (``"package.Class"``, or a dict with ``class_path`` and
            ``init_args``), which are added to those of the recipe; one, or a list.
        logger: An object, or a list; or what ``trainer.logger`` takes.

    Raises:
        UsageError: Something that can be neither, or is given twice; says which.
    """
    options = _joined(*given, {} if logger is None else {"trainer.logger": logger})
    objects = {name: _take_objects(options, name, kind) for name, kind in KINDS.items()}
    words = words_of(options)
    more, named = _split([] if callbacks is None else callbacks, Callback)
    for one in named:
        if not isinstance(one, (str, Mapping)):
            raise UsageError(f"callbacks cannot hold {_described(one)}. {_way_out(one)}")
        words += _words("trainer.callbacks+", one)
    if objects["trainer.logger"] and "trainer.logger" in options:
        raise UsageError("trainer.logger has objects and names. Give it one or the other.")
    return words, Objects((*objects["trainer.callbacks"], *more), (*objects["trainer.logger"],))


def words_of(options: Mapping[str, Any] | None) -> list[str]:
    """The words of a command line that set options to values, see `plain`."""
    return [word for name, value in (options or {}).items() for word in _words(name, value)]


def plain(value: Any, name: str) -> Any:
    """A value as YAML knows it.

    Args:
        value: A number, string, path, enum, array or tensor, one of our inputs, tasks and schedules, or
            a list or dict of these.
        name: The option's.

    Raises:
        UsageError: It is something else.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, type):
        raise UsageError(f"{name} cannot be {_described(value)}. {_way_out(value)}")
    if isinstance(value, Enum):
        return plain(value.value, name)
    # Scalars before numbers: numpy's float64 is a float as well, and its longdouble.item() is itself.
    for kinds, make in ((np.bool_, bool), (np.integer, int), (np.floating, float), (str, str)):
        if isinstance(value, kinds):
            return make(value)
    if isinstance(value, os.PathLike):
        return plain(os.fspath(value), name)
    if isinstance(value, timedelta):
        return _duration(value)
    if is_dataclass(value):
        arguments = {one.name: plain(getattr(value, one.name), name) for one in fields(value)}
        own = isinstance(value, (Input, Task))
        return {**_classes([value])[0], "init_args": arguments} if own else arguments
    if isinstance(value, Mapping):
        return {_key(key, name): plain(one, f"{name}.{key}") for key, one in value.items()}
    if callable(getattr(value, "tolist", None)):  # arrays, tensors, series
        return plain(value.tolist(), name)
    if isinstance(value, (Sequence, range)) and not isinstance(value, (bytes, bytearray)):
        return [plain(one, f"{name}[{place}]") for place, one in enumerate(value)]
    raise UsageError(f"{name} cannot be {_described(value)}. {_way_out(value)}")


def _joined(*given: Mapping[str, Any] | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in given:
        if not isinstance(part, Mapping | None):
            raise UsageError(
                f"The options must be a dict such as {{'model.r': 8}}, got {_described(part)}."
            )
        twice = sorted(map(str, options.keys() & (part or {}).keys()))
        if twice:
            raise UsageError(f"{twice[0]} is given twice. Leave one out.")
        options |= part or {}
    return options


def _take_objects(options: dict[str, Any], name: str, kind: type) -> list[Any]:
    """The objects of an option, which keeps what is not one."""
    if name not in options:
        return []
    objects, rest = _split(options[name], kind)
    if objects and not rest:
        del options[name]
    elif objects:
        options[name] = rest
    return objects


def _words(name: Any, value: Any) -> Iterator[str]:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no option: give names such as 'model.r' or 'data.root'.")
    value = plain(value, name)
    if value is None and name in ("resume", "recipe", "config"):  # as if it was not given
        return
    # A string as the command line has it; yaml, unlike json, writes infinity as the parser reads it.
    text = value if isinstance(value, str) else _yaml(value)
    yield f"--{name}={text}"


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _split(given: Any, kind: type) -> tuple[list[Any], list[Any]]:
    """Objects of a kind, and the rest."""
    listed = _listed(given)
    return [x for x in listed if isinstance(x, kind)], [
        x for x in listed if not isinstance(x, kind)
    ]


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _classes(objects: Sequence[Any]) -> list[dict[str, str]]:
    return [{"class_path": public_path(type(one))} for one in objects]


def _key(key: Any, name: str) -> str | int:
    key = plain(key, name)
    if type(key) not in (str, int):
        raise UsageError(f"{name} has the key {key!r}: keys are strings or whole numbers.")
    return key


def _duration(value: timedelta) -> str:
    """``DD:HH:MM:SS``, as the trainer reads it."""
    minutes, seconds = divmod(math.ceil(value.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24:02d}:{hours % 24:02d}:{minutes:02d}:{seconds:02d}"


def _described(value: Any) -> str:
    kind = value if isinstance(value, type) else type(value)
    what = "the class" if isinstance(value, type) else "an object of the class"
    return f"{what} {kind.__module__}.{kind.__qualname__}".replace("builtins.", "")


def _way_out(value: Any) -> str:
    if isinstance(value, type):
        return f"Make an object of it, {value.__name__}(...), or give its name as text."
    if any(base.__module__.startswith("pytorch_lightning.") for base in type(value).__mro__):
        return "That package is another one than ours: import it from lightning.pytorch."
    return (
        "Options are numbers, strings, paths, None, and lists or dicts of these; a class is "
        "{'class_path': 'package.Class', 'init_args': {...}}; callback and logger objects go to "
        "fit(..., callbacks=[...], logger=...)."
    )
