"""The message for an error that ended a run; nothing heavy is imported for it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tome_lightning.errors import UsageError

# Errors that are the user's to mend, of those modules that are imported: of others there are none.
USERS = (
    "tome_lightning.errors.UserError",
    "recipes.RecipeError",
    "checkpoints.errors.CheckpointError",
    "datamodules.errors.DataError",
    "tome_lightning.tome.plan.PlanError",
    "tome_lightning.tome.support.UnsupportedModelError",
    "lightning.fabric.utilities.exceptions.MisconfigurationException",
)
CONNECTOR = "checkpoint_connector.py"  # Lightning's, which restores a run's parts in turn


def of_loaded(error: BaseException, *paths: str) -> bool:
    """Whether an error is of one of these classes; their modules are not imported for it.

    Args:
        error: What was raised.
        paths: Classes, each by its module and name.
    """
    for path in paths:
        module, _, name = path.rpartition(".")
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return True
    return False


def users_mistake(error: BaseException | None) -> BaseException | None:
    """The user's mistake behind an error, which may be that Lightning refuses a run."""
    found = named_mistake(error)
    refused = refusal(error) if found is None else None
    return found if refused is None else UsageError(refused)


def named_mistake(error: BaseException | None) -> BaseException | None:
    """The error of `USERS` behind an error: the parser wraps what the classes it makes raise."""
    while error is not None and not of_loaded(error, *USERS):
        error = error.__cause__ or error.__context__
    return error


def refusal(error: BaseException | None) -> str | None:
    """One line where Lightning refuses a run, itself or in one of its callbacks and loggers.

    What it says in so many words (a package is missing, an option does not fit the data) is a user's to
    mend; an error that merely passes through it is not.

    Args:
        error: What ended a run; the parser wraps what the objects it makes raise.
    """
    cause = error
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        place = _place(frames[-1].filename) if frames else None
        raised = bool(frames) and (frames[-1].line or "").startswith("raise ")
        if place is None or not raised or not isinstance(cause, Exception):
            place = _setting_up(frames)
        if place is not None:
            what = " ".join(str(cause).split())[:600]
            return f"Lightning refuses this run ({place}): {what}"
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def _setting_up(frames: Sequence[traceback.FrameSummary]) -> str | None:
    """The callback of Lightning's that fails as the trainer sets it up: it is not for this module."""
    hooks = [i for i, frame in enumerate(frames) if frame.name == "_call_setup_hook"]
    for frame in reversed(frames[hooks[0] :] if hooks else []):
        place = _place(frame.filename)
        if place is not None and place.startswith("callbacks."):
            return place
        if place is None and "tome_lightning" in Path(frame.filename).parts:
            return None
    return None


def _place(file: str) -> str | None:
    """A module of Lightning's by its name without the package's, e.g. ``callbacks.timer``."""
    package = getattr(sys.modules.get("lightning"), "__file__", None)
    if package is None or not Path(file).is_relative_to(Path(package).parent):
        return None
    return ".".join(Path(file).relative_to(Path(package).parent).with_suffix("").parts[1:])


def not_restored(
    error: BaseException, options: Sequence[str] = (), path: Path | None = None
) -> str | None:
    """One line where a checkpoint could be read but not restored: it is of another model, or malformed.

    Args:
        error: What ended a run.
        options: Those of the checkpoint that the run was given others for, see `overruled`.
        path: The checkpoint.
    """
    of_model = [option for option in options if option.startswith("model.")]
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.endswith(CONNECTOR) and frame.name.lstrip("_").startswith("res"):
            if of_model:
                return (
                    f"{path} is of another model or optimizer than this run's: {', '.join(of_model)}. "
                    "Leave that out to go on with it; weights to start another run from go to "
                    "--init_from."
                )
            what = " ".join(str(error).split())[:300]
            return (
                f"The checkpoint cannot be restored: {type(error).__name__}: {what}. Is it of a model "
                "or an optimizer of other sizes? Weights to start another run from go to --init_from."
            )
    return None
