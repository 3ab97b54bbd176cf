"""What of a stranger's checkpoint is taken: known names, plain values of their types, classes of a list.

A checkpoint may come from anybody. Its word makes no class but our own public ones, imports nothing, and
chooses no place to write to: see ``recipes/TRUST.md``. What may pass is named here; all else does not.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from tome_lightning.arguments import UsageError, read_arguments, read_yaml

PACKAGES = ("tome_lightning", "datamodules", "lightning")
MAX_TEXT = 4096  # characters of a string, the longest path of Linux
MAX_INT = 2**63
INPUTS = ("Clip", "Image", "Spectrogram")
TASKS = ("MultiLabel", "SingleLabel")
DATA = ("AudioSet", "Digits", "ImageNet", "Kinetics400", "MovingDigits", "SoundScenes")
MADE = ("Digits", "MovingDigits", "SoundScenes")  # these write their files below data.root
RECIPE_NAME = re.compile(r"(?!\.+$)[\w.-]+")  # it names a folder

Number = int | float
# The Trainer's options that a checkpoint hands on to a run that goes on from it: none takes an object.
TRAINER: dict[str, Any] = {
    "accelerator": Literal["auto", "cpu", "cuda", "gpu", "mps", "tpu"],
    "accumulate_grad_batches": int,
    "barebones": bool,
    "benchmark": bool | None,
    "check_val_every_n_epoch": int | None,
    "detect_anomaly": bool,
    "deterministic": bool | Literal["warn"] | None,
    "devices": int | str | list[int],
    "enable_autolog_hparams": bool,
    "enable_checkpointing": bool | None,
    "enable_model_summary": bool | None,
    "enable_progress_bar": bool | None,
    "fast_dev_run": bool | int,
    "gradient_clip_algorithm": Literal["norm", "value"] | None,
    "gradient_clip_val": Number | None,
    "inference_mode": bool,
    "limit_predict_batches": Number | None,
    "limit_test_batches": Number | None,
    "limit_train_batches": Number | None,
    "limit_val_batches": Number | None,
    "log_every_n_steps": int | None,
    "max_epochs": int | None,
    "max_steps": int,
    "max_time": str | dict[str, int] | None,
    "min_epochs": int | None,
    "min_steps": int | None,
    "num_nodes": int,
    "num_sanity_val_steps": int | None,
    "overfit_batches": Number,
    "precision": Literal[
        "32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "32", "64", "16",
        "bf16", 32, 64, 16, None,
    ],
    "reload_dataloaders_every_n_epochs": int,
    "sync_batchnorm": bool,
    "use_distributed_sampler": bool,
    "val_check_interval": Number | str | dict[str, int] | None,
}  # fmt: skip
# Objects and places: the recipe and the command line alone name them.
NAMED = (
    "callbacks", "default_root_dir", "logger", "model_registry", "plugins", "profiler", "strategy",
)  # fmt: skip
DIVISORS = ("epoch_batches", "accumulate", "first_batches", "first_accumulate")  # of `Progress`
OURS: dict[str, Any] = {  # checkpoint["tome_lightning"]
    "class_names": list[str] | None,
    "data": dict[str, object] | None,
    "family": str,
    "logged": dict[str, Number],
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


class Taken(NamedTuple):
    """What of a checkpoint's config is taken.

    Attributes:
        config: By section: plain values, and our own classes.
        foreign: Classes of others that it names, as ``option=class``.
        left_out: Options of the trainer that it may not choose, with what it has.
    """

    config: dict[str, Any]
    foreign: list[str]
    left_out: dict[str, Any]


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
        return isinstance(value, dict) and not _faults(value, get_type_hints(hint), "")
    if hint in (int, float):
        numbers: tuple[type, ...] = (int,) if hint is int else (int, float)
        return type(value) in numbers and (type(value) is float or abs(value) <= MAX_INT)
    if hint is str:
        return type(value) is str and len(value) <= MAX_TEXT and "\0" not in value
    return hint is bool and type(value) is bool


def check_form(saved: Mapping[str, Any]) -> None:
    """Refuse a run's checkpoint whose parts are not of the types that ours have.

    Raises:
        Untrusted: Says which part.
    """
    from torch import Tensor

    for name in ("hyper_parameters", "state_dict", "loops", "callbacks", "tome_lightning"):
        part = saved.get(name, {})
        if not isinstance(part, dict) or not all(isinstance(key, str) for key in part):
            raise Untrusted(f"its {name} is {_shown(part)}, not a dictionary of names")
    if not all(isinstance(value, Tensor) for value in saved["state_dict"].values()):
        raise Untrusted("its state_dict holds something else than tensors")
    for name, state in saved.get("callbacks", {}).items():
        if not isinstance(state, dict):
            raise Untrusted(
                f"its state of the callback {name[:80]} is {_shown(state)}, not a dictionary"
            )
    ours = saved.get("tome_lightning", {})
    for name, hint in OURS.items():
        if name in ours and not fits(ours[name], hint):
            raise Untrusted(f"its tome_lightning.{name} is {_shown(ours[name])}")
    _check_progress(ours.get("progress") or {})
    for name in ("hparams_name", "hparams_type"):  # with these Lightning would take other arguments
        if saved.get(name) is not None:
            raise Untrusted(f"its {name} is {_shown(saved[name])}, and ours have none")
    for name in ("epoch", "global_step"):
        if not fits(saved.get(name, 0), int):
            raise Untrusted(f"its {name} is {_shown(saved[name])}, not a number")


def _check_progress(progress: Mapping[str, Any]) -> None:
    """Refuse counts of a run that none has; those that others are divided by begin at one."""
    for name, value in progress.items():
        typed = fits(value, Number if name == "scheduled" else int | bool)
        if not (typed and (name in DIVISORS) <= value <= MAX_INT):  # a NaN is neither
            raise Untrusted(f"its tome_lightning.trainer.progress has {name[:80]} {value}")


def recipe_name(ours: Mapping[str, Any]) -> str | None:
    """The name of a run's recipe; None for what is no name of a folder."""
    name: Any = ours.get("recipe")
    return name if fits(name, str) and RECIPE_NAME.fullmatch(name) else None


