"""What of a stranger's checkpoint is taken: known names, plain values of their types, classes of a list.

A checkpoint may come from anybody. Its word makes no class but our own public ones, imports nothing, and
chooses no place to write to: see ``recipes/TRUST.md``. What may pass is named here; all else does not.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from checkpoints.hints import MAX_INT, Number, fits
from tome_lightning.arguments import read_arguments, read_yaml
from tome_lightning.errors import UsageError

PACKAGES = ("tome_lightning", "datamodules", "lightning")
RECIPE_NAME = re.compile(r"(?!\.+$)[\w.-]+")  # it names a folder

DIVISORS = ("epoch_batches", "accumulate", "first_batches", "first_accumulate")  # of `Progress`
OURS: dict[str, Any] = {  # checkpoint["tome_lightning"]
    "class_names": list[str] | None,
    "data": dict[str, object] | None,
    "family": str,
    "progress": dict[str, Number | bool] | None,  # see `_check_progress`
    "recipe": object,  # a name that is none is left out, see `recipe_name`
    "save": dict[str, object] | None,
    "seed_everything": bool | int | None,
    "tome": dict[str, object] | None,
    "trainer": dict[str, object] | None,
    "versions": dict[str, str],
}


class Untrusted(UsageError):
    """A checkpoint that says what no run of ours has written; the message is the short reason."""


def check_form(saved: Mapping[str, Any]) -> None:
    """Refuse a run's checkpoint whose parts are not of the types that ours have.

    Raises:
        Untrusted: Says which part.
    """
    from torch import Tensor

    for name in ("hyper_parameters", "state_dict", "loops", "callbacks", "tome_lightning"):
        part = saved.get(name, {})
        if not isinstance(part, dict) or not all(isinstance(key, str) for key in part):
            raise Untrusted(f"its {name} is {shown(part)}, not a dictionary of names")
    if not all(isinstance(value, Tensor) for value in saved["state_dict"].values()):
        raise Untrusted("its state_dict holds something else than tensors")
    for name, state in saved.get("callbacks", {}).items():
        if not isinstance(state, dict):
            raise Untrusted(
                f"its state of the callback {name[:80]} is {shown(state)}, not a dictionary"
            )
    ours = saved.get("tome_lightning", {})
    for name, hint in OURS.items():
        if name in ours and not fits(ours[name], hint):
            raise Untrusted(f"its tome_lightning.{name} is {shown(ours[name])}")
    _check_progress(ours.get("progress") or {})
    for name in ("hparams_name", "hparams_type"):  # with these Lightning would take other arguments
        if saved.get(name) is not None:
            raise Untrusted(f"its {name} is {shown(saved[name])}, and ours have none")
    for name in ("epoch", "global_step"):
        if not fits(saved.get(name, 0), int):
            raise Untrusted(f"its {name} is {shown(saved[name])}, not a number")


def _check_progress(progress: Mapping[str, Any]) -> None:
    """Refuse counts of a run that none has; those that others are divided by begin at one."""
    for name, value in progress.items():
        typed = fits(value, Number if name == "scheduled" else int | bool)
        if not (typed and (name in DIVISORS) <= value <= MAX_INT):  # a NaN is neither
            raise Untrusted(f"its tome_lightning.progress has {name[:80]} {value}")


def recipe_name(ours: Mapping[str, Any]) -> str | None:
    """The name of a run's recipe; None for what is no name of a folder."""
    name: Any = ours.get("recipe")
    return name if fits(name, str) and RECIPE_NAME.fullmatch(name) else None


def class_paths(value: Any) -> list[str]:
    """The classes that a part of a config names, in order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        named = value.get("class_path")
        return [named] if isinstance(named, str) else []
    if isinstance(value, Sequence):
        return [path for one in value for path in class_paths(one)]
    return []


def foreign_classes(words: Sequence[str]) -> list[str]:
    """The classes of others that a command line and its recipes name.

    Raises:
        UsageError: A recipe cannot be read.
    """
    argv = read_arguments(list(words)).argv
    named = [word.rpartition("=")[2] for word in argv]
    for option, value in pairwise(argv):
        if option == "--config":
            named += _strings(read_yaml(Path(value)))
    classes = [path for path in named if re.fullmatch(r"(?:[A-Za-z_]\w*\.)+[A-Z]\w*", path)]
    return [path for path in dict.fromkeys(classes) if path.partition(".")[0] not in PACKAGES]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    inner = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    )
    for one in inner:
        yield from _strings(one)


@contextlib.contextmanager
def imports_of(words: Sequence[str], files: Sequence[Path]) -> Iterator[None]:
    """The second layer: while a checkpoint's values are parsed, the parser imports nothing but our and
    Lightning's packages and those that the user's own words and recipes name.

    Args:
        words: The command line.
        files: The recipes.
    """
    import jsonargparse._common as common  # its policy can be set, but not be taken back
    from jsonargparse import set_parsing_settings

    text = "\n".join([*words, *(file.read_text("utf-8", "replace") for file in files)])
    named = {path.partition(".")[0] for path in re.findall(r"[A-Za-z_]\w*(?:\.\w+)+", text)}
    before = dict(common.parsing_settings)
    try:
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=sorted({*PACKAGES, *named} - {"jsonargparse"}),
        )
        yield
    finally:
        common.parsing_settings.update(before)


def faults(given: Mapping[Any, Any], hints: Mapping[str, Any], prefix: str) -> list[str]:
    """What of the given values is not known by that name, or of another type."""
    found = [f"{prefix}{shown(name)[:80]} is no option" for name in given if name not in hints]
    return found + [
        f"{prefix}{name} is {shown(value)}"
        for name, value in given.items()
        if name in hints and not fits(value, hints[name])
    ]


def refuse(faults: list[str]) -> None:
    if faults:
        raise Untrusted(f"its {faults[0]}, which no run of this version writes")


def shown(value: Any) -> str:
    """A value in a few words, however large it is."""
    if isinstance(value, (int, float)) or value is None:
        return repr(value)[:40]
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"
