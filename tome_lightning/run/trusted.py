"""Which of a checkpoint's words about a run are taken: the options of our own classes, of their types.

What is trusted at all, and why: `tome_lightning.trust`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

from timm.models.vision_transformer import VisionTransformer

import datamodules
from checkpoints.hints import Number, fits
from datamodules.base import LabelledData
from datamodules.shards.hub import is_hub
from datamodules.shards.layout import splits
from tome_lightning.callbacks import ToMeCallback
from tome_lightning.finetune import FineTune
from tome_lightning.lazy import public_path
from tome_lightning.trainer.saving import SaveLast
from tome_lightning.trust import Untrusted, faults, refuse, shown

INPUTS = ("Clip", "Image", "Spectrogram")
TASKS = ("MultiLabel", "SingleLabel")
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


def trusted_model(given: Mapping[str, Any], tensors: int) -> Taken:
    """A run's hyper-parameters, with their classes by the names that the parser and FineTune know.

    Args:
        given: As a checkpoint has them.
        tensors: In its state dict: a block has several.

    Raises:
        Untrusted: For what is no hyper-parameter, or of another type.
    """
    hints = {**get_type_hints(FineTune.__init__), "input": object, "task": object}
    vit = {**_hints(VisionTransformer), "norm_eps": float | None}  # ours: see inputs/base.py
    if isinstance(given.get("vit"), dict):
        refuse(faults(given["vit"], vit, "model.vit."))
        depth = given["vit"].get("depth", 0)
        if depth > tensors:
            raise Untrusted(f"its model.vit.depth is {depth}, and it has {tensors} tensors")
    refuse(faults(given, {**hints, "vit": dict[str, object] | None}, "model."))
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
    ours = {cls.__name__: cls for cls in datamodules.data_sets()}
    part = _class(given, "data", "datamodules", list(ours))
    if part is None:
        return Taken({}, [f"data={given['class_path']}"], {})
    root = part["init_args"].get("root")
    if made and root is not None and is_hub(root):
        raise Untrusted(
            f"its data would be fetched from {root}, and what is fetched is not a checkpoint's to say: "
            f"give --data.root {root}"
        )
    writes = made and ours[given["class_path"].rpartition(".")[2]].makes_files
    if writes and root is not None and not (Path(root, "train").is_dir() or splits(Path(root))):
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
    config: dict[str, Any] = {}
    for name, kind in (("tome", ToMeCallback), ("save", SaveLast)):
        if ours.get(name) is not None:
            refuse(faults(ours[name], _hints(kind), f"{name}."))
            config[name] = dict(ours[name])
    trainer = dict(ours.get("trainer") or {})
    left_out = {name: trainer.pop(name) for name in NAMED if name in trainer}
    if isinstance(left_out.get("logger"), bool):
        trainer["logger"] = left_out.pop("logger")
    refuse(faults(trainer, {**TRAINER, "logger": bool}, "trainer."))
    config["trainer"] = trainer
    if ours.get("seed_everything") is not None:
        config["seed_everything"] = ours["seed_everything"]
    return Taken(config, [], {k: v for k, v in left_out.items() if v not in (None, [], {}, "auto")})


def _class(given: Any, option: str, package: str, names: Sequence[str]) -> dict[str, Any] | None:
    """A class of ours with its arguments, by its own name; None for one of somebody else.

    Raises:
        Untrusted: It is described in another way than our files do, or an argument is.
    """
    if (
        not isinstance(given, dict)
        or not given.keys() <= {"class_path", "init_args"}
        or type(given.get("class_path")) is not str
        or not isinstance(given.get("init_args", {}), dict)
    ):
        raise Untrusted(f"its {option} is {shown(given)}, not a class with its arguments")
    for name in names:
        cls = getattr(import_module(package), name)
        own, place = public_path(cls), f"{cls.__module__}.{cls.__qualname__}"
        if given["class_path"] in (own, place, f"{package}.{name}", f"tome_lightning.{name}"):
            arguments = given.get("init_args", {})
            refuse(faults(arguments, _hints(cls), f"{option}."))
            return {"class_path": own, "init_args": dict(arguments)}
    return None


def _hints(cls: type) -> dict[str, Any]:
    """The arguments of a class with their types."""
    if issubclass(cls, LabelledData):
        return {name: option.annotation for name, option in cls.options().items()}
    hints = get_type_hints(cls if is_dataclass(cls) else vars(cls)["__init__"])
    known = {field.name for field in fields(cls)} if is_dataclass(cls) else set()
    known |= set(inspect.signature(cls).parameters)
    return {name: hint for name, hint in hints.items() if name in known}
