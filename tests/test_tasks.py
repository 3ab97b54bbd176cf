"""Targets, losses and metrics of each task, against plain torch."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tome_lightning.tasks import MultiLabel, SingleLabel, TaskError

K = 5


def batch(size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 3, 8, 8), torch.arange(size) % K


@pytest.fixture
def lam(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the Beta distribution draws."""

    def draw(value: float) -> None:
        monkeypatch.setattr(np.random, "beta", lambda *_: value)

    return draw


@pytest.mark.parametrize("settings", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_smoothing_is_folded_into_mixed_targets(settings: dict[str, float], lam: Any) -> None:
    """The reference's values for smoothing .1 and 5 classes where nothing is mixed in."""
    lam(1.0)
    x, y = batch()
    mixed, target = SingleLabel(K, smoothing=0.1, **settings).mix(x.clone(), y)
    assert torch.equal(mixed, x)
    on = F.one_hot(y, K).bool()
    torch.testing.assert_close(target[on], torch.full((6,), 0.92))
    torch.testing.assert_close(target[~on], torch.full((24,), 0.02))


def test_mixup_mixes_inputs_and_targets_with_the_reversed_batch(lam: Any) -> None:
    lam(0.7)
    x, y = batch()
    mixed, target = SingleLabel(K, mixup=0.8).mix(x.clone(), y)
    torch.testing.assert_close(mixed, 0.7 * x + 0.3 * x.flip(0))
    one_hot = F.one_hot(y, K).float()
    torch.testing.assert_close(target, 0.7 * one_hot + 0.3 * one_hot.flip(0))


def test_cutmix_targets_are_the_share_of_pixels_taken(lam: Any) -> None:
    lam(0.4)
    _, y = batch()
    x = torch.arange(6.0).reshape(-1, 1, 1, 1).expand(-1, 3, 16, 16).clone()  # sample i is all i
    mixed, target = SingleLabel(K, cutmix=1.0).mix(x.clone(), y)
    own = (mixed == x).float().mean(dim=(1, 2, 3))
    assert 0 < own[0] < 1
    assert set(mixed[0].unique().tolist()) == {0.0, 5.0}  # sample 0 and its partner, the last
    one_hot = F.one_hot(y, K).float()
    torch.testing.assert_close(
        target, own[:, None] * one_hot + (1 - own[:, None]) * one_hot.flip(0)
    )


def test_mixed_targets_sum_to_one_whatever_is_drawn() -> None:
    np.random.seed(0)
    task = SingleLabel(K, mixup=0.8, cutmix=1.0, smoothing=0.1)
    seen = set()
    for _ in range(20):
        _, target = task.mix(*batch())
        torch.testing.assert_close(target.sum(dim=1), torch.ones(6))
        assert target.min() >= 0.02 - 1e-6  # smoothing / K of every class
        seen.add(round(float(target[1, 1]), 4))  # label 1, mixed with label 4
    assert len(seen) > 10


def test_mix_prob_is_the_share_of_batches_mixed() -> None:
    x, y = batch()
    never = SingleLabel(K, mixup=0.8, cutmix=1.0, mix_prob=0.0)
    mixed, target = never.mix(x.clone(), y)
    assert torch.equal(mixed, x)
    torch.testing.assert_close(target, F.one_hot(y, K).float())


def test_switch_prob_chooses_between_mixup_and_cutmix(lam: Any) -> None:
    lam(0.4)
    x, y = batch()
    cut, _ = SingleLabel(K, mixup=0.8, cutmix=1.0, switch_prob=1.0).mix(x.clone(), y)
    blended, _ = SingleLabel(K, mixup=0.8, cutmix=1.0, switch_prob=0.0).mix(x.clone(), y)
    assert torch.all((cut == x) | (cut == x.flip(0)))  # cutmix copies pixels
    torch.testing.assert_close(blended, 0.4 * x + 0.6 * x.flip(0))


def test_without_mixing_the_batch_is_left_alone() -> None:
    x, y = batch()
    mixed, target = SingleLabel(K, smoothing=0.1).mix(x, y)
    assert mixed is x
    assert target is y


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_labels_is_cross_entropy_with_smoothing(smoothing: float) -> None:
    logits, (_, y) = torch.randn(6, K), batch()
    soft = F.one_hot(y, K) * (1 - smoothing) + smoothing / K
    expected = -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(SingleLabel(K, smoothing=smoothing).loss(logits, y), expected)
    oracle = F.cross_entropy(logits, y, label_smoothing=smoothing)
    torch.testing.assert_close(SingleLabel(K, smoothing=smoothing).loss(logits, y), oracle)


def test_loss_of_mixed_targets_is_not_smoothed_again() -> None:
    task = SingleLabel(K, mixup=0.8, smoothing=0.1)
    _, target = task.mix(*batch())
    logits = torch.randn(6, K)
    torch.testing.assert_close(task.loss(logits, target), F.cross_entropy(logits, target))


def test_evaluation_loss_is_plain_cross_entropy() -> None:
    logits, (_, y) = torch.randn(6, K), batch()
    task = SingleLabel(K, mixup=0.8, smoothing=0.1)
    torch.testing.assert_close(
        task.eval_loss(task.scores(logits[:, None]), y), F.cross_entropy(logits, y)
    )


def test_losses_are_computed_in_float32() -> None:
    logits, (_, y) = 30 * torch.randn(6, K).bfloat16(), batch()
    task = SingleLabel(K)
    for loss in (task.loss(logits, y), task.eval_loss(task.scores(logits[:, None]), y)):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, F.cross_entropy(logits.float(), y))


