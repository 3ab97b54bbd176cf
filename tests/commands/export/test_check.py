"""What counts as the same logits."""

import pytest
import torch
from torch import Tensor, nn

from tome_lightning.commands.export.check import (
    Difference,
    ExportMismatchError,
    Probe,
    compare,
    draw_probe,
)

X = torch.zeros(2, 1)
LOGITS = torch.tensor([[3.0, -10.0], [0.5, 1.0]])


def test_the_difference_found_is_the_largest_of_all_batches():
    probes = [Probe(X, LOGITS, 0.0), Probe(X, LOGITS + 5e-4, 0.0)]
    found = compare(lambda x: LOGITS, probes)
    assert found.largest == pytest.approx(5e-4, rel=1e-2)
    assert found.scale == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "told"),
    [
        (LOGITS + 0.002, r"up to 2\.0e-03 \(logits up to 10\).*1\.0e-03"),
        (LOGITS * float("nan"), "nan"),
        (LOGITS[:1], r"\[1, 2\], the model of \[2, 2\]"),
    ],
)
def test_other_logits_are_a_mismatch_that_says_by_how_much(logits: Tensor, told: str):
    with pytest.raises(ExportMismatchError, match=told):
        compare(lambda x: logits, [Probe(X, LOGITS, 0.0)])


def test_what_rounding_does_to_the_model_itself_is_allowed_and_told():
    found = compare(lambda x: LOGITS + 0.002, [Probe(X, LOGITS, own=0.002)])
    assert "rounding alone costs the model 2.0e-03" in str(found)
    assert "rounding" not in str(Difference(1e-6, 1.0, own=0.1))


def test_samples_are_compared_that_rounding_does_not_decide():
    drawn = torch.randn(6, 1, generator=torch.Generator().manual_seed(7))

    class Jumpy(nn.Module):
        """Answers otherwise for the second sample once it is computed without rounding."""

        def forward(self, x: Tensor) -> Tensor:
            return x + 0.5 * (x == drawn[1]) * (x.dtype == torch.float64)

    probe = draw_probe(Jumpy(), [1], 2, seed=7)
    assert drawn[1].item() not in probe.x.flatten().tolist()
    assert probe.own == 0.5  # of all samples: another order of additions may meet others
    assert torch.equal(probe.logits, probe.x)