def trusted_model(given: Mapping[str, Any], tensors: int) -> Taken:
    """A run's hyper-parameters, with their classes by the names that the parser and FineTune know.

    Args:
        given: As a checkpoint has them.
        tensors: In its state dict: a block has several.

    Raises:
        Untrusted: For what is no hyper-parameter, or of another type.
    """
    from timm.models.vision_transformer import VisionTransformer

    from tome_lightning.finetune import FineTune

    hints = {**get_type_hints(FineTune.__init__), "input": object, "task": object}
    vit = _hints(VisionTransformer)
    if isinstance(given.get("vit"), dict):
        _refuse(_faults(given["vit"], vit, "model.vit."))
        depth = given["vit"].get("depth", 0)
        if depth > tensors:
            raise Untrusted(f"its model.vit.depth is {depth}, and it has {tensors} tensors")
    _refuse(_faults(given, {**hints, "vit": dict[str, object] | None}, "model."))
    config, foreign = dict(given), []
    for name, classes in (("input", INPUTS), ("task", TASKS)):
        if name in given:
            part = _class(given[name], f"model.{name}", f"tome_lightning.{name}s", classes)
            if part is None:
                foreign.append(f"model.{name}={config.pop(name)['class_path']}")
            else:
                config[name] = part
    return Taken(config, foreign, {})


def trusted_data(given: Mapping[str, Any] | None, made: bool = True) -> Taken:
    """A run's data module and its arguments; of one that makes its files only a folder that has them.

    Args:
        given: As a checkpoint has it.
        made: Whether the data module is to be made, so that it may write.

    Raises:
        Untrusted: For what is no argument of it, or of another type, or would write somewhere.
    """
    if given is None:
        return Taken({}, [], {})
    part = _class(given, "data", "datamodules", DATA)
    if part is None:
        return Taken({}, [f"data={given['class_path']}"], {})
    root = part["init_args"].get("root")
    writes = made and given["class_path"].rpartition(".")[2] in MADE
    if writes and root is not None and not Path(root, "train").is_dir():
        raise Untrusted(
            f"its data would be written to {root}, and where files are written is not a checkpoint's to "
            "say: give --data.root DIR"
        )
    return Taken({**part, "class_path": given["class_path"]}, [], {})


