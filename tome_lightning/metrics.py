"""Macro mAP as AudioSet's results are given, safe in memory and on any number of processes; which samples
of a batch count, and sums over them that wait for no device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data.distributed import DistributedSampler
from torchmetrics import Metric

UNREAD = -1  # the label of a sample whose file cannot be read
STAGED = 1 << 21  # scores that wait on the device: 10 MB with their labels
CLASSES = 16  # whose scores are copied out of the samples at once
FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]


class MacroAveragePrecision(Metric):
    """Mean over classes of the exact average precision; 0 when no class has a positive.

    NaN when a score is no number: the model has diverged. The same to the last bit in whatever order,
    batches and shares of several processes the samples come.

    Classes without a positive have no average precision and are left out (``ClassesSeen`` counts the
    others). Scores and labels wait on the CPU, copied `STAGED` scores at once, so that the device is not
    waited for at each update. 20,000 clips of 527 classes take 50 MB.

    Args:
        num_classes: K.
    """

    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    positive: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__(dist_sync_fn=gather_objects)
        self.num_classes = num_classes
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("positive", default=[], dist_reduce_fx="cat")
        self._blocks = self._staged = 0  # blocks on the CPU; scores after these

    def update(self, scores: Tensor, y: Tensor) -> None:
        """Add scores ``[B, K]``, any number that grows with the probability, and labels ``[B, K]``."""
        # float16 would tie scores that differ, and ties change the result
        self.scores.append(scores.detach().to(torch.promote_types(scores.dtype, torch.float32)))
        self.positive.append(y > 0.5)
        self._staged += scores.numel()
        if self._staged >= STAGED:
            self._join_staged()

    def compute(self) -> Tensor:
        """The mAP, 0 to 1."""
        scores, positive = _blocks_of(self.scores), _blocks_of(self.positive)
        each: list[float] = []
        for first in range(0, self.num_classes if scores else 0, CLASSES):
            some = slice(first, first + CLASSES)
            # of each class in one piece: a block has the classes of a sample side by side
            columns = np.concatenate([block[:, some].T for block in scores], axis=1)  # [c, N]
            if not np.isfinite(columns).all():  # sorted, they would give a number that looks fine
                return torch.full((), torch.nan, device=self.device)
            labels = np.concatenate([block[:, some].T for block in positive], axis=1).astype(bool)
            seen = np.flatnonzero(labels.any(axis=1))
            each += [average_precision(columns[k], labels[k]) for k in seen]
        mean = math.fsum(each) / len(each) if each else 0.0
        return torch.tensor(mean, dtype=torch.float32, device=self.device)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all processes what is then all on the CPU."""
        self._join_staged()
        super().sync(*args, **kwargs)

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self._blocks = self._staged = 0

    def _join_staged(self) -> None:
        """Put what is staged into one block on the CPU."""
        if not self._staged:
            return
        for state in (self.scores, self.positive):
            state[self._blocks :] = [torch.cat(state[self._blocks :]).cpu()]
        self._blocks, self._staged = self._blocks + 1, 0


def average_precision(scores: FloatArray, positive: BoolArray) -> float:
    """Exact average precision of N samples; of their order it does not depend, to the last bit.

    Mean over the positives of the precision among the samples that score as high or higher, which is the
    sum over thresholds of precision times what recall gains there (scikit-learn's definition).

    Args:
        scores: ``[N]``, finite, sorted in place.
        positive: ``[N]``, at least one of them true.
    """
    hits = np.sort(scores[positive])  # [P]
    scores.sort()
    at_least = len(scores) - np.searchsorted(scores, hits)  # among all; ties count
    return float(((len(hits) - np.searchsorted(hits, hits)) / at_least).mean())


class ClassesSeen(Metric):
    """Number of classes that at least one sample has: those that a macro mAP is the mean of.

    Args:
        num_classes: K.
    """

    full_state_update = False
    positives: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("positives", default=torch.zeros(num_classes), dist_reduce_fx="sum")

    def update(self, scores: Tensor, y: Tensor) -> None:
        """Add labels ``[B, K]``."""
        self.positives += (y > 0.5).sum(dim=0)

    def compute(self) -> Tensor:
        """The number, as float32."""
        return (self.positives > 0).sum().float()


class WeightedMean(Metric):
    """A mean, as torchmetrics' ``MeanMetric`` with weights; NaN once a value is.

    That one looks for NaN at each update, which waits for the device, and where it does not look
    (``nan_strategy="disable"``) it drops the weights.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", default=torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: int) -> None:
        """Add a mean ``[]`` over so many."""
        self.total += value * weight
        self.weight += weight

    def compute(self) -> Tensor:
        """The mean, NaN of nothing."""
        return self.total / self.weight


class Count(Metric):
    """A number of samples; added on the device without a copy to it."""

    full_state_update = False
    number: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("number", default=torch.zeros(()), dist_reduce_fx="sum")

    def update(self, number: int) -> None:
        """Add so many."""
        self.number += number

    def compute(self) -> Tensor:
        """The number, as float32."""
        return self.number


class Totals(nn.Module):
    """Loss and number of the samples an evaluation has counted."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = WeightedMean()
        self.samples = Count()


def counted(y: Tensor, batch_idx: int, loader: Any, trainer: Any) -> Tensor:
    """Places ``[C]`` of a batch's samples that count: neither another rank's, repeated to fill the last
    batch, nor unreadable (`UNREAD`). The one thing of a batch that is waited for.

    Args:
        y: Labels ``[B]`` or ``[B, K]``.
        batch_idx: Of the batch on this process.
        loader: Of the data, as the trainer has it.
        trainer: Its rank and number of processes are looked at.
    """
    readable = (y >= 0).flatten(1).all(dim=1) if y.ndim > 1 else y != UNREAD
    # Not the loader's own sampler and size: for prediction Lightning makes another loader, with neither,
    # around the same batches.
    batches: Any = getattr(loader, "batch_sampler", None)
    if not isinstance(getattr(batches, "sampler", None), DistributedSampler):
        return readable.nonzero().squeeze(1)
    places = torch.arange(len(y), device=y.device) + batch_idx * batches.batch_size
    places = places * trainer.world_size + trainer.global_rank
    return (readable & (places < len(loader.dataset))).nonzero().squeeze(1)


def gather_objects(value: Tensor, group: Any = None) -> list[Tensor]:
    """What each process has, on the CPU: NCCL gathers no CPU tensors, nor tensors of other sizes."""
    shares: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(shares, value.cpu(), group=group)
    return shares


def _blocks_of(state: list[Tensor] | Tensor) -> list[np.ndarray]:
    """A state's parts on the CPU; it is one tensor once processes have gathered."""
    parts = [state] if isinstance(state, Tensor) else state
    return [part.cpu().numpy() for part in parts if len(part)]
