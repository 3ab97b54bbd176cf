"""Macro mAP against scikit-learn's, over any batches and any processes."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import MeanMetric

from tome_lightning.metrics import STAGED, ClassesSeen, Count, MacroAveragePrecision, WeightedMean


def draw(samples: int, classes: int, share: float = 0.2) -> tuple[Tensor, Tensor]:
    scores = torch.randn(samples, classes)
    return scores, (torch.rand(samples, classes) < share).float()


def by_sklearn(scores: Tensor, y: Tensor) -> float:
    from sklearn.metrics import average_precision_score  # not for the processes that are started

    seen = y.any(dim=0)
    return float(average_precision_score(y[:, seen], scores[:, seen].double(), average="macro"))


def measure(scores: Tensor, y: Tensor, batch: int = 7) -> float:
    metric = MacroAveragePrecision(y.shape[1])
    for some, labels in zip(scores.split(batch), y.split(batch), strict=True):
        metric.update(some, labels)
    return float(metric.compute())


@pytest.mark.parametrize("samples", [1, 2, 60, 500])
def test_it_is_scikit_learn_s(samples: int) -> None:
    scores, y = draw(samples, 9)
    y[0, 0] = 1
    assert measure(scores, y) == pytest.approx(by_sklearn(scores, y), abs=1e-6)


def test_ties_count_as_scikit_learn_counts_them() -> None:
    scores, y = draw(200, 5)
    scores = scores.round()  # few values, many ties
    assert measure(scores, y) == pytest.approx(by_sklearn(scores, y), abs=1e-6)


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4, 1e30])
def test_only_the_order_of_the_scores_matters(shift: float) -> None:
    scores, y = draw(100, 4)
    ranks = scores.argsort(dim=0).argsort(dim=0).float()
    assert measure(ranks * 1e-3 + shift if shift < 1e29 else ranks * shift, y) == pytest.approx(
        by_sklearn(scores, y), abs=1e-6
    )


def test_half_precision_adds_no_ties_of_its_own() -> None:
    scores, y = draw(100, 4)
    half = scores.half()
    assert measure(half, y) == pytest.approx(by_sklearn(half.float(), y), abs=1e-6)


def test_classes_without_a_positive_are_left_out_and_counted() -> None:
    scores, y = draw(50, 6)
    y[:, [1, 4]] = 0
    kept = [0, 2, 3, 5]
    classes = ClassesSeen(6)
    classes.update(scores, y)
    assert classes.compute() == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure(scores, y) == pytest.approx(measure(scores[:, kept], y[:, kept]))


def test_no_positive_at_all_gives_zero() -> None:
    scores, y = draw(5, 3, share=0.0)
    assert measure(scores, y) == 0
    assert MacroAveragePrecision(3).compute() == 0


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_score_that_is_no_number_makes_no_map(wrong: float) -> None:
    scores, y = draw(20, 3)
    scores[4, 1] = wrong
    assert np.isnan(measure(scores, y))


def test_scores_wait_on_the_cpu_in_at_least_float32_copied_many_at_a_time() -> None:
    metric = MacroAveragePrecision(8)
    copied = []
    metric._join_staged = lambda join=metric._join_staged: copied.append(metric._staged) or join()  # type: ignore[method-assign]
    for _ in range(2 * STAGED // 4096):
        metric.update(torch.zeros(512, 8, dtype=torch.bfloat16), torch.ones(512, 8))
    assert copied == [STAGED] * 2  # and not at each of a thousand updates
    assert [(s.dtype, s.device.type) for s in metric.scores] == [(torch.float32, "cpu")] * 2


def test_the_cost_of_an_update_does_not_grow_with_those_before(monkeypatch) -> None:
    """A walk over all that is kept, at each update, took 22 s for 100,000 clips."""
    monkeypatch.setattr("tome_lightning.metrics.STAGED", 32)
    metric = MacroAveragePrecision(2)
    for _ in range(64):
        metric.update(torch.rand(4, 2), torch.ones(4, 2))
    assert len(metric.scores) == len(metric.positive) == 16
    assert not metric.compute_on_cpu  # torchmetrics walks all of it


def test_neither_order_nor_blocks_move_a_bit(monkeypatch) -> None:
    scores, y = draw(300, 40)
    scores = (scores * 8).round()  # ties as well
    expected = measure(scores, y, batch=300)
    monkeypatch.setattr("tome_lightning.metrics.STAGED", 50)
    order = torch.randperm(300)
    assert measure(scores[order], y[order], batch=11) == expected
    assert float(np.float32(by_sklearn(scores, y))) == expected


def test_a_metric_that_is_reset_begins_anew(monkeypatch) -> None:
    monkeypatch.setattr("tome_lightning.metrics.STAGED", 10)
    metric, (scores, y) = MacroAveragePrecision(4), draw(33, 4)
    for _ in range(2):
        metric.reset()
        for some, labels in zip(scores.split(4), y.split(4), strict=True):
            metric.update(some, labels)
        assert float(metric.compute()) == pytest.approx(by_sklearn(scores, y), abs=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    """Of 11 samples the second process has none at first, and fewer in the end."""
    # fork: importing torch and torchmetrics again takes longer than all the rest
    mp.start_processes(_rank, args=(str(tmp_path),), nprocs=2, start_method="fork")
    torch.manual_seed(3)
    scores, y = draw(11, 4)
    assert np.load(tmp_path / "0.npy") == pytest.approx(by_sklearn(scores, y), abs=1e-6)
    assert np.load(tmp_path / "0.npy") == np.load(tmp_path / "1.npy") == measure(scores, y)
    assert np.load(tmp_path / "lone.npy") == pytest.approx(by_sklearn(scores, y), abs=1e-6)


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # those of the parent did not come along
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.manual_seed(3)
    scores, y = draw(11, 4)
    lone = MacroAveragePrecision(4)
    if rank == 0:
        lone.update(scores, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # compute before update, on purpose
        value = float(lone.compute())
    if rank == 0:
        np.save(f"{folder}/lone.npy", value)
    metric = MacroAveragePrecision(4)
    share = slice(0, 8) if rank == 0 else slice(8, 11)
    metric.update(scores[share], y[share])
    np.save(f"{folder}/{rank}.npy", float(metric.compute()))
    torch.distributed.destroy_process_group()


def test_a_weighted_mean_is_torchmetrics_own_to_the_last_bit() -> None:
    ours, theirs = WeightedMean(), MeanMetric()
    for value, weight in zip(torch.rand(20), range(1, 21), strict=True):
        ours.update(value, weight)
        theirs.update(value, weight=weight)
    assert torch.equal(ours.compute(), theirs.compute())


def test_a_loss_that_is_no_number_is_not_left_out_of_the_mean() -> None:
    mean = WeightedMean()
    mean.update(torch.tensor(1.0), 4)
    mean.update(torch.tensor(torch.nan), 4)
    assert mean.compute().isnan()


def test_samples_are_counted_and_begin_anew() -> None:
    count = Count()
    for number in (3, 4):
        count.update(number)
    assert count.compute() == 7
    count.reset()
    assert count.compute() == 0
