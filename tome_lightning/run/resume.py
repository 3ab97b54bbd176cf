"""Which checkpoint a run goes on from, and what that says of how it was made."""

from __future__ import annotations

import os
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from tome_lightning.arguments import flat
from tome_lightning.errors import UsageError
from tome_lightning.run.environment import other_versions
from tome_lightning.run.trusted import Taken, trusted_data, trusted_model, trusted_run
from tome_lightning.screen import say
from tome_lightning.trainer.checkpoint_file import CheckpointFileError, read_header
from tome_lightning.trainer.progress import Progress
from tome_lightning.trainer.ranks import rank, started_by_first
from tome_lightning.trainer.saving import LAST
from tome_lightning.trust import Untrusted, class_paths, recipe_name

# Set for the processes that Lightning starts on this machine: what `--resume` has found.
RESUME_VARIABLE = "TOME_LIGHTNING_RESUME"
INDENT: Any = {"initial_indent": "  ", "subsequent_indent": "  ", "break_on_hyphens": False}


class SavedConfig(NamedTuple):
    """``model`` and ``data`` as the run that wrote the checkpoint had them, and its recipe.

    Attributes:
        config: By section.
        recipe: Name of the recipe.
        logged_steps: Steps whose logs are complete, if it says so.
        left_out: Options of the trainer that a checkpoint may not choose, as it has them.
        class_names: Of its head, if it says so.
    """

    config: dict[str, Any]
    recipe: str | None
    logged_steps: int | None
    left_out: dict[str, Any]
    class_names: list[str] | None = None


def checkpoint_to_resume(resume: str, run_dir: Path | None, recipe: str | None) -> Path | None:
    """What ``--resume`` means, the same for all processes of this machine; says what ``auto`` finds.

    Args:
        resume: As for `find_checkpoint`, which says what is returned and raised.
        run_dir: The run directory, if one was given.
        recipe: The recipe's name, if there is one.
    """
    if started_by_first() and RESUME_VARIABLE in os.environ:
        found = os.environ[RESUME_VARIABLE]
        return Path(found) if found else None
    if resume == "auto" and recipe is None and run_dir is None:
        raise UsageError("--resume auto has to know whose run: give --recipe or --run_dir.")
    path = find_checkpoint(resume, run_dir, recipe)
    os.environ[RESUME_VARIABLE] = str(path or "")
    if resume == "auto" and rank() == 0:
        say(
            "--resume auto finds no checkpoint to go on from: this run starts at its beginning"
            if path is None
            else describe_choice(path, run_dir)
        )
    return path


def find_checkpoint(resume: str, run_dir: Path | None, recipe: str | None) -> Path | None:
    """The checkpoint that ``--resume`` means.

    Args:
        resume: ``auto``, a run directory, or a checkpoint file.
        run_dir: Where ``auto`` looks; otherwise in the recipe's runs, the newest with a checkpoint.
        recipe: The recipe's name.

    Returns:
        The file; None where ``auto`` finds none, so that the first start of a job and every later one
        can be the same command.

    Raises:
        UsageError: If what was named is not there or is no checkpoint to go on from.
    """
    if resume != "auto":
        path = Path(resume)
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
    if run_dir is not None:
        return newest_checkpoint(run_dir)
    # The newest run may have been killed, or refused, before it saved.
    newest = (newest_checkpoint(run) for run in numbered_runs(Path("runs", recipe or "run")))
    return next((path for path in newest if path is not None), None)


def numbered_runs(folder: Path) -> list[Path]:
    """The directories ``<n>`` in a recipe's folder, the newest first."""
    numbered = [p for p in folder.glob("[0-9]*") if p.name.isdigit() and p.is_dir()]
    return sorted(numbered, key=lambda p: int(p.name), reverse=True)


