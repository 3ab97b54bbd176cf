"""Class-balanced draws of multi-label data, on one process or several."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.loader import EpochSampler
from datamodules.sounds.tagged import TaggedList

SCALE, SOFT = 1000.0, 0.01  # AudioMAE's; the second lets a class without clips have a weight
MOST = 1 << 24  # categories that torch.multinomial draws from
Labels = Sequence[Sequence[int]] | np.ndarray | Tensor | TaggedList


def sample_weights(labels: Labels, num_classes: int) -> Tensor:
    """Weight of each clip, by which rare classes are drawn about as often as frequent ones.

    A class that `count` clips have weighs `1000 / (count + 0.01)`, a clip as much as all its classes
    together, one without labels 0. This is what AudioSet's fine-tuning recipes draw by.

    Args:
        labels: Of each of N clips its class indices, where one named twice counts once; or a
            multi-hot array `[N, num_classes]` of 0 and 1; or a `TaggedList`.
        num_classes: Number of classes.

    Returns:
        float64 `[N]`.

    Raises:
        DataError: A label is no class index.
    """
    rows, classes = _pairs(labels, num_classes)
    wrong = np.flatnonzero((classes < 0) | (classes >= num_classes))
    if len(wrong):
        raise DataError(
            f"clip {rows[wrong[0]]} has label {classes[wrong[0]]}, but there are {num_classes} "
            "classes, 0 the first"
        )
    pairs = np.sort(rows * num_classes + classes)  # np.unique takes seconds for two million clips
    rows, classes = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], num_classes)
    class_weights = SCALE / (np.bincount(classes, minlength=num_classes) + SOFT)
    weights = np.bincount(rows, weights=class_weights[classes], minlength=len(labels))
    return torch.from_numpy(weights.astype(np.float64))


class BalancedSampler(EpochSampler):
    """Draws indices by weight, each process its share of the same draws.

    The draws of an epoch depend on (seed, epoch) alone; process `rank` of `num_replicas` takes every
    `num_replicas`-th of them from the `rank`-th on. All get equally many, so the last `num_samples %
    num_replicas` draws go to none. Needs no process group and no Lightning, which keeps it as it is
    and calls `set_epoch`. Use it with the `batch_size` and `num_workers` of any `DataLoader`:

        sampler = BalancedSampler(sample_weights(labels, 527), num_samples=200_000)
        for epoch in range(10):
            sampler.set_epoch(epoch)
            for batch in DataLoader(clips, batch_size=8, sampler=sampler): ...

    `state_dict` and `load_state_dict` continue an epoch where it was left; see `EpochSampler`.

    Args:
        weights: Weight of each of N samples, not negative; they need not sum to 1. At most 2**24.
        num_samples: Draws in an epoch over all processes. (The attribute of this name is the number
            for each process, as in every `DistributedSampler`; so is the length.)
        num_replicas: Number of processes.
        rank: This process among them, 0 the first.
        seed: Seed of the draws, the same on every process, 0 or more.
        replacement: Whether an epoch may have an index more than once.
        number_repeats: Hand out `index + k * N` where an epoch has an index for the k-th time again.
            `Samples` takes these, and augments each of them differently.

    Raises:
        DataError: The weights cannot be drawn by, or not that often.
    """

    def __init__(
        self,
        weights: Sequence[float] | np.ndarray | Tensor,
        num_samples: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        replacement: bool = True,
        number_repeats: bool = False,
    ) -> None:
        self.weights = torch.as_tensor(weights, dtype=torch.float64).cpu()  # as its generator
        _check_process(num_replicas, rank, seed)
        _check_weights(self.weights)
        drawable = int(self.weights.count_nonzero())
        if num_samples < num_replicas:
            raise DataError(
                f"num_samples must be at least num_replicas, {num_replicas}, got {num_samples}"
            )
        if not replacement and num_samples > drawable:
            raise DataError(
                f"{num_samples} draws without replacement from {drawable} samples with a weight "
                "above 0; draw fewer, or with replacement"
            )
        every: Any = range(num_samples // num_replicas * num_replicas)  # only its length is used
        super().__init__(every, num_replicas, rank, seed=seed, drop_last=True)
        self.draws = num_samples
        self.replacement = replacement
        self.number_repeats = number_repeats

    def indices(self) -> list[int]:
        """The draws of this process in this epoch, in order."""
        draws = self.draw()[: self.total_size]
        return draws[self.rank :: self.num_replicas].tolist()

    def draw(self) -> Tensor:
        """The draws of all processes in this epoch: int64 `[draws]`."""
        # unlike seed + epoch: no epoch of one seed is an epoch of another
        word = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(word >> np.uint64(1)))
        draws = self.weights.multinomial(self.draws, self.replacement, generator=generator)
        if self.number_repeats:
            draws += _times_before(draws) * len(self.weights)
        return draws


def _pairs(labels: Labels, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip and class of each label: `[L]` each."""
    if isinstance(labels, TaggedList):
        return labels.pairs()
    if isinstance(labels, (np.ndarray, Tensor)):
        hot = np.asarray(labels)
        if hot.ndim != 2 or hot.shape[1] != num_classes or not np.isin(hot, (0, 1)).all():
            raise DataError(
                f"an array of labels must be multi-hot, [N, {num_classes}] of 0 and 1, got one of "
                f"shape {list(hot.shape)}; class indices are given as a list of lists"
            )
        rows, columns = np.nonzero(hot)
        return rows, columns
    try:
        lengths = [len(row) for row in labels]
        classes = np.fromiter(chain.from_iterable(labels), dtype=np.int64, count=sum(lengths))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"labels must have a list of class indices for each clip, like [[0, 3], [1]] ({error})"
        ) from None
    return np.repeat(np.arange(len(lengths)), lengths), classes


def _check_process(num_replicas: int, rank: int, seed: int) -> None:
    if num_replicas < 1 or not 0 <= rank < num_replicas:
        raise DataError(
            f"rank is one of the num_replicas processes, 0 the first, got rank={rank} of "
            f"num_replicas={num_replicas}"
        )
    if seed < 0:
        raise DataError(f"seed must be 0 or more, got {seed}")


def _check_weights(weights: Tensor) -> None:
    if weights.ndim != 1 or not 1 <= len(weights) <= MOST:
        raise DataError(
            f"weights must be 1 to {MOST} numbers, one for each sample, got {list(weights.shape)}"
        )
    wrong = ~(weights.isfinite() & (weights >= 0))
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise DataError(
            f"weights must be 0 or more, but {int(wrong.sum())} of {len(weights)} are not, the first "
            f"that of sample {index}: {weights[index]:g}"
        )
    if not weights.any():
        raise DataError(f"all {len(weights)} weights are 0: there is nothing to draw")


def _times_before(draws: Tensor) -> Tensor:
    """How often each of the draws was drawn before: int64, of the same shape `[n]`."""
    order = draws.argsort(stable=True)
    ordered = draws[order]
    first = torch.searchsorted(ordered, ordered)  # where the run of this index begins
    times = torch.empty_like(draws)
    times[order] = torch.arange(len(draws)) - first
    return times
