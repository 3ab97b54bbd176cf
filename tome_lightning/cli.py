"""``python -m tome_lightning {fit,validate,test,predict}``: Lightning's CLI, with recipes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import timm
import torch
import torchmetrics
import torchvision
import yaml
from jsonargparse import ActionYesNo, ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from timm.models.vision_transformer import VisionTransformer

from datamodules.base import LabelledData
from tome_lightning.arguments import (
    data_options,
    explain_parse_error,
    options_in,
    options_of,
    read_arguments,
    try_int_before_float,
)
from tome_lightning.callbacks import ToMeCallback
from tome_lightning.errors import UsageError
from tome_lightning.finetune import FineTune
from tome_lightning.inputs import Input
from tome_lightning.run.bar import RunBar
from tome_lightning.run.best import best_checkpoints, check_states, keep_apart
from tome_lightning.run.failures import named_mistake, not_restored, users_mistake
from tome_lightning.run.leftovers import held, remove_unused
from tome_lightning.run.overrides import Objects
from tome_lightning.run.predictions import PredictionWriter
from tome_lightning.run.preflight import check_monitors, check_options, slow_in_half_precision
from tome_lightning.run.record import RUN_DIR_VARIABLE, RunRecord, make_run_dir
from tome_lightning.run.resume import (
    check_left_out,
    checkpoint_config,
    checkpoint_to_resume,
    describe_taken,
    overruled,
    run_dir_of,
)
from tome_lightning.screen import say
from tome_lightning.tasks import Task
from tome_lightning.tome import RSchedule
from tome_lightning.trainer.checkpoint_file import AtomicCheckpointIO
from tome_lightning.trainer.launch import check_launch, cluster_plugins
from tome_lightning.trainer.peers import Peers, leave_group
from tome_lightning.trainer.ranks import rank, started_by_first
from tome_lightning.trainer.saving import SaveLast
from tome_lightning.trainer.signals import stop_asked
from tome_lightning.trainer.strategy import check_strategy, spare_ddp
from tome_lightning.trust import imports_of
from tome_lightning.version import __version__

FIXED = {"weights_only": True, "return_predictions": False}  # PredictionWriter keeps them
VERSIONS = {
    "tome_lightning": __version__,
    # plain strings: torch has a class of its own for its version, which safe loading refuses
    **{m.__name__: str(m.__version__) for m in (lightning, timm, torch, torchmetrics, torchvision)},
}


OWN = {  # options beside the sections
    "run_dir": "Where the run is kept; by default runs/<recipe>/<n>, a new n each time.",
    "recipe": "A recipe's name or a YAML file; may be given several times, later wins.",
    "resume": "fit: go on with a run: its directory, its checkpoint, or auto for the newest of "
    "--run_dir or of the recipe. Short for --ckpt_path.",
    "init_from": "fit: start a new run from weights. Short for --model.checkpoint.",
}


class ToMeCLI(LightningCLI):
    """LightningCLI with a run directory, the ToMe callback and checkpoints that never overrule.

    Precedence, later wins: checkpoint (``--ckpt_path``), recipes in their order, command line.
    """

    record: RunRecord | None = None
    ckpt_path: Path | None = None
    overruled: Sequence[str] = ()  # of the checkpoint's options

    def __init__(self, argv: list[str], objects: Objects | None = None) -> None:
        self.objects = objects or Objects()  # beside what the words name
        try:
            self._run_verb(argv)
        except BaseException as error:
            self._leave_nothing()
            unrestored = not_restored(error, self.overruled, self.ckpt_path)
            if unrestored is not None and named_mistake(error) is None:
                raise UsageError(unrestored) from error
            raise

    def _run_verb(self, argv: list[str]) -> None:
        self.verb, *rest = argv
        verb = self.verb
        arguments = read_arguments(rest, verb)
        self.recipe = arguments.recipe
        self.ckpt_path = arguments.ckpt_path
        self.resume = arguments.resume
        first, last = list[str](), list[str]()
        if arguments.resume is not None:
            self.ckpt_path = checkpoint_to_resume(
                arguments.resume, arguments.run_dir, arguments.recipe
            )
            last = [] if self.ckpt_path is None else ["--ckpt_path", str(self.ckpt_path)]
        self.from_checkpoint: dict[str, Any] = {}
        self.left_out: dict[str, Any] = {}  # of the checkpoint's trainer
        self.logged_steps: int | None = None
        self.class_names: list[str] | None = None  # of the checkpoint
        with contextlib.ExitStack() as stack:
            if self.ckpt_path is not None:
                given = "--config" in arguments.argv
                option = "--ckpt_path" if arguments.resume is None else "--resume"
                saved = checkpoint_config(self.ckpt_path, verb, given, VERSIONS, option)
                self.recipe = self.recipe or saved.recipe
                self.logged_steps = saved.logged_steps
                self.class_names = saved.class_names
                self.from_checkpoint, self.left_out = saved.config, saved.left_out
                path = stack.enter_context(_yaml_file(saved.config))
                files = [Path(b) for a, b in pairwise(arguments.argv) if a == "--config"]
                stack.enter_context(imports_of(rest, files))
                first = ["--config", path]
            self.words = rest
            super().__init__(
                FineTune,
                LightningDataModule,
                subclass_mode_data=True,
                save_config_callback=None,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_kwargs={"exit_on_error": False}
                | {verb: {"exit_on_error": False} for verb in self.subcommands()},
                args=[verb, *first, *arguments.argv, *last],
            )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        header = [f"{name}=={version}" for name, version in VERSIONS.items()]
        return super().init_parser(dump_header=header, **kwargs)

    # Lightning's is static, and makes the parsers of all verbs: each takes a quarter of a start.
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        known = LightningCLI.subcommands()
        verbs = [self.verb] if self.verb in known else list(known)  # all of them to complete a line
        return {verb: {*known[verb], *FIXED} for verb in verbs}  # no options

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        try_int_before_float(parser)  # of the trainer
        parser.add_lightning_class_args(ToMeCallback, "tome")
        parser.add_lightning_class_args(SaveLast, "save")
        parser.add_argument(
            "--keep_effective_batch",
            action=ActionYesNo,
            nargs="?",  # so that it can be given a value, as from Python
            default=False,
            help="fit: accumulate so many batches that a step has model.effective_batch samples.",
        )
        for name, text in OWN.items():
            parser.add_argument(f"--{name}", type=str | None, default=None, help=text)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        for name, one in self._subcommand_parsers.items():
            one.prog = f"python -m tome_lightning {name}"
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            if args[0] not in self._subcommand_parsers:
                raise
            verb = self._subcommand_parsers[args[0]]
            known = _nested_options() | options_in(verb)
            raise UsageError(explain_parse_error(str(error), known)) from error

    def _parse_ckpt_path(self) -> None:
        """Nothing: the checkpoint's values were parsed first, so that all others overrule them."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if self.ckpt_path is not None:
            now = self.objects.noted(config.trainer.as_dict())
            left_out = check_left_out(self.left_out, now, self.words, self.ckpt_path)
            _say(left_out) if left_out else None
        if self.from_checkpoint:
            self.overruled = overruled(self.from_checkpoint, config.as_dict())
            _say(describe_taken(self.from_checkpoint, config.as_dict(), self.ckpt_path))
        given = any(re.match(r"--trainer[._]precision\b", word) for word in self.words)
        if not given and slow_in_half_precision(config.trainer):
            rank_zero_warn(
                f"trainer.precision {config.trainer.precision} would be many times slower than 32-true "
                "on this CPU, which has no instructions for it: 32-true is used instead"
            )
            config.trainer.precision = "32-true"
        check_strategy(config.trainer.strategy)
        check_options(config.trainer.as_dict())
        self.run_dir = self._make_run_dir(config.run_dir)
        self.held = held(self.run_dir)
        saved = config.clone()
        saved.run_dir = None  # a new run made from config.yaml gets a directory of its own
        for name in ("recipe", "resume", "init_from"):
            del saved[name]
        if "ckpt_path" in saved:
            saved.ckpt_path = None  # as a recipe it would make every run go on from there
        self.config_yaml = self._parser(self.subcommand).dump(saved, skip_unset=False)
        self.config_yaml += self.objects.comment()

    def _make_run_dir(self, given: str | None) -> Path:
        """The run's directory: a resumed run goes on in its own."""
        if self.subcommand != "fit":  # a run's number is for what can go on
            return make_run_dir(given, self.recipe, resuming=False, verb=self.subcommand)
        if self.ckpt_path is None:
            return make_run_dir(given, self.recipe, resuming=self.resume is not None)
        own = run_dir_of(self.ckpt_path)
        if own is None and given is None:
            _say(f"{self.ckpt_path} is not the newest of its run: going on in another directory")
        return make_run_dir(given, self.recipe, resuming=True, own=own)

    def _leave_nothing(self) -> None:
        """Remove what was written of a run that has not begun."""
        if hasattr(self, "held") and not (self.record and self.record.began):
            remove_unused(self.run_dir, self.held)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.subcommand != "fit" and isinstance(self.datamodule, LabelledData):
            self.datamodule.take_classes(self.class_names, self.model.task.num_classes)
        trainer_config = self._get(self.config_init, "trainer")
        tome, save = self._get(self.config_init, "tome"), self._get(self.config_init, "save")
        self.record = RunRecord(self.run_dir, self.config_yaml, self.recipe, tome)
        extra: list[Any] = [self.record]
        best: list[Any] = []
        if self.subcommand == "fit" and trainer_config["enable_checkpointing"] is not False:
            folder = self.run_dir / "checkpoints"
            best = best_checkpoints(folder, self.model.task.monitor, save.top_k)
        save.saves = trainer_config["enable_checkpointing"] is not False
        if self.objects.loggers:
            kwargs["logger"] = list(self.objects.loggers)
        elif trainer_config["logger"] in (None, True):
            begun = any(self.run_dir.glob("events.out.tfevents*"))  # killed before it saved
            purge = 0 if begun and self.logged_steps is None else self.logged_steps
            kwargs["logger"] = (
                # steps after the checkpoint are logged again: what a killed run logged of them goes
                TensorBoardLogger(self.run_dir, name="", version="", purge_step=purge)
                if self.subcommand == "fit"
                else False
            )
        callbacks = [*_as_list(trainer_config["callbacks"]), *self.objects.callbacks]
        check_strategy(trainer_config["strategy"])
        bars = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
        if trainer_config["enable_progress_bar"] is not False and not bars:
            extra.append(RunBar())
        if trainer_config["enable_model_summary"] is None:
            trainer_config["enable_model_summary"] = False  # FineTune prints what matters
        extra += [PredictionWriter(self.run_dir)] if self.subcommand == "predict" else []
        keep_apart(callbacks, self.run_dir / "checkpoints")
        peers = Peers(lambda error: users_mistake(error) or not_restored(error))
        # `peers` comes before those that wait for others as they end, best.ckpt before all that save
        trainer_config["callbacks"] = [peers, *best, *callbacks, *extra]
        check_states([*trainer_config["callbacks"], tome, save])
        given = _as_list(trainer_config["plugins"])
        trainer_config["plugins"] = [*given, AtomicCheckpointIO(), *cluster_plugins(given)]
        self.model.restoring = self.ckpt_path is not None
        self.model.keep_effective_batch = self._get(self.config, "keep_effective_batch")
        config = yaml.safe_load(self.config_yaml)
        config["trainer"] = self.objects.noted(config["trainer"])
        sections = ("data", "tome", "trainer", "save", "seed_everything")
        self.model.run_config = {
            "recipe": self.recipe,
            "versions": VERSIONS,
            **{name: config[name] for name in sections},
        }
        try:
            trainer = super().instantiate_trainer(default_root_dir=self.run_dir, **kwargs)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
            if not torch.cuda.is_available() and trainer_config["accelerator"] in ("gpu", "cuda"):
                raise UsageError(
                    f"trainer.accelerator is {trainer_config['accelerator']!r}, but torch "
                    f"{torch.__version__} sees no CUDA device. Use --trainer.accelerator cpu or auto."
                ) from error
            raise UsageError(f"Lightning refuses these trainer options: {error}") from error
        check_launch(trainer)
        spare_ddp(trainer.strategy, self.model)
        if self.subcommand == "fit":
            check_monitors(trainer, callbacks, self.model)
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        fixed = FIXED if subcommand == "predict" else {"weights_only": True}
        return {**super()._prepare_subcommand_kwargs(subcommand), **fixed}