def test_an_odd_batch_cannot_be_mixed() -> None:
    for settings in ({"mixup": 0.8}, {"cutmix": 1.0}):
        with pytest.raises(TaskError, match=r"even, got data\.batch_size=7.*mixup and cutmix to 0"):
            SingleLabel(K, **settings).check(K, 7)
        SingleLabel(K, **settings).check(K, 8)
    SingleLabel(K).check(K, 7)  # unmixed, any size will do


def test_another_number_of_classes_is_refused_and_the_flag_named() -> None:
    with pytest.raises(TaskError, match=r"data has 7 .* head has 5 .*--model\.task\.num_classes 7"):
        SingleLabel(K).check(7, 8)


def test_metrics_are_fractions_over_all_samples() -> None:
    y = torch.arange(37) % 12
    logits = torch.randn(37, 12) + 2 * F.one_hot(y, 12)
    metrics = SingleLabel(12).metrics()
    for part in range(0, 37, 8):  # batches of 8 and a last one of 5: samples count, not batches
        metrics.update(logits[part : part + 8], y[part : part + 8])
    ranked = logits.argsort(dim=1, descending=True)
    top = {k: (ranked[:, :k] == y[:, None]).any(dim=1).float().mean() for k in (1, 5)}
    got = metrics.compute()
    assert set(got) == {"top1", "top5"}
    assert SingleLabel.monitor in got
    assert 0 < top[1] < top[5] < 1
    torch.testing.assert_close(got["top1"], top[1])
    torch.testing.assert_close(got["top5"], top[5])


def test_each_call_makes_fresh_metrics() -> None:
    task = SingleLabel(K)
    first = task.metrics()
    first.update(torch.eye(K), torch.arange(K))
    second = task.metrics()
    second.update(torch.eye(K), (torch.arange(K) + 1) % K)
    assert (first.compute()["top1"], second.compute()["top1"]) == (1.0, 0.0)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_top5_of_fewer_than_five_classes_is_always_right(classes: int) -> None:
    metrics = SingleLabel(classes).metrics()
    metrics.update(torch.eye(classes), (torch.arange(classes) + 1) % classes)
    got = metrics.compute()
    assert (got["top1"], got["top5"]) == (0.0, 1.0)


def test_views_are_averaged_after_softmax() -> None:
    logits = 5 * torch.randn(4, 3, K)
    expected = sum(logits[:, v].softmax(dim=1) for v in range(3)) / 3
    torch.testing.assert_close(SingleLabel(K).scores(logits).exp(), expected)


