"""What limits a run, and what merging can bring there, in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tome_lightning.trainer.meter import limiting_words

WAITS = 0.1  # of the time, from where on data is a limit; as in `limiting_words`
MATTERS = 0.25  # of the time, from where on a part of the step is what limits it
FASTER = 1.05  # a smaller speed-up is none
OVERHEAD_MS = 5.0  # what Lightning and our callbacks may cost a step


@dataclass(frozen=True)
class EndToEnd:
    """Where the time of a run goes; a step is one batch of the train loader.

    Attributes:
        recipe: Its name, or what was run.
        device: cpu or cuda.
        precision: As the trainer's.
        batch: Samples in a batch, repeats counted.
        r: Mean r over the blocks.
        tokens_in: Tokens that enter the first block in training.
        tokens_out: Tokens that leave the last one.
        steps: Steps of the real run that were measured.
        accumulate: Batches of an optimizer step.
        workers: Loader processes; 0 reads between the steps.
        cores: Cores that model and workers have.
        processes: Processes the recipe asks for; one was measured.
        repeats: Whether the data has ``repeat_aug``.
        mac_ratio: Multiply-accumulates of the dense over those of the merged model.
        data_per_s: Samples a second that the loader delivers with nobody else at work.
        prepare_ms: To bring a batch to the device and prepare it there.
        dense_ms: A bare step of the dense model on a batch from memory, optimizer included.
        merged_ms: The same at this r.
        optimizer_ms: The optimizer's part of it.
        overhead_ms: What Lightning and the callbacks add to it.
        hooks_ms: The host's part of that in each callback, and in the module's own hooks.
        period_ms: From step to step in the real run.
        wait_ms: How much of that was waiting for data.
    """

    recipe: str
    device: str
    precision: str
    batch: int
    r: float
    tokens_in: int
    tokens_out: int
    steps: int
    accumulate: int
    workers: int
    cores: int
    processes: int
    repeats: bool
    mac_ratio: float
    data_per_s: float
    prepare_ms: float
    dense_ms: float
    merged_ms: float
    optimizer_ms: float
    overhead_ms: float
    hooks_ms: dict[str, float]
    period_ms: float
    wait_ms: float

    @property
    def merges(self) -> bool:
        return self.tokens_out < self.tokens_in

    @property
    def per_s(self) -> float:
        """Samples a second in the real run."""
        return 1000 * self.batch / self.period_ms

    @property
    def waiting_share(self) -> float:
        """Share of the real run's time that went into waiting for data."""
        return self.wait_ms / self.period_ms

    @property
    def merging_ms(self) -> float:
        """What a merged step takes beyond what its multiply-accumulates promise.

        That is merging itself, and what else does not shrink with the tokens.
        """
        promised = (self.dense_ms - self.optimizer_ms) / self.mac_ratio + self.optimizer_ms
        return max(0.0, self.merged_ms - promised) if self.merges else 0.0

    @property
    def slowdown(self) -> float:
        """How much longer a step takes in the real run than alone: workers want the cores as well."""
        return (self.period_ms - self.wait_ms) / self._in_trainer(self.merged_ms)

    @property
    def gain(self) -> float:
        """How many times as fast as dense the run goes."""
        return self._gain(faster_data=1.0)

    @property
    def gain_with_faster_data(self) -> float:
        """The same if data came twice as fast."""
        return self._gain(faster_data=2.0)

    @property
    def data_limit(self) -> float:
        """The speed-up over dense at which the loader, alone, could not follow any more."""
        alone = 1000 * self.batch / self.data_per_s + self.prepare_ms
        dense = self._dense_step() + (self.wait_ms if self.workers == 0 else 0.0)
        return dense / alone

    def shares(self) -> dict[str, float]:
        """Share of the real run's time in each part; they add up to one."""
        parts = {
            "the optimizer": self.optimizer_ms / self.accumulate,
            "Lightning and the callbacks": self.overhead_ms,
            "merging": self.merging_ms,
        }
        shares = {
            "data": self.waiting_share,
            **{name: ms * self.slowdown / self.period_ms for name, ms in parts.items()},
        }
        total = max(1.0, sum(shares.values()))  # parts measured alone may exceed the whole
        shares = {name: share / total for name, share in shares.items()}
        return shares | {"the model": max(0.0, 1.0 - sum(shares.values()))}

    def as_dict(self) -> dict[str, Any]:
        """Plain builtins: what was measured, and what follows from it."""
        return asdict(self) | {
            "samples_per_s": self.per_s,
            "waiting_share": self.waiting_share,
            "merging_ms": self.merging_ms,
            "shares": self.shares(),
            "speedup": self.gain,
            "speedup_with_data_twice_as_fast": self.gain_with_faster_data,
            "limited_by": limited_by(self),
            "verdict": verdict(self),
        }

    def lines(self) -> list[str]:
        """For the screen: a table, what limits the run, and the verdict."""
        return [*_table(self), *_notes(self), f"limited by {limited_by(self)}", verdict(self)]

    def _in_trainer(self, bare_ms: float) -> float:
        """A bare step as part of a run: with its overhead, and its share of an optimizer's step."""
        return bare_ms + self.overhead_ms - self.optimizer_ms * (1 - 1 / self.accumulate)

    def _dense_step(self) -> float:
        return self._in_trainer(self.dense_ms) * self.slowdown

    def _gain(self, faster_data: float) -> float:
        """Workers read while the model works; without them it waits for all that is read."""
        merged, dense = self.period_ms - self.wait_ms, self._dense_step()
        wait = self.wait_ms / faster_data
        if self.workers == 0 or self.waiting_share < WAITS:
            return (dense + wait) / (merged + wait)
        data = self.period_ms / faster_data
        return max(dense, data) / max(merged, data)


