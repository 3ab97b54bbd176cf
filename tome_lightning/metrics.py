"""Macro mAP as AudioSet's results are given, safe in memory and on any number of processes; sums that
wait for no device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat


class MacroAveragePrecision(Metric):
    """Mean over classes of torchmetrics' exact average precision; 0 when no class has a positive.

    NaN when a score is no number: the model has diverged.

    Classes without a positive have no average precision and are left out (``ClassesSeen`` counts the
    others). Scores and labels wait on the CPU: 20,000 clips of 527 classes take 50 MB.

    Args:
        num_classes: K.
    """

    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    positive: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__(compute_on_cpu=True, dist_sync_fn=gather_objects)
        self.num_classes = num_classes
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("positive", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, y: Tensor) -> None:
        """Add scores ``[B, K]``, any number that grows with the probability, and labels ``[B, K]``."""
        # float16 would tie scores that differ, and ties change the result
        self.scores.append(scores.detach().to(torch.promote_types(scores.dtype, torch.float32)))
        self.positive.append(y > 0.5)

    def compute(self) -> Tensor:
        """The mAP, 0 to 1."""
        if not len(self.scores):  # a list, or a tensor once processes have gathered
            return torch.zeros((), device=self.device)
        scores, positive = dim_zero_cat(self.scores), dim_zero_cat(self.positive).bool()
        if not torch.isfinite(scores).all():  # ranked, they would give a number that looks fine
            return torch.full((), torch.nan, device=self.device)
        seen = positive.any(dim=0).nonzero().flatten().tolist()
        each = [binary_average_precision(_ranks(scores[:, k]), positive[:, k].long()) for k in seen]
        mean = torch.stack(each).mean() if each else torch.zeros(())
        return mean.float().to(self.device)


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


def gather_objects(value: Tensor, group: Any = None) -> list[Tensor]:
    """What each process has, on the CPU: NCCL gathers no CPU tensors, nor tensors of other sizes."""
    shares: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(shares, value.cpu(), group=group)
    return shares


def _ranks(scores: Tensor) -> Tensor:
    """Scores ``[N]`` as ranks from 0 to 1 with the same order and ties, float64.

    torchmetrics takes what lies outside 0 to 1 for logits, and its sigmoid would round.
    """
    distinct, rank = scores.unique(return_inverse=True)
    return rank.double() / max(1, len(distinct) - 1)
