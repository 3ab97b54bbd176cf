"""Whether an exported file computes what its model does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # of the logits' scale: another runtime adds up in another order
SPARE = 4  # samples drawn beyond those that are compared
AT_ONCE = 8  # samples in one pass of the model


class ExportMismatchError(RuntimeError):
    """A written file that computes something else than its model, and is therefore not kept."""


class Difference(NamedTuple):
    """How far a file is from its model.

    Attributes:
        largest: Largest absolute difference of a logit.
        scale: Largest absolute logit of the model.
        own: How far the model's own logits are from those in float64: what its rounding costs.
    """

    largest: float
    scale: float
    own: float = 0.0

    @property
    def allowed(self) -> float:
        # Where a merge hangs on the last digit of a similarity, two right answers differ.
        return max(TOLERANCE * self.scale, 4 * self.own)

    def __str__(self) -> str:
        words = f"{self.largest:.1e} (logits up to {self.scale:.2g})"
        if self.largest > TOLERANCE * self.scale and self.own > TOLERANCE * self.scale:
            words += f", where rounding alone costs the model {self.own:.1e}"
        return words


class Probe(NamedTuple):
    """A random batch, what the model makes of it, and what rounding costs it (`Difference.own`)."""

    x: Tensor
    logits: Tensor
    own: float


@torch.no_grad()
def draw_probe(model: nn.Module, shape: Sequence[int], batch: int, seed: int) -> Probe:
    """A random batch, with the model's logits.

    Merging is a choice by similarity; where two are nearly equal, rounding decides, and any other
    order of additions may choose otherwise. Of a few samples more than needed, those are taken whose
    logits are nearest to what the model computes in float64. With a thousand tokens every sample has
    such a pair somewhere: how far the model is from itself, over all of them, is what is allowed.

    Args:
        model: In evaluation mode, float32.
        shape: Of one sample.
        batch: Samples wanted.
        seed: Of the samples.
    """
    x = torch.randn(batch + SPARE, *shape, generator=torch.Generator().manual_seed(seed))
    logits = _run(model, x)
    exact = _run(copy.deepcopy(model).double(), x.double())
    own = (logits - exact).flatten(1).abs().amax(dim=1)
    chosen = own.argsort()[:batch]
    return Probe(x[chosen], logits[chosen], float(own.max()))


def compare(run: Callable[[Tensor], Tensor], probes: Sequence[Probe]) -> Difference:
    """What a file makes of batches, against what its model made of them.

    Raises:
        ExportMismatchError: If they differ by more than rounding explains.
    """
    found = [_difference(run(probe.x), probe) for probe in probes]
    for difference in found:
        if not difference.largest <= difference.allowed:  # NaN is no agreement
            raise ExportMismatchError(
                f"The file's logits differ from the model's by up to {difference}; "
                f"{difference.allowed:.1e} is what rounding explains."
            )
    return max(found, key=lambda difference: difference.largest)


def _difference(logits: Tensor, probe: Probe) -> Difference:
    if logits.shape != probe.logits.shape:
        raise ExportMismatchError(
            f"The file gives logits of {list(logits.shape)}, the model of {list(probe.logits.shape)}."
        )
    largest = (logits - probe.logits).abs().max()
    return Difference(float(largest), float(probe.logits.abs().max()), probe.own)


def _run(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(part) for part in x.split(AT_ONCE)])
