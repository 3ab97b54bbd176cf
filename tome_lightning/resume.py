"""Which checkpoint a run goes on from, and what that says of how it was made."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from tome_lightning.arguments import UsageError
from tome_lightning.checkpoint_io import CheckpointFileError, read_header
from tome_lightning.environment import other_versions
from tome_lightning.progress import Progress
from tome_lightning.saving import LAST
from tome_lightning.sharding import header_file

INDENT: Any = {"initial_indent": "  ", "subsequent_indent": "  ", "break_on_hyphens": False}
AVERAGING = "lightning.pytorch.callbacks.EMAWeightAveraging"
TRUSTED = ("tome_lightning.", "datamodules.")  # packages a checkpoint may name classes of


class SavedConfig(NamedTuple):
    """``model`` and ``data`` as the run that wrote the checkpoint had them, and its recipe.

    Attributes:
        config: By section.
        recipe: Name of the recipe.
        logged_steps: Steps whose logs are complete, if it says so.
        class_names: Of its head, if it says so.
    """

    config: dict[str, Any]
    recipe: str | None
    logged_steps: int | None
    class_names: list[str] | None = None


def find_checkpoint(
    resume: str, run_dir: Path | None, recipe: str | None, runs: Path = Path("runs")
) -> Path | None:
    """The checkpoint that ``--resume`` means.

    Args:
        resume: ``auto``, a run directory, or a checkpoint file.
        run_dir: Where ``auto`` looks; otherwise in the newest run of the recipe.
        recipe: The recipe's name.
        runs: The folder of all runs.

    Returns:
        The file; None where ``auto`` finds none, so that the first start of a job and every later one
        can be the same command.

    Raises:
        UsageError: If what was named is not there or is no checkpoint to go on from.
    """
    if resume != "auto":
        path = Path(resume)
        if header_file(path) != path:  # the folder of a sharded run's checkpoint
            return path
        if path.is_dir():
            found = newest_checkpoint(path)
            if found is None:
                raise UsageError(
                    f"--resume {path} has no checkpoint to go on from (checkpoints/*.ckpt). Name a run "
                    "directory such as runs/quickstart/0, or a checkpoint file."
                )
            return found
        if not path.is_file():
            raise UsageError(
                f"--resume {path} is no file. Give auto, a run directory such as runs/quickstart/0, or "
                "its checkpoint; weights to start another run from go to --init_from."
            )
        return path
    if run_dir is None:
        folder = runs / (recipe or "run")
        numbered = [p for p in folder.glob("[0-9]*") if p.name.isdigit() and p.is_dir()]
        run_dir = max(numbered, key=lambda p: int(p.name), default=None)
    return None if run_dir is None else newest_checkpoint(run_dir)


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint of a run that came furthest; damaged and foreign files are passed over."""
    found = []
    for path in (run_dir / "checkpoints").glob("*.ckpt"):
        try:
            saved = read_header(header_file(path))
        except CheckpointFileError as error:
            rank_zero_warn(f"{path} is passed over: {error}")
            continue
        progress = Progress.read(saved)
        if progress is None or "optimizer_states" not in saved:
            missing = "its optimizer" if progress else "where its run stood"
            rank_zero_warn(f"{path} is passed over: it does not hold {missing}")
            continue
        # Of two that came as far it is last.ckpt: with it the end of an epoch, where callbacks have much
        # to do, is taken again if need be.
        found.append((progress.order, path.name == LAST, path.stat().st_mtime, path))
    return max(found)[-1] if found else None


def run_dir_of(path: Path) -> Path | None:
    """The directory of the run that a checkpoint lies in, if it is that run's newest.

    From an older one a run would write over what came after it.
    """
    directory = path.absolute().parent.parent
    if path.absolute().parent.name != "checkpoints" or not (directory / "config.yaml").is_file():
        return None
    newest = newest_checkpoint(directory)
    same = newest is not None and newest.samefile(path)
    return Path(os.path.relpath(directory)) if same else None