def main(argv: list[str]) -> int:
    """Run one of Lightning's verbs.

    Args:
        argv: The verb and its options.

    Returns:
        The exit code: 0, or 130 where Ctrl-C came so late that the run has finished all the same.

    Raises:
        Exception: Whatever ended the run; ``__main__`` makes an exit code of it.
    """
    os.environ.pop(RUN_DIR_VARIABLE, None) if "LOCAL_RANK" not in os.environ else None
    trainer = ToMeCLI(argv).trainer
    leave_group()
    # A scheduler need not start a finished run again; a shell's loop ends.
    late = stop_asked(getattr(trainer, "callbacks", ())) == signal.SIGINT
    return 128 + signal.SIGINT if late and not started_by_first() else 0


def _say(words: str) -> None:
    if rank() == 0:
        say(words)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


@contextlib.contextmanager
def _yaml_file(config: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.yaml")
        path.write_text(yaml.safe_dump(config))
        yield str(path)


def _nested_options() -> set[str]:
    """Options of the classes that a recipe chooses."""
    return data_options().union(
        options_of("model.input", Input.__subclasses__()),
        options_of("model.task", Task.__subclasses__()),
        options_of("model.vit", (VisionTransformer,)),
        options_of("tome.schedule", (RSchedule,)),
    )
