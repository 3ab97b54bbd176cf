"""``sweep()``: what the verb does, from Python."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tome_lightning.commands.benchmark.bench import find_device
from tome_lightning.commands.benchmark.measure import measure
from tome_lightning.commands.benchmark.rows import Settings
from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.commands.prepared import own_environment
from tome_lightning.commands.r_words import r_text
from tome_lightning.commands.recipe_model import DTYPES
from tome_lightning.commands.sweep.prepared import VERBS, PreparedSweep, quiet_but_bar
from tome_lightning.commands.sweep.rows import SweepRow
from tome_lightning.errors import UsageError
from tome_lightning.run.failures import users_mistake
from tome_lightning.run.overrides import words_of
from tome_lightning.screen import say
from tome_lightning.tome import R, ToMeViT, layer_plan
from tome_lightning.tome.macs import macs
from tome_lightning.tome.plan import check_possible, check_r

CPU_MACS = 20e9  # of a timed batch on a CPU, where the user does not say: a second or less a step
After = Callable[[list[SweepRow]], None]


def sweep(
    r: Sequence[R],
    *,
    ckpt_path: str | Path | None = None,
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    words: Sequence[str] = (),
    stage: str = "val",
    limit: int | None = None,
    batch_size: int | None = None,
    rounds: int | None = None,
    name: str | None = None,
    after: After | None = None,
) -> list[SweepRow]:
    """Measure one model at many r: metrics as ``validate`` says them, and throughput.

    The model and its data are made and loaded once. Throughput is of forward passes on one device,
    all r in turn with the dense model, which is always among them. No run directory is written.

    Args:
        r: What to measure, in any form of ``tome.R``; r=0 is added, and comes first.
        ckpt_path: A run's checkpoint, which says its model and data by itself.
        recipe: A recipe's name or file, where there is none or to overrule it.
        overrides: Dotted options and values as for ``validate``: ``{"data.root": "photos"}``.
        words: More of them, as they would follow ``validate`` on the command line.
        stage: ``val`` or ``test``: which samples.
        limit: Batches of data to measure on; by default all.
        batch_size: Views in a timed batch; by default the data's eval_batch_size, on a CPU fewer of a
            large model.
        rounds: Timed rounds; by default as many as some 20 seconds an r allow.
        name: Of the model in table and picture; by default its run's.
        after: Called with all rows so far whenever something was measured; the last call has all.

    Returns:
        A row for each r, the dense one first.

    Raises:
        ValueError: For what the command would refuse, with the same message: an r beyond the tokens,
            no trained weights, data that is not there.
    """
    argv = [*words, *words_of(overrides)]
    argv += [] if recipe is None else ["--recipe", str(recipe)]
    argv += [] if ckpt_path is None else ["--ckpt_path", str(ckpt_path)]
    _check(argv, stage, limit, batch_size, rounds)
    try:
        with tempfile.TemporaryDirectory(prefix="tome_lightning-") as folder, own_environment():
            with quiet_but_bar():
                prepared = PreparedSweep(stage, argv, Path(folder, "run"), limit)
            prepared.model.follow(prepared.datamodule)
            rows = _planned(prepared, resolve_r(r, prepared.model.model), name)
            return _Sweep(prepared, rows, after or (lambda rows: None)).run(batch_size, rounds)
    except Exception as error:
        mistake = users_mistake(error)
        if mistake is None or mistake is error:
            raise
        raise mistake from error


def resolve_r(given: Sequence[R], model: ToMeViT) -> list[R]:
    """What is measured: r=0, then what was given, each once.

    Raises:
        PlanError: For an r that no block can follow; names the most that one can.
        UsageError: For none.
    """
    if not given:
        raise UsageError("sweep needs some r, such as --r 0 4 8 keep=0.9.")
    resolved: dict[str, R] = {"0": 0}
    for one in given:
        check_possible(one, model.depth, model.num_tokens, model.num_prefix)
        one = check_r(one, model.depth)
        merges = any(layer_plan(one, model.depth, model.num_tokens, model.num_prefix))
        resolved.setdefault(r_text(one) if merges else "0", one)
    return list(resolved.values())


class _Sweep:
    """The rows, filled in as they are measured."""

    def __init__(self, prepared: PreparedSweep, rows: list[SweepRow], after: After) -> None:
        self.prepared, self.rows, self.after = prepared, rows, after

    def run(self, batch_size: int | None, rounds: int | None) -> list[SweepRow]:
        self._evaluate(0)  # first, as it finds what is wrong with data and weights
        self._time(batch_size, rounds)
        for i in range(1, len(self.rows)):
            self._evaluate(i)
        return self.rows

    def _evaluate(self, i: int) -> None:
        row, stage = self.rows[i], self.prepared.stage
        _say(f"{row.label}: {row.metric} on the {stage} data ({i + 1} of {len(self.rows)})")
        found = self.prepared.evaluate(row.r)
        value, dense = found.metrics.get(row.metric), self.rows[0].value
        if value is None or not self.prepared.samples():
            raise UsageError(
                f"The {stage} data gave no {row.metric}: no sample in it has a label and can be read."
            )
        self.rows[i] = replace(
            row, value=value, delta=value - (value if dense is None else dense),
            samples=self.prepared.samples(), measured_on=found.counted, metrics=dict(found.metrics),
        )  # fmt: skip
        self._report()

    def _time(self, batch_size: int | None, rounds: int | None) -> None:
        """Throughput of all rows, in turn; the weights are the trained ones, the batch is noise."""
        prepared = self.prepared
        module, device = prepared.model, _device(prepared.trainer)
        model, dtype = module.model, DTYPES.get(_precision(prepared.trainer), "float32")
        batch = batch_size or _batch(prepared.datamodule, self.rows[0].macs, device)
        _say(f"the speed of all {len(self.rows)} r in turn, batch {batch}, {dtype}, {device.type}")
        merged = [i for i, row in enumerate(self.rows) if not row.dense]
        settings = Settings(
            r=tuple(self.rows[i].r for i in merged), mode="forward", dtype=dtype, device=device,
            compile=module.hparams["compile"], prop_attn=model.prop_attn, rounds=rounds,
        )  # fmt: skip
        loaded = LoadedModel(self.rows[0].name, model, module.input, task=module.task)
        for i, timed in zip([0, *merged], measure(loaded, settings, batch), strict=True):
            self.rows[i] = replace(
                self.rows[i], samples_per_s=timed.samples_per_s, speedup=timed.speedup,
                realised=timed.realised, ms=timed.ms, ms_min=timed.ms_min, ms_max=timed.ms_max,
                device=timed.device, device_name=timed.device_name, dtype=dtype, batch=batch,
            )  # fmt: skip
            if timed.error is not None:
                _say(f"{self.rows[i].label}: {timed.error}")
        self._report()

    def _report(self) -> None:
        self.after([row for row in self.rows if row.value is not None or row.ms is not None])


def _planned(prepared: PreparedSweep, rs: Sequence[R], name: str | None) -> list[SweepRow]:
    """All that is known before anything is measured."""
    module, model = prepared.model, prepared.model.model
    tokens, nothing = model.num_tokens, (0,) * model.depth
    dense = macs(model, nothing, tokens).total
    checkpoint = str(prepared.ckpt_path or module.hparams["checkpoint"])
    rows = []
    for r in rs:
        plan = layer_plan(r, model.depth, tokens, model.num_prefix)
        cost = macs(model, plan, tokens).total
        rows.append(
            SweepRow(
                name=name or _name(prepared), checkpoint=checkpoint, recipe=prepared.recipe, r=r,
                prop_attn=model.prop_attn, tokens_in=tokens, tokens_out=tokens - sum(plan), macs=cost,
                mac_ratio=dense / cost, metric=module.task.monitor, stage=prepared.stage,
                limited=prepared.limit, torch=str(torch.__version__),
            )
        )  # fmt: skip
    return rows


def _name(prepared: PreparedSweep) -> str:
    """A run's directory as a legend has room for, or the recipe, or the weights."""
    path = prepared.ckpt_path
    if path is not None:
        folder = path.absolute().parent
        folder = folder.parent if folder.name == "checkpoints" else folder
        short = f"{folder.parent.name}/{folder.name}"
        return short if path.name == "best.ckpt" else f"{short}, {path.stem}"
    return prepared.recipe or Path(str(prepared.model.hparams["checkpoint"])).stem


