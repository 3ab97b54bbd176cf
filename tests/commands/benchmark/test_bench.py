"""What a benchmark takes where nothing is given."""

import pytest
import torch

from tome_lightning.arguments import UsageError
from tome_lightning.commands.benchmark import bench
from tome_lightning.commands.benchmark.bench import busy_batch, resolve_batches, resolve_settings
from tome_lightning.commands.benchmark.measure import launch_times
from tome_lightning.commands.benchmark.timm_model import from_timm

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("host", "per_sample", "fits", "batch"),
    [
        (10.0, 1.0, 4096, 64),  # busy with the least
        (150.0, 1.0, 4096, 256),  # the first at which 150 ms are 70% of a step or less
        (150.0, 1.0, 128, 128),  # which does not fit: the largest that does
        (150.0, 1.0, 32, 64),  # nor does the least: the measurement itself says so
        (1e6, 1.0, 4096, 1024),
    ],
)
def test_the_batch_grows_until_the_gpu_does_not_wait_for_launches(host, per_sample, fits, batch):
    def times(size: int) -> tuple[float, float, float] | None:
        device = per_sample * size
        return (host, device, max(host, device)) if size <= fits else None

    assert busy_batch(times) == batch


@pytest.mark.parametrize(("launches", "batch"), [(900, 64), (3000, 64), (30_000, 64)])
def test_a_host_that_waits_for_room_in_the_queue_does_not_make_the_batch_grow(launches, batch):
    """It returns when all but a thousand kernels have run, however fast it launches."""

    def times(size: int) -> tuple[float, float, float]:
        device = 2.0 * size
        blocked = device * max(0, launches - 1000) / launches
        return max(10.0, blocked), 0.97 * device, device

    assert busy_batch(times) == batch


def test_batches_are_those_given_or_the_recipe_s_or_the_device_s(monkeypatch):
    case = from_timm("test_vit", img_size=64, depth=1)
    settings = resolve_settings(case, CPU, [1])
    assert resolve_batches(case, settings, [3, 5]) == [3, 5]
    assert resolve_batches(case, settings, None) == [8]
    monkeypatch.setattr(bench, "launch_times", lambda *args: (100.0, None, 100.0 + args[2]))
    on_gpu = settings.__class__(**{**vars(settings), "device": torch.device("cuda")})
    assert resolve_batches(case, on_gpu, None) == [64]
    assert resolve_batches(case, on_gpu, [8]) == [8]
    with pytest.raises(UsageError, match="1 or more"):
        resolve_batches(case, settings, [0])


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_a_trial_leaves_no_gradients_and_changes_no_weight(mode):
    case = from_timm("test_vit", img_size=64, depth=1)
    before = {name: weight.clone() for name, weight in case.vit.state_dict().items()}
    launched, on_device, taken = launch_times(case, resolve_settings(case, CPU, [1, 2], mode), 2)
    assert (launched, on_device, taken > 0) == (0.0, None, True)
    assert all(p.grad is None for p in case.vit.parameters())
    assert all(torch.equal(before[name], w) for name, w in case.vit.state_dict().items())


def test_a_batch_that_does_not_fit_is_no_trial(monkeypatch):
    case = from_timm("test_vit", img_size=64, depth=1)
    settings = resolve_settings(case, CPU, [1])

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(case.vit, "forward_features", full)
    monkeypatch.setattr("tome_lightning.tome.model.ToMeViT.forward", full)
    assert launch_times(case, settings, 2) is None