def limited_by(run: EndToEnd) -> str:
    """What limits the speed of the run as it is."""
    shares = run.shares()
    words = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    if run.waiting_share >= WAITS:
        return limiting_words(run.waiting_share, run.repeats)
    costs = {name: share for name, share in shares.items() if name not in ("data", "the model")}
    largest = max(costs, key=lambda name: costs[name])
    if costs[largest] < MATTERS:
        return f"the model itself ({words})"
    remedies = {
        "the optimizer": "it does not shrink with the tokens; a larger batch needs fewer of its steps",
        "Lightning and the callbacks": "a larger batch makes it count for less",
        "merging": "merging and what else does not shrink with the tokens; more tokens or a larger "
        "batch make it count for less",
    }
    return f"{largest}: {costs[largest]:.0%} of the time, {remedies[largest]} ({words})"


def verdict(run: EndToEnd) -> str:
    """What merging brings to the run, and what it can bring at most."""
    wait = f"{run.waiting_share:.0%} data wait"
    if not run.merges:
        if run.waiting_share < WAITS:
            share = run.shares()["the model"]
            return f"r=0: nothing merges; {share:.0%} of the time is the model's to save from"
        if run.workers:
            return f"ToMe cannot help here: {wait} (r=0 now, nothing merges)"
        most = 1 / run.waiting_share
        return f"r=0: nothing merges, and ToMe could bring {most:.1f}x at the very most: {wait}"
    r = f"r={run.r:.3g}"
    if run.waiting_share >= WAITS and run.gain < FASTER:
        bare = run.dense_ms / run.merged_ms
        return f"ToMe cannot help here: {wait} ({r} makes the bare step {bare:.2f}x as fast)"
    if run.merged_ms > run.dense_ms:
        longer = run.merged_ms / run.dense_ms
        return (
            f"ToMe cannot help here: at {r} a step takes {longer:.2f}x as long as a dense one, though "
            f"it has 1/{run.mac_ratio:.2f} of its multiply-accumulates; merging pays for more tokens, "
            "larger models or larger batches"
        )
    words = f"{r}: the run goes {run.gain:.1f}x as fast as dense (of at most {run.mac_ratio:.2f}x)"
    if run.waiting_share >= WAITS:
        return f"{words}; with data twice as fast it would be {run.gain_with_faster_data:.1f}x"
    if run.workers and run.gain < run.data_limit < run.mac_ratio:
        return f"{words}; faster than {run.data_limit:.1f}x the loader could not follow"
    return words


def _table(run: EndToEnd) -> list[str]:
    of = "" if run.accumulate == 1 else f", {run.accumulate} of them an optimizer step"
    head = (
        f"{run.recipe} on {run.device} in {run.precision}: {run.batch} samples a step{of}, "
        f"{run.tokens_in} -> {run.tokens_out} tokens (mean r {run.r:.3g}), workers {run.workers}, "
        f"cores {run.cores}"
    )
    hooks = ", ".join(f"{name} {ms:.2f}" for name, ms in run.hooks_ms.items())
    ratio = f"{run.dense_ms / run.merged_ms:.2f}x of at most {run.mac_ratio:.2f}x"
    in_trainer = run.merged_ms + run.overhead_ms
    rows = [
        ("data alone", 1000 * run.batch / run.data_per_s, f"+ {run.prepare_ms:.1f} to the device"),
        ("dense, bare step", run.dense_ms, f"optimizer {run.optimizer_ms:.1f}"),
        ("merged, bare step", run.merged_ms, f"{ratio}; {run.merging_ms:.1f} more than promised"),
        ("the same in the Trainer", in_trainer, f"+ {run.overhead_ms:.1f} a step ({hooks})"),
        ("the run itself", run.period_ms, f"waiting for data {run.wait_ms:.1f}"),
    ]
    if not run.merges:
        del rows[2]
    return [
        head,
        f"{'':<24}{'ms':>9}{'samples/s':>11}  of which, ms",
        *(
            f"{name:<24}{ms:>9.1f}{1000 * run.batch / ms:>11.1f}  {words}"
            for name, ms, words in rows
        ),
    ]


def _notes(run: EndToEnd) -> list[str]:
    notes = []
    if run.overhead_ms > OVERHEAD_MS:
        notes.append(f"Lightning and the callbacks cost more than {OVERHEAD_MS:g} ms a step")
    if run.device == "cpu" and run.workers:
        notes.append(
            f"model and workers share {run.cores} cores: what each reaches alone is more than both "
            f"reach together (here a step takes {run.slowdown:.2f}x as long); the run itself counts"
        )
    if run.processes > 1:
        notes.append(
            f"one process was measured, not {run.processes}: they share the cores and wait for each "
            "other's gradients"
        )
    return notes