def checkpoint_config(
    path: Path, verb: str, recipe_given: bool, versions: dict[str, str], option: str = "--ckpt_path"
) -> SavedConfig:
    """Read a run's config from its checkpoint, safely.

    Args:
        path: The checkpoint.
        verb: ``fit`` goes on as the run was, so it also takes ``trainer``, ``tome`` and the seed.
        recipe_given: Whether a recipe can supply what is not taken from the checkpoint: classes that
            are not ours are never imported because a checkpoint names them.
        versions: Of the packages now; others in the checkpoint are warned of.
        option: How the user named the file.

    Raises:
        UsageError: If the file is no checkpoint of ours, is truncated, holds anything but tensors
            and plain values, or names foreign classes and there is no recipe to do so.
    """
    try:
        saved = read_header(header_file(path))
    except CheckpointFileError as error:
        raise UsageError(
            f"{option} {path} cannot be loaded: {error}. Use a checkpoint written by this program."
        ) from error
    if "hyper_parameters" not in saved or "state_dict" not in saved:
        raise UsageError(
            f"{option} {path} is no checkpoint of a run: it has no hyper-parameters. Weights to "
            "start from (MAE, timm, safetensors files) go to --init_from or --model.checkpoint."
        )
    ours = saved.get("tome_lightning", {})
    config: dict[str, Any] = {"model": dict(saved["hyper_parameters"])}
    others = other_versions(ours.get("versions") or {}, versions)
    if others and verb == "fit":
        rank_zero_warn(f"{path} was written by other versions, results may differ: {others}")
    sections: tuple[str, ...] = ("data",)
    if verb == "fit":
        sections = ("data", "tome", "trainer", "save", "seed_everything")
    config |= {name: ours[name] for name in sections if ours.get(name) is not None}
    foreign: list[str] = []
    config = _without_foreign_classes(config, "", foreign)
    if foreign and not recipe_given:
        raise UsageError(
            f"{path} names classes that are not ours, and a checkpoint's word is not enough to import "
            f"them: {', '.join(foreign)}. Name them in a recipe (--recipe FILE; the run's own "
            "config.yaml will do)."
        )
    progress = Progress.read(saved)
    steps = progress.steps - progress.validation_due if progress else None
    return SavedConfig(config, ours.get("recipe"), steps, ours.get("class_names"))


def describe_taken(saved: dict[str, Any], used: dict[str, Any], path: Path | None) -> str:
    """Which values came from the checkpoint, and which of its values were overruled."""
    taken, overruled = [], []
    for key, value in sorted(_flat(saved).items()):
        now = _flat(used).get(key)
        if now == value:
            taken.append(f"{key}={value}")
        else:
            overruled.append(f"{key}={now} (the checkpoint has {value})")
    lines = [f"Taken from {path}:", *textwrap.wrap(", ".join(taken), 100, **INDENT)]
    if overruled:
        lines.append("Overruled by recipe or command line:")
        lines += textwrap.wrap(", ".join(overruled), 100, **INDENT)
    return "\n".join(lines)


def _without_foreign_classes(value: Any, name: str, foreign: list[str]) -> Any:
    """The config without the parts that name classes of others, which ``foreign`` collects."""
    if isinstance(value, dict):
        kept = {}
        for key, item in value.items():
            where = f"{name}.{key}" if name else str(key)
            found = len(foreign)
            cleaned = _without_foreign_classes(item, where, foreign)
            if isinstance(item, dict) and not _trusted(item):
                foreign.append(f"{where}={item['class_path']}")
            elif not isinstance(item, list) or len(foreign) == found:
                kept[key] = cleaned
        return kept
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict) and not _trusted(item):
                foreign.append(f"{name}={item['class_path']}")
            _without_foreign_classes(item, name, foreign)
    return value


def _trusted(value: dict[str, Any]) -> bool:
    path, arguments = str(value.get("class_path", TRUSTED[0])), value.get("init_args") or {}
    # Its other arguments are functions, which a checkpoint could name.
    plain = all(isinstance(v, int | float | None) for v in arguments.values())
    averages = path == AVERAGING and plain and value.keys() <= {"class_path", "init_args"}
    return path.startswith(TRUSTED) or averages


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return {key.replace(".init_args.", "."): value for key, value in flat.items()}
