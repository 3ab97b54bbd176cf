"""The directory of a run: its config, its metrics, its checkpoints."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from checkpoints.bounds import read_mapping
from checkpoints.hints import fits
from tome_lightning.callbacks import ToMeCallback, as_finetune
from tome_lightning.errors import UsageError
from tome_lightning.run.best import BestCheckpoint
from tome_lightning.run.environment import environment
from tome_lightning.run.leftovers import HPARAMS, held
from tome_lightning.run.overview import run_facts, screen
from tome_lightning.screen import typed
from tome_lightning.tasks import Task
from tome_lightning.trainer.agreement import of_all
from tome_lightning.trainer.checkpoint_file import write_text
from tome_lightning.trainer.claim import LOCK, claim
from tome_lightning.trainer.ranks import rank
from tome_lightning.trainer.saving import LAST

if TYPE_CHECKING:
    from tome_lightning.finetune import FineTune

# Set for the processes that Lightning starts on this machine, so that all name the same directory.
RUN_DIR_VARIABLE = "TOME_LIGHTNING_RUN_DIR"
BAD_FILES = "bad_files.json"
SPEED = (
    "step_ms", "data_ms", "peak_mem_mib", "waiting_share", "limited_by", "dense_against_merged",
    "speed_by_r",
)  # fmt: skip
METRICS = dict[str, int | float]
MANY = 10  # classes, from which near-chance accuracy tells something


def make_run_dir(
    given: str | None,
    recipe: str | None,
    resuming: bool,
    own: Path | None = None,
    verb: str | None = None,
) -> Path:
    """Create and return the directory of this run: as given, else ``runs/<recipe>/<n>``, a new n.

    What evaluates has ``runs/<recipe>/<verb>/<n>``, apart from the runs that can go on.

    Args:
        given: What the user named.
        recipe: The recipe's name.
        resuming: Whether a directory that holds something may be named.
        own: The directory of the run that is resumed, to go on in it.
        verb: Of an evaluation.

    Raises:
        UsageError: If the directory named by the user holds something and no run is resumed, or if
            it cannot be written.
    """
    place = Path("runs", recipe or "run", *([verb] if verb else []))
    if rank():  # it writes nothing; RunRecord learns the real directory from rank 0
        return Path(os.environ.get(RUN_DIR_VARIABLE) or given or own or place)
    try:
        if given is None and own is not None:
            path = own
        else:
            path = _named(Path(given), resuming) if given else _numbered(place)
        _check_links(path)
        claim(path)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError("no permission to write into it")
    except OSError as error:
        raise UsageError(
            f"The run directory {given or place} cannot be written: "
            f"{_no_folder(Path(given or place)) or error.strerror or error}. "
            "Choose another with --run_dir."
        ) from error
    os.environ[RUN_DIR_VARIABLE] = str(path)
    return path


def _no_folder(place: Path) -> str | None:
    """What stands in the way of a folder, where that is a file or a link that leads nowhere."""
    for part in (place, *place.parents):
        if part.is_symlink() and not part.exists():
            return f"{part} is a link to {os.readlink(part)}, which is not there"
        if part.exists() and not part.is_dir():
            return f"{part} is a file"
    return None


def _check_links(path: Path) -> None:
    """A run folder may be of somebody else: no link in it may lead what a run writes elsewhere.

    Small files and checkpoints replace a link of their name; what is left is dealt with here.

    Raises:
        UsageError: ``checkpoints`` is a link.
    """
    folder = path / "checkpoints"
    if folder.is_symlink():
        raise UsageError(
            f"{folder} is a link to {os.readlink(folder)}, and a run folder's links are not followed "
            "when it is written to: somebody else may have set them. Put the folder itself there, or "
            "name another --run_dir."
        )
    if (path / HPARAMS).is_symlink():  # TensorBoardLogger would write through it
        (path / HPARAMS).unlink()


def _named(path: Path, resuming: bool) -> Path:
    if held(path) - {LOCK} and not resuming:
        raise UsageError(
            f"The run directory {path} is not empty. Name another with --run_dir, leave it out for a "
            "new runs/<recipe>/<n>, or go on with the run in it: --resume auto."
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def _numbered(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)  # fails where a part of it is a file or leads nowhere
    taken = [int(child.name) for child in parent.glob("[0-9]*") if child.name.isdigit()]
    number = max(taken, default=-1) + 1
    while True:
        try:
            (parent / str(number)).mkdir()
            return parent / str(number)
        except FileExistsError:  # another run took it in the meantime
            number += 1


class RunRecord(Callback):
    """Writes ``config.yaml`` and ``environment.json`` when a run starts, ``summary.json`` when it ends.

    A resumed run adds ``config.resume-1.yaml`` and so on, and ``environment.resume-1.json``.

    Args:
        directory: The run directory.
        config: The resolved config as YAML.
        recipe: Name of the recipe.
        tome: The callback that measures speed.
    """

    def __init__(
        self, directory: Path, config: str, recipe: str | None, tome: ToMeCallback
    ) -> None:
        self.directory = directory
        self.config = config
        self.recipe = recipe
        self.tome = tome
        self.began = False  # whether a batch was trained or measured on
        self.metrics: dict[str, float] = {}
        self.counted = ""  # what they were measured on

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.directory = Path(trainer.strategy.broadcast(str(self.directory)))
        if trainer.is_global_zero:
            suffix = self._suffix()
            write_text(self.directory / f"config{suffix}.yaml", self.config)
            facts = json.dumps(environment() | _data_facts(trainer), indent=2)
            write_text(self.directory / f"environment{suffix}.json", facts + "\n")
        facts = screen(self._facts(trainer, as_finetune(pl_module)))
        rank_zero_info(f"{self.recipe or 'Run'}\n{facts}\n  {'run':<8} {self.directory}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _best(trainer):
            self.metrics, self.counted = {}, ""  # a best.ckpt that is elsewhere, or none yet

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.began |= not trainer.sanity_checking

    on_validation_batch_start = on_train_batch_start
    on_test_batch_start = on_train_batch_start
    on_predict_batch_start = on_train_batch_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if 0 < trainer.max_steps <= trainer.global_step:
            # A run that max_steps ends within an epoch is validated as well, and has a best.ckpt:
            # Lightning validates there only if it is asked to stop.
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        task = as_finetune(pl_module).task
        found, monitor = _metrics_of(trainer, "val", task), task.monitor
        better = found.get(monitor, -math.inf) > self.metrics.get(monitor, -math.inf)
        if better or not self.metrics:
            self.metrics = found  # those of best.ckpt
            self.counted = _counted(trainer, "val", task)
        if trainer.state.fn == "fit":
            counted = _counted(trainer, "val", task)
            rank_zero_info(f"Epoch {trainer.current_epoch}: {_in_words(found)} on {counted}")
        if not trainer.training and trainer.state.fn == "validate":
            self._finish(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        task = as_finetune(pl_module).task
        self.metrics = _metrics_of(trainer, "test", task)
        self.counted = _counted(trainer, "test", task)
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if (
            trainer.state.fn != "fit"
            or not self.began
            or not trainer.global_step
            or getattr(trainer, "fast_dev_run", False)
        ):
            return
        self._write_summary(trainer, pl_module, ended=type(exception).__name__)

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        summary = self._write_summary(trainer, pl_module, together=True)
        figures = _in_words(summary["metrics"])
        measured = f"{figures} on {summary['measured_on']}; " if figures else ""
        rank_zero_info(f"{measured}r={summary['r']}; see {self.directory}")
        if trainer.state.fn != "fit":
            self._warn_of_chance(trainer, pl_module)
        if summary["unreadable_files"]:
            counts = ", ".join(
                f"{n} of {split}" for split, n in summary["unreadable_files"].items()
            )
            rank_zero_info(
                f"Files that could not be read: {counts}; named in {self.directory / BAD_FILES}"
            )
        if trainer.state.fn == "fit" and summary["checkpoint"]:
            file = typed(_shorter(summary["checkpoint"]))
            rank_zero_info(f"Test it: python -m tome_lightning test --ckpt_path {file}")

    def _warn_of_chance(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A label order other than the checkpoint's looks like a broken model."""
        classes = as_finetune(pl_module).task.num_classes
        names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        if classes >= MANY and self.metrics.get("top1", 1.0) < 2 / classes and names:
            rank_zero_info(
                f"That is no better than chance (1 of {classes}). If the weights are trained, their "
                f"classes may be in another order: here class 0 is {names[0]!r}, class 1 {names[1]!r}."
            )

    def _write_summary(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        together: bool = False,
        ended: str = "finished",
    ) -> dict[str, Any]:
        """Write what this process knows, or what all of them know ``together`` if all of them ask."""
        bad = _bad_files(trainer, together)
        summary = {
            "recipe": self.recipe,
            "metrics": self.metrics,
            "measured_on": self.counted,
            "unreadable_files": dict(Counter(row["split"] for row in bad)),
            **_data_facts(trainer),
            **self.tome.summary(as_finetune(pl_module), trainer.strategy.root_device),
            **self._facts(trainer, as_finetune(pl_module)),
            "steps": trainer.global_step,
            "ended": ended,
            "checkpoint": self._checkpoint(trainer),
        }
        if trainer.state.fn == "fit" and not summary["speed_by_r"]:
            # a finished run was resumed: no step was taken
            summary |= _speed_before(self.directory)
        if trainer.is_global_zero:
            write_text(self.directory / "summary.json", json.dumps(summary, indent=2) + "\n")
            if bad:  # in the form that data.exclude takes
                write_text(self.directory / BAD_FILES, json.dumps({"bad": bad}, indent=2) + "\n")
        return summary

    def _facts(self, trainer: Trainer, module: FineTune) -> dict[str, Any]:
        return run_facts(trainer, module, *self.tome.plans(module.model))

    def _checkpoint(self, trainer: Trainer) -> str | None:
        if trainer.state.fn != "fit":
            path = trainer.ckpt_path or as_finetune(trainer.lightning_module).hparams["checkpoint"]
            return str(path) if path else None
        last = self.directory / "checkpoints" / LAST
        return next(iter(_best(trainer)), str(last) if last.exists() else None)

    def _suffix(self) -> str:
        suffix, number = "", 0
        # resumed in the same directory
        while os.path.lexists(self.directory / f"config{suffix}.yaml"):
            number += 1
            suffix = f".resume-{number}"
        return suffix

    def state_dict(self) -> dict[str, Any]:
        """What best.ckpt scored, for the summary of a resumed run."""
        return {"metrics": dict(self.metrics), "counted": self.counted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""
        if fits(state_dict, dict[str, object]) and fits(state_dict.get("metrics"), METRICS):
            self.metrics, self.counted = dict(state_dict["metrics"]), str(state_dict.get("counted"))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metrics, self.counted = {}, ""  # not what the checkpoint says of its run
        self.on_fit_start(trainer, pl_module)

    on_predict_start = on_test_start
    on_predict_end = on_fit_end

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_start(trainer, pl_module)


def _speed_before(directory: Path) -> dict[str, Any]:
    """What the summary that is there says of speed and memory."""
    before = read_mapping(directory / "summary.json")
    return {name: before[name] for name in SPEED if name in before}


def _shorter(path: str) -> str:
    """A path as one types it: relative where it lies below the working folder."""
    place = Path(path)
    return str(place.relative_to(Path.cwd())) if place.is_relative_to(Path.cwd()) else path


def _best(trainer: Trainer) -> list[str]:
    """Where our best.ckpt is, if there is one: a user's callbacks may save by another metric."""
    callbacks = trainer.checkpoint_callbacks
    return [c.best_model_path for c in callbacks if type(c) is BestCheckpoint and c.best_model_path]


def _in_words(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2%}" for name, value in metrics.items())


def _metrics_of(trainer: Trainer, stage: str, task: Task) -> dict[str, float]:
    prefix = f"{stage}/"
    others = {f"{prefix}{name}" for name in ("loss", "samples", *task.counts)}
    return {
        name.removeprefix(prefix): round(float(value), 6)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(prefix) and name not in others
    }


def _counted(trainer: Trainer, stage: str, task: Task) -> str:
    """What a metric was measured on: samples counted once, whatever the number of processes."""
    logged = trainer.callback_metrics
    count = int(logged.get(f"{stage}/samples", 0))
    data: Any = getattr(trainer, "datamodule", None)
    words = [data.describe(stage, count) if hasattr(data, "describe") else f"{count} samples"]
    for name in task.counts:
        words.append(f"{int(logged.get(f'{stage}/{name}', 0))} of {task.num_classes} {name}")
    return ", ".join(words)


def _data_facts(trainer: Trainer) -> dict[str, Any]:
    """Which lists were read, and how much of them is not there: results depend on both."""
    data: Any = getattr(trainer, "datamodule", None)
    return dict(data.facts()) if hasattr(data, "facts") else {}


def _bad_files(trainer: Trainer, together: bool) -> list[dict[str, str]]:
    """The files that could not be read, each once: of this process, or of all."""
    data: Any = getattr(trainer, "datamodule", None)
    rows: list[dict[str, str]] = data.bad_files() if hasattr(data, "bad_files") else []
    if together:
        rows = [row for share in of_all(rows) for row in share]
    return list({(row["split"], row["path"]): row for row in rows}.values())
