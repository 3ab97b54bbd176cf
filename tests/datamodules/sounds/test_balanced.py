"""Class-balanced draws: weights, shares of the processes, epochs, resume, and their hosts."""

import math
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from datamodules import BalancedSampler, DataError, sample_weights
from datamodules.loader import Loader
from datamodules.sounds.tagged import TaggedList

WEIGHTS = torch.tensor([8.0, 0.0, 1.0, 4.0, 2.0, 1.0])


class Numbers(Dataset[int]):
    """As many numbers as are asked for: item n is n."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def draws(replicas: int = 1, epoch: int = 0, count: int = 60, **settings: Any) -> list[list[int]]:
    """What each process sees in an epoch."""
    out = []
    for rank in range(replicas):
        weights = settings.pop("weights", WEIGHTS)
        sampler = BalancedSampler(weights, count, replicas, rank, **settings)
        settings["weights"] = weights
        sampler.set_epoch(epoch)
        out.append(list(sampler))
    return out


def test_a_clip_weighs_as_much_as_all_its_classes() -> None:
    weights = sample_weights([[0], [0], [0, 1]], num_classes=2)  # counts (3, 1)
    expected = [1000 / 3.01, 1000 / 3.01, 1000 / 3.01 + 1000 / 1.01]
    assert weights.tolist() == pytest.approx(expected)
    assert float(weights[2]) == pytest.approx(1322.325, abs=5e-4)
    assert weights.dtype == torch.float64


@pytest.mark.parametrize("form", ["repeated", "array", "tensor", "tagged"])
def test_labels_come_in_several_forms(form: str) -> None:
    labels = [[0, 2], [1], [2], [0, 1, 2]]
    hot = np.array([[i in row for i in range(4)] for row in labels]).astype(int)
    forms: dict[str, Any] = {
        "repeated": [row + row[:1] for row in labels],  # twice in one clip counts once
        "array": hot,
        "tensor": torch.from_numpy(hot).float(),
        "tagged": TaggedList("abcd", labels, 4),
    }
    assert torch.equal(sample_weights(forms[form], 4), sample_weights(labels, 4))


def test_a_clip_without_labels_weighs_nothing() -> None:
    assert sample_weights([[0], []], 1).tolist() == pytest.approx([1000 / 1.01, 0])
    assert sample_weights([], 3).tolist() == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0], [3]], r"clip 1 has label 3, but there are 3 classes"),
        ([[0], [1, -1]], r"clip 1 has label -1"),
        ([0, 1], r"a list of class indices for each clip"),
        (np.array([[0, 2, 1]]), r"multi-hot, \[N, 3\] of 0 and 1, got one of shape \[1, 3\]"),
        (np.array([[0, 1]]), r"got one of shape \[1, 2\]"),
    ],
)
def test_labels_that_are_none_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        sample_weights(labels, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_processes_share_out_the_draws_of_one(replicas: int, replacement: bool) -> None:
    given = {"weights": torch.rand(100) + 0.1, "count": 50, "replacement": replacement}
    (whole,) = draws(1, **given)
    shares = draws(replicas, **given)
    assert {len(share) for share in shares} == {50 // replicas}
    for rank, share in enumerate(shares):  # so no draw goes to two of them
        assert share == whole[rank::replicas][: len(share)]


def test_without_replacement_no_index_comes_twice_on_any_process() -> None:
    for epoch in range(3):
        shares = draws(3, epoch, weights=torch.rand(40) + 0.01, count=39, replacement=False)
        together = [index for share in shares for index in share]
        assert len(set(together)) == len(together) == 39


def test_indices_are_drawn_as_often_as_their_weights_say() -> None:
    count = 20_000
    found = Counter(draws(count=count)[0])
    assert 1 not in found  # its weight is 0
    expected = WEIGHTS / WEIGHTS.sum() * count
    drawn = torch.tensor([float(found[index]) for index in range(len(WEIGHTS))])
    chi_square = float(((drawn - expected) ** 2 / expected)[expected > 0].sum())
    assert chi_square < 18.5  # 4 degrees of freedom: one seed in a thousand is above


def test_draws_balance_the_classes() -> None:
    labels = [[0]] * 900 + [[1]] * 90 + [[2]] * 10
    (found,) = draws(weights=sample_weights(labels, 3), count=3000)
    counts = Counter(labels[index][0] for index in found)
    spread = math.sqrt(3000 * 1 / 3 * 2 / 3)  # of a binomial
    assert all(abs(counts[label] - 1000) < 4 * spread for label in range(3))


def test_the_first_draws_without_replacement_follow_the_weights() -> None:
    first = Counter(draws(seed=seed, count=1, replacement=False)[0][0] for seed in range(1600))
    assert abs(first[0] - 800) < 4 * 20  # 8 of 16; a binomial's deviation is 20


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    keys = [(seed, epoch) for seed in range(3) for epoch in range(3)]
    orders = {key: tuple(draws(seed=key[0], epoch=key[1])[0]) for key in keys}
    again = {key: tuple(draws(seed=key[0], epoch=key[1])[0]) for key in reversed(keys)}
    assert orders == again
    assert len(set(orders.values())) == len(keys)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_repeats_are_numbered_in_the_order_of_all_processes(replicas: int) -> None:
    plain, numbered = draws(replicas), draws(replicas, number_repeats=True)
    assert [[n % 6 for n in share] for share in numbered] == plain
    together = [n for turn in zip(*numbered, strict=True) for n in turn]  # in order of the draws
    assert len(set(together)) == len(together) == 60
    seen: Counter[int] = Counter()
    for n in together:
        repeat, index = divmod(n, 6)
        assert repeat == seen[index]
        seen[index] += 1


@pytest.mark.parametrize(
    ("weights", "settings", "message"),
    [
        ([], {}, r"weights must be 1 to 16777216 numbers.*got \[0\]"),
        ([[1.0]], {}, r"got \[1, 1\]"),
        ([1.0, -2.0], {}, r"1 of 2 are not, the first that of sample 1: -2"),
        ([1.0, math.nan], {}, r"the first that of sample 1: nan"),
        ([math.inf, 1.0], {}, r"the first that of sample 0: inf"),
        ([0.0, 0.0], {}, r"all 2 weights are 0"),
        ([1.0] * 9, {"num_samples": 1, "num_replicas": 2}, r"at least num_replicas, 2, got 1"),
        ([1.0], {"num_samples": 0}, r"at least num_replicas, 1, got 0"),
        ([1.0, 0.0, 1.0], {"num_samples": 3, "replacement": False}, r"3 draws.* from 2 samples"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(weights: Any, settings: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        BalancedSampler(weights, **{"num_samples": 2, **settings})
    assert "\n" not in str(error.value)


def test_more_weights_than_torch_can_draw_from_are_refused() -> None:
    with pytest.raises(DataError, match=r"1 to 16777216 numbers"):
        BalancedSampler(torch.ones(1, dtype=torch.float64).expand((1 << 24) + 1), 10)


@pytest.mark.parametrize("stop", [0, 7, 20])
@pytest.mark.parametrize("replacement", [True, False])
def test_a_resumed_epoch_goes_on_where_it_was_left(stop: int, replacement: bool) -> None:
    def sampler() -> BalancedSampler:
        return BalancedSampler(torch.arange(1.0, 51.0), 40, 2, 1, replacement=replacement)

    whole, stopped = sampler(), sampler()
    whole.set_epoch(4)
    stopped.set_epoch(4)
    expected, left = list(whole), iter(stopped)
    first = [next(left) for _ in range(stop)]
    state = pickle.loads(pickle.dumps(stopped.state_dict()))
    assert state == {"epoch": 4, "position": stop}
    rest = sampler()
    rest.load_state_dict(state)
    assert rest.state_dict() == state
    rest.set_epoch(4)  # as a training loop does
    assert len(rest) == 20  # of the whole epoch, as before
    assert first + list(rest) == expected
    assert list(rest) == expected  # only once
    rest.load_state_dict(state)
    rest.set_epoch(5)
    whole.set_epoch(5)
    assert list(rest) == list(whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_loader_can_use_it(workers: int) -> None:
    sampler = BalancedSampler(WEIGHTS, 20, num_replicas=2, rank=1)
    loader = DataLoader(Numbers(6), batch_size=5, sampler=sampler, num_workers=workers)
    assert len(loader) == 2
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert torch.cat(list(loader)).tolist() == draws(2, epoch, count=20)[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_in_the_middle_of_an_epoch_whatever_was_fetched_ahead(workers) -> None:
    def loader() -> Loader:
        sampler = BalancedSampler(WEIGHTS, 40)
        sampler.set_epoch(3)
        return Loader(Numbers(6), batch_size=4, sampler=sampler, num_workers=workers)

    expected = [batch.tolist() for batch in loader()]
    stopped, rest = loader(), loader()
    batches = iter(stopped)
    for _ in range(3):
        next(batches)
    assert stopped.state_dict() == {"epoch": 3, "batches": 3}
    rest.load_state_dict(stopped.state_dict())
    assert [batch.tolist() for batch in rest] == expected[3:]
    assert [batch.tolist() for batch in rest] == expected


class Recorder(LightningModule):
    """Writes down the epoch, and what the loader gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.seen.setdefault(self.current_epoch, []).extend(batch.tolist())
        return self.layer(batch.float().mean().reshape(1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_trainer_keeps_it_and_tells_it_the_epoch(tmp_path: Path) -> None:
    sampler = BalancedSampler(WEIGHTS, 20)
    assert isinstance(sampler, DistributedSampler)  # Lightning would replace any other
    loader, module = DataLoader(Numbers(6), batch_size=5, sampler=sampler), Recorder()
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, max_epochs=3,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    assert module.seen == {epoch: draws(epoch=epoch, count=20)[0] for epoch in range(3)}
    used = trainer.train_dataloader
    assert isinstance(used, DataLoader)
    assert used.sampler is sampler


@pytest.mark.parametrize(
    "place", [{"num_replicas": 0}, {"num_replicas": 2, "rank": 2}, {"seed": -1}]
)
def test_a_process_that_is_none_is_refused(place: dict[str, int]) -> None:
    with pytest.raises(DataError, match=r"rank is one of|seed must be"):
        BalancedSampler([1.0, 2.0], 4, **place)
