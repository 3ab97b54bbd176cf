"""Averaged weights: which of Lightning's callbacks may make them, their start and their device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

from tome_lightning.errors import UsageError
from tome_lightning.trainer.lightning_internals import average_of, callbacks_of, has_own_device

EMA = (
    "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging "
    "--trainer.callbacks.decay=0.9999"
)


class CountedOnHost(AveragedModel):
    """torch's averages, with the number of averaged steps on the host.

    On a CUDA device its value is asked for at each step (twice in torch 2.14), and from the host torch
    copies it to the device for each parameter: both wait for all that is queued there.
    """

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Average in the weights of `model`, to the same numbers as torch."""
        if not self.n_averaged or not self.use_buffers:
            super().update_parameters(model)
            return
        ours = [*self.module.parameters(), *self.module.buffers()]
        theirs = [*model.parameters(), *model.buffers()]
        pairs = [
            (old.detach(), new.detach().to(old.device))
            for old, new in zip(ours, theirs, strict=True)
        ]
        if self.multi_avg_fn is None:
            average = self.avg_fn or get_swa_avg_fn()
            for old, new in pairs:
                old.copy_(average(old, new, self.n_averaged))
        else:
            for some in _alike(pairs):
                old_ones, new_ones = map(list, zip(*some, strict=True))
                self.multi_avg_fn(old_ones, new_ones, self.n_averaged)
        self.n_averaged += 1


def _alike(pairs: list[tuple[Tensor, Tensor]]) -> Iterable[list[tuple[Tensor, Tensor]]]:
    """By device and dtype, as the foreach kernels want them."""
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
    for pair in pairs:
        groups.setdefault((pair[0].device, pair[0].dtype), []).append(pair)
    return groups.values()


def check_averaging(trainer: Trainer) -> None:
    """Refuse averages that no checkpoint would have, before a run is started for them.

    Raises:
        UsageError: For stochastic weight averaging, or two averages.
    """
    callbacks = callbacks_of(trainer)
    for callback in callbacks:
        if isinstance(callback, StochasticWeightAveraging):
            raise UsageError(
                f"trainer.callbacks has {type(callback).__name__}: its averages are in the model only "
                "once all checkpoints are written, so no file would have them, and it replaces the "
                f"schedule of the learning rate. Average with {EMA} instead."
            )
    names = [type(one).__name__ for one in callbacks if isinstance(one, WeightAveraging)]
    if len(names) > 1:
        raise UsageError(
            f"trainer.callbacks has {' and '.join(names)}: a checkpoint has room for one average and the "
            "live weights, and the second would take their place. Leave one of them."
        )


def start_averages(trainer: Trainer, module: LightningModule) -> None:
    """Start the averages of a fit from the module's weights.

    Lightning's weight averaging copies the module before its setup(), i.e. random weights.
    """
    for average in map(average_of, callbacks_of(trainer)):
        if average is not None:
            average.module.load_state_dict(module.state_dict())


def averages_to_device(module: LightningModule) -> None:
    """Move the averages of a fit to where the module is now, its checkpoints being what they were.

    Lightning's weight averaging copies the module before the strategy moves it: each step would copy
    all weights to the host and average there. A device the user has named for them stays theirs.
    """
    for callback in callbacks_of(module.trainer):
        average = average_of(callback)
        if not isinstance(callback, WeightAveraging) or average is None:
            continue
        averaged = average.n_averaged.cpu()
        if not has_own_device(callback):
            average.to(module.device)
        if type(average) is AveragedModel:
            average.__class__ = CountedOnHost
        if isinstance(average, CountedOnHost):
            average.n_averaged = averaged
