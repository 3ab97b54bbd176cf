"""How many samples a second one core makes of a recipe's data, and what their time goes into.

In this process, on one core and with one thread of torch: no loader process, no model. So it says what
each core adds, where ``--end-to-end`` says whether all of them together keep up with the model.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.base import LabelledData
from datamodules.samples import Samples
from tome_lightning.arguments import UsageError
from tome_lightning.screen import columns

SECONDS = 10.0  # a split is measured so long
FEWEST = 8  # samples, however long they take
STAGES = ("decode", "augment", "crop", "features")


class LoaderRow(NamedTuple):
    """How one core makes the samples of a split.

    Attributes:
        split: train or val.
        samples: How many were made.
        per_s: Samples a second and core.
        stage_ms: Milliseconds of each stage a sample, by its name; ``other`` is what is left.
    """

    split: str
    samples: int
    per_s: float
    stage_ms: dict[str, float]


def measure_loader(data: Any, seconds: float) -> list[LoaderRow]:
    """Make samples of the training and the validation split, in a random order that is always the same.

    Args:
        data: A data module on `LabelledData`.
        seconds: How long each split is measured; at least `FEWEST` samples are made.

    Raises:
        UsageError: The data module is of another kind.
        DataError: What is wrong with the files.
    """
    if not isinstance(data, LabelledData):
        raise UsageError(
            f"--loader times data modules on datamodules.base.LabelledData; {type(data).__name__} is "
            "none. --end-to-end times the loader of any data."
        )
    data.prepare_data()
    data.setup("fit")
    with one_core():
        return [_measure(split, data.samples(split), seconds) for split in ("train", "val")]


def lines(rows: Sequence[LoaderRow]) -> list[str]:
    """The rows as a table."""
    stages = [name for name in (*STAGES, "other") if any(name in row.stage_ms for row in rows)]
    table = [["split", "samples", "a second and core", *(f"{name} ms" for name in stages)]]
    for row in rows:
        spent = [f"{row.stage_ms[name]:.2f}" if name in row.stage_ms else "-" for name in stages]
        table.append([row.split, f"{row.samples}", f"{row.per_s:.1f}", *spent])
    return ["one core, one thread, files read as they lie:", *columns(table)]


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, with the threads of decoders, on one core and torch on one thread."""
    threads, pins = torch.get_num_threads(), hasattr(os, "sched_setaffinity")  # Linux
    cores = os.sched_getaffinity(0) if pins else set()
    torch.set_num_threads(1)
    if pins:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if pins:
            os.sched_setaffinity(0, cores)


class _Timed:
    """Calls what it is given and sums up the seconds.

    Attributes:
        seconds: So far.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.seconds = call, 0.0

    def __call__(self, *arguments: Any) -> Any:
        begin = perf_counter()
        try:
            return self.call(*arguments)
        finally:
            self.seconds += perf_counter() - begin


def _measure(split: str, samples: Samples, seconds: float) -> LoaderRow:
    order = np.random.RandomState(0).permutation(len(samples)).tolist()
    samples[order[0]]  # what is imported or kept at the first sample
    stages = samples.stages()
    timed = {name: _Timed(getattr(samples, place)) for name, place in stages.items()}
    for name, place in stages.items():
        setattr(samples, place, timed[name])
    begin, made, passed = perf_counter(), 0, 0.0
    while made < FEWEST or passed < seconds:
        samples[order[made % len(order)]]
        made, passed = made + 1, perf_counter() - begin
    spent = {name: stage.seconds for name, stage in timed.items()}
    spent["other"] = passed - sum(spent.values())
    for name, place in stages.items():
        setattr(samples, place, timed[name].call)
    return LoaderRow(
        split, made, made / passed, {name: 1000 * own / made for name, own in spent.items()}
    )