def test_one_view_keeps_its_ranking() -> None:
    logits = torch.randn(4, 1, K)
    scores = SingleLabel(K).scores(logits)
    assert torch.equal(scores.argsort(dim=1), logits[:, 0].argsort(dim=1))


def test_clips_are_cut_and_mixed_in_space_alone(lam: Any) -> None:
    """The same box in every frame; timm's own indexing would cut out of time and rows."""
    lam(0.4)
    y = torch.arange(6) % K
    x = torch.arange(6.0).reshape(-1, 1, 1, 1, 1).expand(-1, 3, 4, 16, 16).clone()
    mixed, target = SingleLabel(K, cutmix=1.0).mix(x.clone(), y)
    assert mixed.shape == x.shape
    box = mixed[0] == 5  # what sample 0 took from its partner, the last
    assert 0 < box.sum() < box.numel()
    assert torch.equal(box, box[:1, :1].expand_as(box))
    rows, columns = box[0, 0].any(dim=1).sum(), box[0, 0].any(dim=0).sum()
    assert box[0, 0].sum() == rows * columns
    own = 1 - box.float().mean()
    one_hot = F.one_hot(y, K).float()
    torch.testing.assert_close(target, own * one_hot + (1 - own) * one_hot.flip(0))

    blended, _ = SingleLabel(K, mixup=0.8).mix(x.clone(), y)
    torch.testing.assert_close(blended, 0.4 * x + 0.6 * x.flip(0))


# Several labels a sample


def test_multi_label_loss_is_binary_cross_entropy_with_soft_targets() -> None:
    logits, target = torch.randn(4, K), torch.rand(4, K)
    p = logits.sigmoid()
    by_hand = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(MultiLabel(K).loss(logits, target), by_hand)
    half = MultiLabel(K).loss(logits.bfloat16(), target)
    assert half.dtype == torch.float32


def test_multi_label_leaves_mixing_to_the_data() -> None:
    x, y = torch.randn(2, 1, 8, 8), torch.rand(2, K)
    mixed, target = MultiLabel(K).mix(x, y)
    assert mixed is x
    assert target is y


def test_multi_label_scores_average_the_probabilities_of_views() -> None:
    logits = torch.randn(3, 4, K)
    scores = MultiLabel(K).scores(logits)
    torch.testing.assert_close(scores.exp(), logits.sigmoid().mean(dim=1))


def test_multi_label_scores_keep_the_order_where_probabilities_round_to_one() -> None:
    logits = torch.tensor([[[20.0, 30.0, 40.0, 60.0, 80.0]]])
    assert (logits.sigmoid().diff() == 0).any()
    assert (MultiLabel(K).scores(logits).diff() > 0).all()


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_multi_label_eval_loss_is_the_training_loss_of_one_view(scale: float) -> None:
    task, logits = MultiLabel(K), scale * torch.randn(6, 1, K)
    y = (torch.rand(6, K) < 0.5).float()
    torch.testing.assert_close(
        task.eval_loss(task.scores(logits), y), task.loss(logits[:, 0], y), rtol=1e-5, atol=1e-6
    )


def test_multi_label_eval_loss_of_certainty_is_finite() -> None:
    task, logits = MultiLabel(2), torch.tensor([[[1e4, -1e4]]])
    assert task.eval_loss(task.scores(logits), torch.tensor([[1.0, 0.0]])) < 1e-6
    assert torch.isfinite(task.eval_loss(task.scores(logits), torch.tensor([[0.0, 1.0]])))


def test_multi_label_metrics_are_map_and_the_classes_it_is_over() -> None:
    task = MultiLabel(K)
    y = (torch.rand(40, K) < 0.4).float()
    y[:, 0] = 0
    metrics = task.metrics()
    metrics.update(task.scores(torch.where(y > 0, 3.0, -3.0)[:, None]), y)
    assert {name: float(value) for name, value in metrics.compute().items()} == {
        "mAP": 1.0,
        "classes": K - 1,
    }
    assert task.monitor in metrics
    assert set(task.counts) < set(metrics)
