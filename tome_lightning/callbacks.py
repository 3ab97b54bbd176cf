"""r over training, and what each r costs."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from tome_lightning.screen import columns
from tome_lightning.tome import RSchedule, layer_plan, requested_plan, token_counts
from tome_lightning.tome.plan import R
from tome_lightning.trainer.compiling import allow_graphs, count_graphs
from tome_lightning.trainer.figures import at_each_batch
from tome_lightning.trainer.lightning_internals import callbacks_of, log_every_n_steps
from tome_lightning.trainer.memory import asked_for
from tome_lightning.trainer.meter import StepMeter, limiting_words, peak_memory_mib, time_unit
from tome_lightning.trainer.signals import stop_asked

if TYPE_CHECKING:
    from tome_lightning.finetune import FineTune
    from tome_lightning.tome import ToMeViT


CONSTANT = RSchedule()
# Of the meter, and as they are logged.
FIGURES = {"step_ms": "step_ms", "data_ms": "data_ms", "per_s": "samples_per_s"}


class ToMeCallback(Callback):
    """Sets r during training and measures every r used.

    r is a pure function of progress, which checkpoints hold: all processes agree without a message.
    Batches of one optimizer step share their r. Logged: ``tome/r`` (mean over blocks),
    ``tome/tokens_out``, ``tome/step_ms``, ``tome/data_ms``, ``tome/samples_per_s`` and
    ``tome/peak_mem_mib``, medians over recent steps.

    Args:
        schedule: How r moves during training; constant by default.
        train_r: The r it moves towards; by default the model's own (``model.r``).
        eval_r: r of validation, test and predict; by default the model's own.
        compare_dense: Steps of each kind to time at the end of fit, dense against merged, forward
            and backward on the last batch; 0 leaves it out.
    """

    LOGGED = (  # a run's names that are no metric of its task
        "train/lr", "tome/r", "tome/tokens_out", "tome/step_ms", "tome/data_ms", "tome/samples_per_s",
        "tome/peak_mem_mib",
    )  # fmt: skip

    def __init__(
        self,
        schedule: RSchedule = CONSTANT,
        train_r: int | list[int] | dict[str, int | float] | None = None,
        eval_r: int | list[int] | dict[str, int | float] | None = None,
        compare_dense: int = 0,
    ) -> None:
        self.schedule = schedule
        self.train_r = train_r
        self.eval_r = eval_r
        self.compare_dense = compare_dense
        self.meter = StepMeter()
        self._repeats = False  # whether the data has repeat_aug
        self.final_r: R = 0  # the model's own, from setup() on
        self._running = False
        self.dense_against_merged: dict[str, int | float] | None = None
        self._last_batch: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.compare_dense < 0:
            raise MisconfigurationException(
                f"tome.compare_dense is a number of steps, 0 or more, got {self.compare_dense}."
            )
        stage = str(getattr(stage, "value", stage))  # Lightning passes an enum
        as_finetune(pl_module).follow(getattr(trainer, "datamodule", None))
        model = as_finetune(pl_module).model
        self.final_r = model.r
        self._running = True
        if stage == "fit":
            self.meter = StepMeter(trainer.strategy.root_device)
            data = getattr(trainer, "datamodule", None)
            self._repeats = hasattr(data, "repeat_aug")
        for r, tokens in ((self.train_r, model.train_tokens), (self.eval_r, model.num_tokens)):
            if r is not None:
                as_finetune(pl_module).check_r(r, tokens)
        rank_zero_info(self.describe(as_finetune(pl_module), stage))
        if as_finetune(pl_module).hparams["compile"]:
            graphs = self.graphs(model, stage)
            allow_graphs(graphs)
            rank_zero_info(f"torch.compile: at most {graphs} graphs, each when it is first needed")

    def graphs(self, model: ToMeViT, stage: str) -> int:
        """How many graphs a compiled run makes at most: r of the schedule, dense if it is compared,
        and evaluation."""
        if stage != "fit":
            return count_graphs([])
        trained = self.schedule.values(self._target(model.r), model.depth)
        trained += [0, self._target(model.r)] if self.compare_dense else []
        return count_graphs(trained)

    def describe(self, module: FineTune, stage: str) -> str:
        """The token table of this stage: what enters each block and what was clamped.

        That of fit has two where training and evaluation differ in r or in their tokens.
        """
        model = module.model
        evaluated = self._evaluated(model.r), model.num_tokens
        if stage != "fit":
            return _token_table(model, stage, *evaluated)
        trained = self._target(model.r), model.train_tokens
        if trained == evaluated:
            return _token_table(model, stage, *evaluated)
        tables = [
            _token_table(model, "training", *trained),
            _token_table(model, "evaluation", *evaluated),
        ]
        return "\n".join(tables)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.meter.pause()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        module = as_finetune(pl_module)
        module.model.r = self.schedule.at(
            module.progress(), self._target(self.final_r), module.model.depth, trainer.global_step
        )
        self.meter.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        model = as_finetune(pl_module).model
        plan = model.plan(model.train_tokens)
        self.meter.stop(plan, len(batch[0]) * trainer.world_size)  # all processes step together
        if self.compare_dense:
            self._last_batch = batch
        every = log_every_n_steps(trainer)
        if every and trainer.global_step % every == 0:
            self._log(pl_module, plan, model.train_tokens)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.meter.pause()
        as_finetune(pl_module).model.r = self._evaluated(self.final_r)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.meter.pause()
        as_finetune(pl_module).model.r = self.final_r

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = as_finetune(pl_module)
        module.model.r = self._target(self.final_r)
        merges = any(module.model.plan(module.model.train_tokens))
        if self.compare_dense and self._last_batch is not None and merges:
            self.dense_against_merged = self._time_dense_against_merged(trainer, module)
        module.model.r = self.final_r
        self._last_batch = None
        rank_zero_info(self.report(module, trainer.strategy.root_device))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._running:  # what is evaluated next has the model's own r
            as_finetune(pl_module).model.r = self.final_r

    def summary(self, module: FineTune, device: torch.device) -> dict[str, Any]:
        """What ``summary.json`` says of speed; medians over the recent steps of the most used r."""
        plan, train_plan = self.plans(module.model)
        rows = self.meter.read()
        most_used = max(rows, key=lambda plan: rows[plan].steps, default=None)
        return {
            "r": self._evaluated(self.final_r),
            "train_r": self._target(self.final_r),
            "plan": plan,
            "train_plan": train_plan,
            "tokens": list(token_counts(plan, module.model.num_tokens)),
            "step_ms": self.meter.median(most_used, "step_ms"),
            "data_ms": self.meter.median(most_used, "data_ms"),
            "peak_mem_mib": peak_memory_mib(device),
            "waiting_share": self.meter.waiting_share(),
            "limited_by": limiting_words(self.meter.waiting_share(), self._repeats),
            "dense_against_merged": self.dense_against_merged,
            "speed_by_r": [self._speed(trained, module.model) for trained in rows],
        }

    def plans(self, model: ToMeViT) -> tuple[list[int], list[int]]:
        """Tokens that each block merges in evaluation, and in training (at the end of its schedule)."""
        return (
            _plan(model, self._evaluated(self.final_r), model.num_tokens),
            _plan(model, self._target(self.final_r), model.train_tokens),
        )

    def _speed(self, plan: tuple[int, ...], model: ToMeViT) -> dict[str, Any]:
        return {
            "r_mean": round(_mean(plan), 4),
            "tokens_out": model.train_tokens - sum(plan),
            "steps": self.meter.recorded[plan].steps,
            **{to: self.meter.median(plan, name) for name, to in FIGURES.items()},
        }

    def report(self, module: FineTune, device: torch.device) -> str:
        """The table at the end of fit: one row for each r that was trained at."""
        rows = [("r (mean)", "tokens out", "steps", "step ms", "data ms", "samples/s")]
        for plan, row in self.meter.read().items():
            values = [self.meter.median(plan, name) for name in FIGURES]
            step, data, speed = ("-" if value is None else f"{value:.1f}" for value in values)
            tokens = module.model.train_tokens - sum(plan)
            rows.append((f"{_mean(plan):.2f}", f"{tokens}", f"{row.steps}", step, data, speed))
        lines = columns(rows, left=0)
        summary = self.summary(module, device)
        kind = "CUDA memory" if torch.device(device).type == "cuda" else "resident memory"
        lines.append(
            f"peak {kind} {summary['peak_mem_mib']:.0f} MiB; limited by {summary['limited_by']}"
        )
        if self.dense_against_merged:
            d = self.dense_against_merged
            lines.append(
                f"forward + backward, {d['batch']:.0f} samples, interleaved, median of "
                f"{d['rounds']:.0f}: dense {d['dense_ms']:.1f} ms, merged {d['merged_ms']:.1f} ms "
                f"= {d['speedup']:.2f}x"
            )
        return "\n".join(lines)

    def _target(self, own: R) -> R:
        return own if self.train_r is None else self.train_r

    def _evaluated(self, own: R) -> R:
        return own if self.eval_r is None else self.eval_r

    def _log(self, pl_module: LightningModule, plan: tuple[int, ...], num_tokens: int) -> None:
        figures = {f"tome/{to}": self.meter.median(plan, name) for name, to in FIGURES.items()}
        known = {name: value for name, value in figures.items() if value is not None}
        shown = known.pop("tome/samples_per_s", None)
        on_bar = at_each_batch(pl_module.trainer)
        pl_module.log("tome/r", _mean(plan), prog_bar=on_bar)
        if shown is not None:
            pl_module.log("tome/samples_per_s", shown, prog_bar=on_bar)
        optimizer: Any = pl_module.optimizers(use_pl_optimizer=False)
        known["train/lr"] = max(group["lr"] for group in optimizer.param_groups)
        known["tome/tokens_out"] = num_tokens - sum(plan)
        known["tome/peak_mem_mib"] = peak_memory_mib(pl_module.device)
        pl_module.log_dict(known)

    def _time_dense_against_merged(
        self, trainer: Trainer, module: FineTune
    ) -> dict[str, int | float] | None:
        """Time dense and merged steps in turn, on the same batch; gradients are thrown away.

        None if a signal asks the run to stop in the meantime, or if a step does not fit in memory: the
        run is a good one all the same.
        """
        x, y, _ = self._last_batch
        merged, left_out = (
            module.model.r,
            "Training is done: dense and merged steps are not compared",
        )
        times: dict[str, list[float]] = {"dense": [], "merged": []}
        module.train()
        module.keep_frozen_in_eval()
        try:
            for turn in range(2 * (self.compare_dense + 1)):
                if _asked_to_stop(trainer):
                    rank_zero_info(f"{left_out} to the end")
                    return None
                name, module.model.r = (("dense", 0), ("merged", merged))[turn % 2]
                with torch.enable_grad():
                    elapsed, lack = _step_that_fits(trainer, module, x, y)
                if elapsed is None:
                    rank_zero_info(
                        f"{left_out}, since {name} does not fit in memory with {len(x)} samples"
                        + (f" ({lack})" if lack else ", on another process")
                    )
                    return None
                times[name].append(elapsed)
        finally:
            module.model.r = merged
        dense, fast = (statistics.median(values[1:]) for values in times.values())  # 1st: warm-up
        return {
            "dense_ms": dense,
            "merged_ms": fast,
            "speedup": dense / fast,
            "rounds": float(self.compare_dense),
            "batch": float(len(x)),
        }


def _asked_to_stop(trainer: Trainer) -> bool:
    """Whether a signal has asked any process to: all leave together, whose steps need one another."""
    asked = stop_asked(callbacks_of(trainer)) > 0
    return trainer.strategy.reduce_boolean_decision(asked, all=False)


def _step_that_fits(
    trainer: Trainer, module: FineTune, x: torch.Tensor, y: torch.Tensor
) -> tuple[float | None, str | None]:
    """Milliseconds of a step, None where it lacks memory on any process; and what this one lacks."""
    elapsed = lack = None
    try:
        elapsed = _timed_step(trainer, module, x, y)
    except RuntimeError as error:
        lack = asked_for(error)
        if lack is None:
            raise
    # Out here, where the error's frames hold no activations any more.
    if not trainer.strategy.reduce_boolean_decision(lack is None):
        module.zero_grad(set_to_none=True)
        if module.device.type == "cuda":
            torch.cuda.empty_cache()
        return None, lack
    return elapsed, None


def _timed_step(trainer: Trainer, module: FineTune, x: torch.Tensor, y: torch.Tensor) -> float:
    def step() -> None:
        with trainer.precision_plugin.forward_context():
            loss = module.loss(x, y)
        loss.backward()

    elapsed = time_unit(step, 1, module.device)
    module.zero_grad(set_to_none=True)
    return elapsed


def _plan(model: ToMeViT, r: R, num_tokens: int) -> list[int]:
    return list(layer_plan(r, model.depth, num_tokens, model.num_prefix))


def _token_table(model: ToMeViT, stage: str, r: R, num_tokens: int) -> str:
    plan = _plan(model, r, num_tokens)
    lines = [
        f"Token Merging for {stage}: r={r}, prop_attn={model.prop_attn}, "
        f"pooling {model.vit.global_pool!r}",
        f"  tokens {' '.join(map(str, token_counts(plan, num_tokens)))}",
    ]
    if num_tokens < model.num_tokens:
        lines[1] += f"  ({num_tokens} of {model.num_tokens}: the others are masked in training)"
    requested = requested_plan(r, model.depth)
    clamped = [i for i, r in enumerate(plan) if requested and r < requested[i]]
    if clamped:
        lines.append(
            f"  blocks {', '.join(map(str, clamped))} merge less than asked: "
            "at most half of a block's patch tokens can merge"
        )
    if not any(plan):
        lines.append("  r is 0 in every block: nothing merges, this is the dense model")
    return "\n".join(lines)


def _mean(plan: tuple[int, ...]) -> float:
    return sum(plan) / max(len(plan), 1)


def as_finetune(pl_module: LightningModule) -> FineTune:
    from tome_lightning.finetune import FineTune

    if not isinstance(pl_module, FineTune):
        raise TypeError(f"ToMeCallback drives a FineTune module, got {type(pl_module).__name__}.")
    return pl_module
