"""What a model learns: the loss, the metrics and the mixing of samples that goes with them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from tome_lightning.errors import UserError
from tome_lightning.metrics import ClassesSeen, MacroAveragePrecision


class TaskError(UserError):
    """A task and its data do not fit: one line, what, got, why and the way out."""


@dataclass(frozen=True)
class Task(ABC):
    """How logits are trained and judged. Subclasses are small frozen dataclasses.

    Attributes:
        num_classes: Width of the head.
        monitor: The metric that decides which checkpoint is the best one; higher is better.
        multi_label: Whether labels are multi-hot rows ``[B, K]`` and not class indices ``[B]``.
        counts: Which metrics are numbers of classes and not fractions.
    """

    num_classes: int
    monitor: ClassVar[str]
    multi_label: ClassVar[bool] = False
    counts: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise TaskError(
                f"model.task.num_classes must be 2 or more, got {self.num_classes}: with fewer there "
                "is nothing to tell apart."
            )

    @abstractmethod
    def mix(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the samples of a training batch; returns inputs and soft (or hard) targets."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Training loss of logits ``[B, K]`` against what ``mix`` returned."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Log-probabilities ``[B, K]`` of samples seen in V views, from logits ``[B, V, K]``.

        Probabilities are averaged over views (the published protocols' mean or sum of softmax).
        """

    @abstractmethod
    def eval_loss(self, scores: Tensor, y: Tensor) -> Tensor:
        """Loss of log-probabilities ``[B, K]`` against labels as the data gives them."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics, updated with what ``scores`` gives and labels; fractions, not per cent."""

    def check(self, num_classes: int, batch_size: int) -> None:
        """Refuse data that this task cannot be trained on.

        Raises:
            TaskError: If the head has another number of classes than the data.
        """
        if num_classes != self.num_classes:
            raise TaskError(
                f"The data has {num_classes} classes but the head has {self.num_classes} "
                f"(model.task.num_classes). Pass --model.task.num_classes {num_classes}."
            )


@dataclass(frozen=True)
class SingleLabel(Task):
    """One class a sample: cross-entropy, top-1 and top-5 accuracy.

    Args:
        num_classes: Width of the head.
        mixup: Alpha of mixup's Beta distribution; 0 switches it off.
        cutmix: Alpha of cutmix's; 0 switches it off.
        mix_prob: Share of batches that are mixed at all.
        switch_prob: Share of those that take cutmix, where both are on.
        smoothing: Label smoothing, folded into the mixed targets: ``s / K`` off, ``1 - s + s / K`` on.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    switch_prob: float = 0.5
    smoothing: float = 0.0

    monitor: ClassVar[str] = "top1"

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def check(self, num_classes: int, batch_size: int) -> None:
        super().check(num_classes, batch_size)
        if self.mixes and batch_size % 2:
            raise TaskError(
                f"Mixup and cutmix pair the samples of a batch, so its size must be even, got "
                f"data.batch_size={batch_size}. Use {batch_size + 1}, or set mixup and cutmix to 0."
            )

    def mix(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not self.mixes:
            return x, y
        mixup = Mixup(
            mixup_alpha=self.mixup,
            cutmix_alpha=self.cutmix,
            prob=self.mix_prob,
            switch_prob=self.switch_prob,
            label_smoothing=self.smoothing,
            num_classes=self.num_classes,
        )
        # timm cuts boxes from dimensions 2 and 3: of clips [B, C, T, H, W] that would be time and rows.
        frames = x.flatten(1, -3)
        mixed, target = mixup(frames.clone(), y)  # timm mixes in place
        return mixed.reshape(x.shape), target

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        smoothing = 0.0 if target.is_floating_point() else self.smoothing
        return F.cross_entropy(_full(logits), target, label_smoothing=smoothing)

    def scores(self, logits: Tensor) -> Tensor:
        views = _full(logits).log_softmax(dim=-1)
        return views.logsumexp(dim=1) - math.log(views.shape[1])

    def eval_loss(self, scores: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(scores, y)

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                f"top{k}": MulticlassAccuracy(
                    self.num_classes,
                    top_k=min(k, self.num_classes),
                    average="micro",
                    validate_args=False,  # a look at all labels waits for the device
                )
                for k in (1, 5)
            }
        )


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of classes a sample: binary cross-entropy of each class, macro mAP.

    Targets are soft where the data has mixed samples (AudioMAE mixes waveforms, before features).

    Args:
        num_classes: Width of the head.
    """

    monitor: ClassVar[str] = "mAP"
    multi_label: ClassVar[bool] = True
    counts: ClassVar[tuple[str, ...]] = ("classes",)

    def mix(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Unchanged: the data module has mixed them."""
        return x, y

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = _full(logits)
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))

    def scores(self, logits: Tensor) -> Tensor:
        """Logarithms of the probabilities, which unlike these do not round to 1."""
        views = F.logsigmoid(_full(logits))
        return views.logsumexp(dim=1) - math.log(views.shape[1])

    def eval_loss(self, scores: Tensor, y: Tensor) -> Tensor:
        # the logarithm of 1 - p; p = 1 would make it infinite
        others = torch.log(-torch.expm1(scores.clamp(max=-torch.finfo(scores.dtype).tiny)))
        y = y.to(scores.dtype)
        return -(y * scores + (1 - y) * others).mean()

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                "mAP": MacroAveragePrecision(self.num_classes),
                "classes": ClassesSeen(self.num_classes),
            },
            compute_groups=False,
        )


def _full(logits: Tensor) -> Tensor:
    """At least float32: a softmax over many classes in half precision loses the small ones."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