def plain_data(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Numbers, strings and lists of these among the arguments of somebody else's data module."""
    plain = Number | str | bool | None | list[Number]
    arguments = (given or {}).get("init_args")
    if not isinstance(arguments, dict):
        return {}
    return {"init_args": {k: v for k, v in arguments.items() if fits(k, str) and fits(v, plain)}}


def trusted_run(ours: Mapping[str, Any]) -> Taken:
    """The trainer's options, r over training, saving and the seed of a run to go on with.

    Raises:
        Untrusted: For what is no such option, or of another type.
    """
    from tome_lightning.callbacks import ToMeCallback
    from tome_lightning.trainer.saving import SaveLast

    config: dict[str, Any] = {}
    for name, kind in (("tome", ToMeCallback), ("save", SaveLast)):
        if ours.get(name) is not None:
            _refuse(_faults(ours[name], _hints(kind), f"{name}."))
            config[name] = dict(ours[name])
    trainer = dict(ours.get("trainer") or {})
    left_out = {name: trainer.pop(name) for name in NAMED if name in trainer}
    if isinstance(left_out.get("logger"), bool):
        trainer["logger"] = left_out.pop("logger")
    _refuse(_faults(trainer, {**TRAINER, "logger": bool}, "trainer."))
    config["trainer"] = trainer
    if ours.get("seed_everything") is not None:
        config["seed_everything"] = ours["seed_everything"]
    return Taken(config, [], {k: v for k, v in left_out.items() if v not in (None, [], {}, "auto")})


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


def _class(given: Any, option: str, package: str, names: Sequence[str]) -> dict[str, Any] | None:
    """A class of ours with its arguments, by its own name; None for one of somebody else.

    Raises:
        Untrusted: It is described in another way than our files do, or an argument is.
    """
    from importlib import import_module

    if (
        not isinstance(given, dict)
        or not given.keys() <= {"class_path", "init_args"}
        or type(given.get("class_path")) is not str
        or not isinstance(given.get("init_args", {}), dict)
    ):
        raise Untrusted(f"its {option} is {_shown(given)}, not a class with its arguments")
    for name in names:
        cls = getattr(import_module(package), name)
        own = f"{cls.__module__}.{cls.__qualname__}"
        if given["class_path"] in (own, f"{package}.{name}", f"tome_lightning.{name}"):
            arguments = given.get("init_args", {})
            _refuse(_faults(arguments, _hints(cls), f"{option}."))
            return {"class_path": own, "init_args": dict(arguments)}
    return None


def _hints(cls: type) -> dict[str, Any]:
    """The arguments of a class with their types."""
    hints = get_type_hints(cls if is_dataclass(cls) else vars(cls)["__init__"])
    known = {field.name for field in fields(cls)} if is_dataclass(cls) else set()
    known |= set(inspect.signature(cls).parameters)
    return {name: hint for name, hint in hints.items() if name in known}


def _faults(given: Mapping[Any, Any], hints: Mapping[str, Any], prefix: str) -> list[str]:
    """What of the given values is not known by that name, or of another type."""
    found = [f"{prefix}{_shown(name)[:80]} is no option" for name in given if name not in hints]
    return found + [
        f"{prefix}{name} is {_shown(value)}"
        for name, value in given.items()
        if name in hints and not fits(value, hints[name])
    ]


def _refuse(faults: list[str]) -> None:
    if faults:
        raise Untrusted(f"its {faults[0]}, which no run of this version writes")


def _shown(value: Any) -> str:
    """A value in a few words, however large it is."""
    if isinstance(value, (int, float)) or value is None:
        return repr(value)[:40]
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"