def _batch(data: Any, dense_macs: int, device: torch.device) -> int:
    batch = int(getattr(data, "eval_batch_size", 0) or 64)
    return min(batch, max(1, int(CPU_MACS // dense_macs))) if device.type == "cpu" else batch


def _device(trainer: Any) -> torch.device:
    device: torch.device = trainer.strategy.root_device
    return find_device("cpu") if device.type not in ("cpu", "cuda") else device


def _precision(trainer: Any) -> str:
    return str(trainer.precision).replace("-true", "-mixed")


def _check(
    argv: Sequence[str],
    stage: str,
    limit: int | None,
    batch_size: int | None,
    rounds: int | None,
) -> None:
    if stage not in VERBS:
        raise UsageError(f"--stage is {' or '.join(VERBS)}, got {stage!r}.")
    numbers = {"--limit": limit, "--batch-size": batch_size, "--rounds": rounds}
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{option} is 1 or more, got {number}.")
    refused = {
        "--model.r": "the r to measure go to --r",
        "--tome.eval_r": "the r to measure go to --r",
        "--run_dir": "no run directory is written; --json FILE keeps the rows",
    }
    for word in argv:
        option = word.partition("=")[0].replace("-", "_").replace("__", "--", 1)
        why = refused.get(option)
        if why is not None:
            raise UsageError(f"sweep takes no {option}: {why}.")


def _say(what: str) -> None:
    say(f"measuring {what} ...", sys.stderr)
