"""r over training."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tome_lightning.tome.plan import PlanError, R, check_r, scale_r


@dataclass(frozen=True)
class RSchedule:
    """How r moves during training; a pure function, so resuming needs no state and ranks agree.

    Progress is the share of training already done, 0 to 1, in optimizer steps as fractions of their
    epochs. Outside ``[start, stop)`` training is dense. r takes few distinct values, because every value
    is a graph to compile.

    Args:
        kind: ``constant``; ``ramp``, from r / plateaus up to r in equal steps; or ``random``, one of
            ``choices`` at every step, the same on every process.
        start: Progress at which merging starts.
        stop: Progress at which it ends: below 1, training finishes dense.
        full: ``ramp`` only: progress at which r is reached.
        plateaus: ``ramp`` only: the number of steps up, the last being r itself.
        choices: ``random`` only: the values to draw from.
        seed: ``random`` only.

    Raises:
        PlanError: If the values contradict each other.
    """

    kind: str = "constant"
    start: float = 0.0
    stop: float = 1.0
    full: float = 0.5
    plateaus: int = 4
    choices: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "ramp", "random"):
            raise PlanError(f"A schedule's kind is constant, ramp or random, got {self.kind!r}.")
        if not 0 <= self.start < self.stop <= 1:
            raise PlanError(
                "A schedule needs 0 <= start < stop <= 1 (shares of training), "
                f"got start={self.start} and stop={self.stop}."
            )
        if self.kind == "ramp" and (self.plateaus < 1 or not self.start < self.full <= self.stop):
            raise PlanError(
                "A ramp needs plateaus >= 1 and start < full <= stop, "
                f"got plateaus={self.plateaus}, start={self.start}, full={self.full}, "
                f"stop={self.stop}."
            )
        if (self.kind == "random") != bool(self.choices):
            raise PlanError(
                "choices are the values that kind='random' draws r from: give both or neither, "
                f"got kind={self.kind!r} and choices={self.choices}."
            )
        for choice in self.choices:
            check_r(choice, depth=1)

    def at(self, progress: float, r: R, depth: int, step: int = 0) -> R:
        """r at a point of training.

        Args:
            progress: Share of the optimizer steps done, 0 to 1.
            r: The target.
            depth: Blocks of the model, to scale a list of r.
            step: Optimizer steps done; only random schedules read it.
        """
        if progress < self.start or (self.stop < 1 and progress >= self.stop):
            return 0
        if self.kind == "random":
            return random.Random(f"{self.seed}/{step}").choice(self.choices)
        if self.kind == "ramp" and progress < self.full:
            done = (progress - self.start) / (self.full - self.start)
            return scale_r(r, (int(done * self.plateaus) + 1) / self.plateaus, depth)
        return check_r(r, depth)

    def values(self, r: R, depth: int) -> list[R]:
        """Every r that training will use, in order of first use: how many graphs there can be."""
        used: list[R] = [0] if self.start > 0 else []
        if self.kind == "random":
            used += self.choices
        elif self.kind == "ramp":
            used += [scale_r(r, (k + 1) / self.plateaus, depth) for k in range(self.plateaus)]
        else:
            used.append(check_r(r, depth))
        if self.stop < 1:
            used.append(0)
        return [value for i, value in enumerate(used) if value not in used[:i]]