def describe_choice(path: Path, run_dir: Path | None) -> str:
    """What ``--resume auto`` has found, and which newer runs it passed over."""
    run = path.absolute().parent.parent
    newer = [] if run_dir is not None else numbered_runs(run.parent)
    passed = [one.name for one in newer if int(one.name) > int(run.name)]
    told = f"--resume auto goes on with {path}"
    if passed:
        later = ", ".join(reversed(passed))
        told += f", the newest run with a checkpoint: {later} came later without one"
    return told


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint of a run that came furthest; damaged and foreign files are passed over."""
    found = []
    for path in (run_dir / "checkpoints").glob("*.ckpt"):
        try:
            saved = read_header(path)
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
    """Read a run's config from its checkpoint, safely: see `trust`.

    Args:
        path: The checkpoint.
        verb: ``fit`` goes on as the run was, so it also takes ``trainer``, ``tome`` and the seed.
        recipe_given: Whether a recipe can supply what is not taken from the checkpoint: classes that
            are not ours are never imported because a checkpoint names them.
        versions: Of the packages now; others in the checkpoint are warned of.
        option: How the user named the file.

    Raises:
        UsageError: If the file is no checkpoint of ours, is truncated, holds anything but tensors
            and plain values of the types that ours have, or names foreign classes and there is no
            recipe to do so.
    """
    try:
        saved = read_header(path)
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
    others = other_versions(ours.get("versions") or {}, versions)
    if others and verb == "fit":
        rank_zero_warn(f"{path} was written by other versions, results may differ: {others}")
    try:
        model = trusted_model(saved["hyper_parameters"], len(saved["state_dict"]))
        data = trusted_data(ours.get("data"))
        run = trusted_run(ours) if verb == "fit" else Taken({}, [], {})
    except Untrusted as error:
        raise UsageError(f"{option} {path} is refused: {error}.") from error
    foreign = model.foreign + data.foreign
    if foreign and not recipe_given:
        raise UsageError(
            f"{path} names classes that are not ours, and a checkpoint's word is not enough to import "
            f"them: {', '.join(foreign)}. Name them in a recipe (--recipe FILE; the run's own "
            "config.yaml will do)."
        )
    config = {"model": model.config} | ({"data": data.config} if data.config else {}) | run.config
    progress = Progress.read(saved)
    steps = progress.steps if progress else None
    recipe = recipe_name(ours)
    if recipe is None and ours.get("recipe") is not None:
        named = str(ours["recipe"])[:80]
        rank_zero_warn(f"{path} names its recipe {named!r}, which is no name: left out")
    return SavedConfig(config, recipe, steps, run.left_out, ours.get("class_names"))


def check_left_out(
    left_out: Mapping[str, Any], trainer: Mapping[str, Any], words: Sequence[str], path: Path
) -> str | None:
    """Compare objects that the checkpoint's run had in its trainer with those of this run.

    Args:
        left_out: What a checkpoint may not choose: see `run.trusted.NAMED`.
        trainer: The trainer's options now.
        words: The command line; what it sets by itself is on purpose.
        path: The checkpoint.

    Returns:
        A line on what this run has not, if there is something.

    Raises:
        UsageError: For callbacks and plugins, which change training.
    """
    missing = {}
    for name, value in left_out.items():
        now = Counter(map(_last, class_paths(trainer.get(name))))
        gone = []
        for path_of_class in class_paths(value) or [str(value)]:
            now[_last(path_of_class)] -= 1  # one of two is missing as well
            if now[_last(path_of_class)] < 0:
                gone.append(path_of_class)
        if gone:
            missing[name] = gone
    for name in ("callbacks", "plugins"):
        on_purpose = any(re.match(rf"--trainer[._]{name}(=|$)", word) for word in words)
        if name in missing and not on_purpose:
            raise UsageError(
                f"The run of {path} had trainer.{name} {', '.join(missing[name])}, and a checkpoint's "
                f"word is not enough to make them. Name them as at its start "
                f"(--trainer.{name}+={missing[name][0]}, or the run's own config.yaml as --recipe; "
                f"objects from Python as fit(..., {name}=[...])); to go on without, "
                f"--trainer.{name}=null."
            )
    told = "; ".join(f"trainer.{name} {', '.join(gone)}" for name, gone in missing.items())
    return f"The checkpoint's run had {told}, which this one has not" if told else None


def _last(path: str) -> str:
    """A class by its own name: it may be imported from several places."""
    return path.rpartition(".")[2]


def describe_taken(saved: dict[str, Any], used: dict[str, Any], path: Path | None) -> str:
    """Which values came from the checkpoint, and which of its values were overruled."""
    now, others = flat(used), overruled(saved, used)
    taken = [
        f"{key}={value}" for key, value in sorted(flat(saved).items()) if now.get(key) == value
    ]
    lines = [f"Taken from {path}:", *textwrap.wrap(", ".join(taken), 100, **INDENT)]
    if others:
        lines.append("Overruled by recipe or command line:")
        lines += textwrap.wrap(", ".join(others), 100, **INDENT)
    return "\n".join(lines)


def overruled(saved: dict[str, Any], used: dict[str, Any]) -> list[str]:
    """Options that a run has other values of than the checkpoint, each with both values."""
    before, now = flat(saved), flat(used)
    others = {key: f"has {value}" for key, value in before.items() if now.get(key) != value}
    # a checkpoint has of timm's options those that its run was given
    news = [key for key in now if key.startswith("model.vit.") and key not in before]
    others |= dict.fromkeys(news if before else [], "does not set it")
    return [f"{key}={now.get(key)} (the checkpoint {what})" for key, what in sorted(others.items())]
