"""Averaged weights: which of Lightning's callbacks may make them, their start and their device."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging

from tome_lightning.arguments import UsageError

EMA = (
    "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging "
    "--trainer.callbacks.decay=0.9999"
)


def check_averaging(trainer: Trainer) -> None:
    """Refuse averages that no checkpoint would have, before a run is started for them.

    Raises:
        UsageError: For stochastic weight averaging, or two averages.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
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
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        average = getattr(callback, "_average_model", None)
        if isinstance(callback, WeightAveraging) and average is not None:
            average.module.load_state_dict(module.state_dict())


def averages_to_device(module: LightningModule) -> None:
    """Move the averages of a fit to where the module is now, its checkpoints being what they were.

    Lightning's weight averaging copies the module before the strategy moves it: each step would copy
    all weights to the host and average there. A device the user has named for them stays theirs.
    """
    for callback in module.trainer.callbacks:  # type: ignore[attr-defined]
        average = getattr(callback, "_average_model", None)
        if isinstance(callback, WeightAveraging) and average is not None and not callback._device:
            average.to(module.device)
