"""Where a run is in the schedules of its learning rate and of r, however its steps and epochs change.

A schedule is over the steps of the epoch that the run began with. A step of an epoch that has another
number of them (more data, another accumulation) is another fraction of it, and moves on by as much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from tome_lightning.optim import epoch_of_step
from tome_lightning.trainer.lightning_internals import batches_trained


def accumulation(trainer: Trainer, epoch: int = 0) -> int:
    """Batches in an optimizer step of an epoch, by Lightning's scheduler where there is one."""
    scheduler = accumulation_scheduler(trainer)
    if scheduler is not None:
        return int(scheduler.get_accumulate_grad_batches(epoch))
    return trainer.accumulate_grad_batches


def accumulation_scheduler(trainer: Trainer) -> GradientAccumulationScheduler | None:
    """The callback that changes the accumulation from epoch to epoch, if there is one."""
    callbacks = getattr(trainer, "callbacks", [])
    kind = GradientAccumulationScheduler
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def steps_in(batches: int, accumulate: int) -> int:
    """Optimizer steps of so many batches; Lightning also steps on a last, incomplete group."""
    return -(-batches // accumulate)


@dataclass(frozen=True)
class Pace:
    """A place in the schedules.

    Attributes:
        done: Steps of the schedules that are done: of a run whose epochs are alike, its optimizer steps.
        first_batches: Batches on each process in an epoch as the run began.
        first_accumulate: Batches in an optimizer step as the run began.
    """

    done: float
    first_batches: int
    first_accumulate: int

    @classmethod
    def of(cls, trainer: Trainer) -> Pace:
        """That of a run whose epochs have always been as they are now."""
        batches, accumulate = int(trainer.num_training_batches), accumulation(trainer)
        return cls(float(trainer.global_step), batches, accumulate)

    @property
    def epoch_steps(self) -> int:
        """Steps of the schedules in an epoch."""
        return steps_in(self.first_batches, self.first_accumulate)

    def epoch(self, step: float | None = None) -> float:
        """Fractional epoch at which a step of the schedules is taken, by default the next one."""
        step = self.done if step is None else step
        return epoch_of_step(step, self.first_batches, self.first_accumulate)

    def end(self, trainer: Trainer) -> float:
        """Where the learning rate's schedule ends: after the last epoch, else at max_steps."""
        epochs, limit = trainer.max_epochs or -1, trainer.max_steps
        if epochs > 0:
            return epochs * self.epoch_steps
        return self.done + (limit - trainer.global_step) if limit > 0 else 0

    def share(self, trainer: Trainer) -> float:
        """Share of a begun run's training that is done, 0 to 1; 0 where nothing limits it."""
        end, limit = self.end(trainer), trainer.max_steps
        if limit > 0:
            end = min(end, self.done + self._ahead(trainer, limit - trainer.global_step))
        return min(1.0, self.done / end) if end > 0 else 0.0

    def stepped(self, trainer: Trainer) -> Pace:
        """After the optimizer step that a trainer has just taken."""
        taken = steps_in(batches_trained(trainer), trainer.accumulate_grad_batches)
        return replace(self, done=self.done + self._rate(trainer, taken - 1))

    def _rate(self, trainer: Trainer, taken: int) -> float:
        """Steps of the schedules in each optimizer step of this epoch, of which some are taken.

        What is left of the schedules is spread over the epochs that are left, so that both end together.
        No state but `done` comes in: a run resumed at any step goes on to the last bit.
        """
        epochs = trainer.max_epochs or -1
        if epochs <= 0:
            return 1.0
        steps = steps_in(int(trainer.num_training_batches), trainer.accumulate_grad_batches)
        left = (epochs - trainer.current_epoch) * steps - taken
        return max(0.0, epochs * self.epoch_steps - self.done) / max(1, left)

    def _ahead(self, trainer: Trainer, steps: int) -> float:
        """Steps of the schedules in so many optimizer steps to come."""
        batches, accumulate = int(trainer.num_training_batches), trainer.accumulate_grad_batches
        taken, epoch = batches_trained(trainer) // accumulate, trainer.current_epoch
        rate, an_epoch = self._rate(trainer, taken), steps_in(batches, accumulate)
        epochs = trainer.max_epochs or -1
        if epochs <= 0 or accumulation_scheduler(trainer) is None:
            return rate * steps
        now = min(steps, an_epoch - taken)
        ahead, steps = rate * now, steps - now
        while steps > 0 and (epoch := epoch + 1) < epochs:
            others = steps_in(batches, accumulation(trainer, epoch))
            now = min(steps, others)
            ahead, steps = ahead + rate * an_epoch / others * now, steps - now
        return ahead


def steps_to_come(
    trainer: Trainer, epoch_batches: int, epoch: int = 0, batches: int = 0, taken: int = 0
) -> int:
    """Optimizer steps of a whole run, those taken before included, by its limits.

    Args:
        trainer: With a number of epochs; nothing of it is changed.
        epoch_batches: Batches of an epoch on each process.
        epoch: In which it goes on.
        batches: Of that epoch, trained on before.
        taken: Optimizer steps before.
    """
    epochs, limit = trainer.max_epochs or 0, trainer.max_steps
    steps = taken
    for number in range(epoch, epochs):
        accumulate = accumulation(trainer, number)
        steps += steps_in(epoch_batches, accumulate)
        if number == epoch:
            whole = batches >= epoch_batches
            steps -= steps_in(batches, accumulate) if whole else batches // accumulate
    return max(taken, min(steps, limit)) if limit >= 0 else steps
