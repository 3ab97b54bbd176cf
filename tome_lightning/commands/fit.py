"""`fit`: a run from Python or a notebook."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

from tome_lightning.finetune import FineTune
from tome_lightning.run.failures import users_mistake
from tome_lightning.run.overrides import read_overrides
from tome_lightning.run.record import RUN_DIR_VARIABLE
from tome_lightning.screen import silence
from tome_lightning.trainer.claim import release
from tome_lightning.trainer.signals import interrupted


class Run(NamedTuple):
    """A finished run.

    Attributes:
        module: The trained module, as it was after the last step; ``best.ckpt`` holds the best one.
        trainer: Lightning's trainer.
        directory: The run directory.
        summary: What ``summary.json`` says.
    """

    module: FineTune
    trainer: Trainer
    directory: Path
    summary: dict[str, Any]


def fit(
    recipe: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    callbacks: Callback | Sequence[Any] | None = None,
    logger: Logger | Sequence[Logger] | bool | None = None,
    **options: Any,
) -> Run:
    """``python -m tome_lightning fit --recipe RECIPE --KEY VALUE ...`` from Python or a notebook.

    Args:
        recipe: A recipe's name or a YAML file.
        overrides: Dotted options and their values, e.g. ``{"model.r": 8, "data.root": "photos"}``:
            numbers (numpy's and torch's too), paths, arrays, and all else that `overrides.plain` takes.
        callbacks: Objects, beside those that the recipe names. No config holds them, and a checkpoint
            notes only their classes: a run that goes on is given them again, or refused.
        logger: Objects instead of TensorBoard; ``False`` for none.
        options: More of the same, e.g. ``keep_effective_batch=True``, ``resume="auto"``.

    Raises:
        ValueError: For what the command line would refuse, with the same message, and for what is
            no option.
    """
    given, objects = read_overrides(overrides, options, callbacks=callbacks, logger=logger)
    words = ["fit", "--recipe", str(recipe), *given]
    from tome_lightning.cli import ToMeCLI

    if "LOCAL_RANK" not in os.environ:
        os.environ.pop(RUN_DIR_VARIABLE, None)
    silence()
    try:
        cli = ToMeCLI(words, objects)
    except SystemExit as stop:
        if not interrupted(stop):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has switched it off
        raise KeyboardInterrupt from None
    except Exception as error:
        mistake = users_mistake(error)
        if mistake is None or mistake is error:
            raise
        raise mistake from error
    finally:
        release()
    summary = json.loads((cli.run_dir / "summary.json").read_text())
    return Run(cli.model, cli.trainer, cli.run_dir, summary)
