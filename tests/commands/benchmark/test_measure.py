"""Dense and merged variants of one small model, measured."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import _cur_sdpa_kernel_backends

import tome_lightning.commands.benchmark.measure as measuring
from tome_lightning.commands.benchmark import benchmark, profiling
from tome_lightning.commands.benchmark.bench import find_device, resolve_settings
from tome_lightning.commands.benchmark.measure import measure
from tome_lightning.commands.benchmark.rows import Settings
from tome_lightning.commands.benchmark.timm_model import from_timm
from tome_lightning.commands.loaded import LoadedModel, from_recipe
from tome_lightning.commands.r_words import parse_r
from tome_lightning.inputs import Image
from tome_lightning.tasks import MultiLabel
from tome_lightning.tome import PlanError, patch, recompute
from tome_lightning.tome import model as tome_model
from tome_lightning.tome.attention import KERNELS, chosen_kernels

CPU = torch.device("cpu")
READ = Image(size=32, patch=4)
SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 7}


def _case(**timm_kwargs) -> LoadedModel:
    torch.manual_seed(0)
    vit = READ.build(**(SMALL | timm_kwargs))
    return LoadedModel("small", patch(vit), READ, task=MultiLabel(7))


def _settings(mode="train", **options) -> Settings:
    return Settings(
        **({"r": (4, 12), "mode": mode, "dtype": "float32", "device": CPU, "rounds": 1} | options)
    )


def test_the_dense_row_is_what_others_are_compared_with():
    dense, *merged = measure(_case(), _settings("forward"), batch=2)
    assert (dense.variant, dense.r, dense.speedup, dense.realised) == ("dense", 0, 1, 1)
    assert dense.tokens_in == dense.tokens_out == 65
    assert [row.r for row in merged] == [4, 12]
    assert [row.tokens_out for row in merged] == [57, 41]
    for row in merged:
        assert row.speedup == dense.ms / row.ms
        assert row.realised == row.speedup / row.mac_ratio
        assert row.mac_ratio == dense.macs / row.macs > 1
        assert row.samples_per_s == pytest.approx(2000 / row.ms)
        assert row.counted_macs == row.macs + row.merging_macs
        assert row.attention == dense.attention == "flash"
    assert merged[0].token_ratio == pytest.approx((63 + 59) / 2 / 65)


def test_rows_are_given_as_they_come_and_with_each_round():
    seen = []
    last = measure(_case(), _settings("forward", r=(12,), rounds=3), batch=2, meanwhile=seen.append)
    known = [[(row.variant, row.rounds) for row in rows] for rows in seen]
    warm = [[("dense", None)], [("dense", None), ("tome", None)]]
    assert known == [*warm, *([("dense", n), ("tome", n)] for n in (1, 2, 3))]
    assert seen[-1] == last
    assert all(rows[-1].peak_mem_mib is not None for rows in seen)
    assert seen[2][-1].speedup is not None


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_dense_and_merged_run_on_the_same_chosen_kernels(mode, monkeypatch):
    """Also what they recompute in the backward pass."""
    for module in (measuring, tome_model, recompute):  # as on CUDA
        monkeypatch.setattr(
            module, "chosen_kernels", lambda _: chosen_kernels(torch.device("cuda"))
        )
    seen = []
    kernel = F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        seen.append(_cur_sdpa_kernel_backends(with_priority=True) == KERNELS)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    stepper = measuring._Stepper(_case(), settings := _settings(mode), batch=2)
    vit = stepper.vit.train(settings.training)
    vit.set_grad_checkpointing(settings.training)
    for model in (vit, patch(vit, r=4)):
        seen.clear()
        stepper.step(model)()
        assert seen == [True] * 2 * (2 if settings.training else 1)


def test_weights_do_not_change_while_they_are_trained():
    case = _case()
    before = {name: value.clone() for name, value in case.vit.state_dict().items()}
    assert all(row.error is None for row in measure(case, _settings(), batch=2))
    for name, value in case.vit.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_memory_beside_activations_is_weights_gradients_and_two_moments():
    case = _case()
    parameters = list(case.vit.parameters())
    fixed = 4 * sum(p.numel() * 4 for p in parameters) + 4 * len(
        parameters
    )  # and a step count each
    for row in measure(case, _settings(), batch=2):
        assert (row.peak_mem_mib - row.activation_mem_mib) * 2**20 == pytest.approx(fixed)
        assert row.activation_mem_mib > 0
    (evaluated, *_) = measure(case, _settings("forward"), batch=2)
    assert (evaluated.peak_mem_mib - evaluated.activation_mem_mib) * 2**20 == pytest.approx(
        fixed / 4, rel=0.01
    )


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_on_cuda_memory_is_read_with_no_gradient_alive(monkeypatch):
    """As on a CPU: else a train step's activations would be less by all gradients, or negative."""
    case, settings, alive = _case(), _settings(r=(4,)), []

    def before(device):
        alive.append(sum(p.grad is not None for p in case.vit.parameters()))
        return 0

    def on_cuda(step, device, **named):
        return profiling.profile_step(step, torch.device("cuda"), **named)

    monkeypatch.setattr(profiling, "synchronize", lambda device: None)
    monkeypatch.setattr(measuring, "profile_step", on_cuda)
    monkeypatch.setattr(torch.cuda, "memory_allocated", before)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**30)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    measure(case, settings, batch=2)
    assert alive == [0, 0]


def test_activations_shrink_as_tokens_do_and_with_recomputation():
    dense, *merged = measure(_case(), _settings(), batch=16)
    for row in merged:
        assert row.activation_mem_mib / dense.activation_mem_mib <= row.token_ratio + 0.1
    again, *_ = measure(_case(), _settings(checkpointing=True, r=(4,)), batch=16)
    assert again.activation_mem_mib < dense.activation_mem_mib * 0.7  # of two blocks one at a time
    assert again.macs == dense.macs


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains_with_finite_weights(dtype):
    case = _case()
    rows = measure(case, _settings(dtype=dtype, prop_attn=True, r=(4,)), batch=2)
    assert [row.error for row in rows] == [None, None]
    assert all(bool(p.isfinite().all()) for p in case.vit.parameters())


def test_a_variant_without_memory_says_so_and_the_others_go_on(monkeypatch):
    from tome_lightning.tome import ToMeViT

    forward = ToMeViT.forward

    def fails(self, x):
        if self.r == 4 and x.device.type == "cpu" and type(x) is torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return forward(self, x)

    monkeypatch.setattr(ToMeViT, "forward", fails)
    dense, lost, fine = measure(_case(), _settings(), batch=2)
    assert lost.error == "out of memory: CUDA out of memory. Tried to allocate 2 GiB"
    assert lost.ms is None
    assert lost.speedup is None
    assert dense.speedup == 1
    assert math.isfinite(fine.speedup)


def test_a_mistake_of_ours_is_not_swallowed(monkeypatch):
    case = _case()
    monkeypatch.setattr(MultiLabel, "loss", lambda *args: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError):
        measure(case, _settings(), batch=2)


@pytest.mark.slow
def test_dense_and_every_r_compile_each_once():
    rows = measure(_case(depth=1), _settings("forward", compile=True, r=(12,)), batch=2)
    assert [row.error for row in rows] == [None] * 2
    assert {row.attention for row in rows} == {"flash"}


def test_a_timm_name_becomes_a_video_model():
    case = from_timm("vit_tiny_patch16_224", img_size=32, frames=4, depth=2)
    assert case.input.shape == (3, 4, 32, 32)
    assert (len(case.vit.blocks), case.vit.embed_dim) == (2, 192)
    assert case.tokens(training=False) == 9


def test_a_recipe_is_built_as_fit_builds_it():
    case = from_recipe(["--recipe", "quickstart_audio", "--model.vit.depth", "2"])
    assert (case.name, len(case.vit.blocks)) == ("quickstart_audio", 2)
    assert case.batch_size == 16
    assert case.dtype == "float32"
    assert case.model.prop_attn
    assert case.tokens(training=True) < case.tokens(training=False)
    assert all(row.error is None for row in measure(case, _settings(r=(2,)), batch=2))


def test_a_recipes_repeats_are_in_its_batch_and_its_weights_are_not_needed(monkeypatch):
    words = ["--recipe", "kinetics_vitb", "--model.vit.depth=1", "--model.vit.embed_dim=48"]
    case = from_recipe(words)
    assert case.batch_size == 8
    assert case.dtype == "bfloat16"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert resolve_settings(case, CPU).dtype == "float32"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert resolve_settings(case, CPU).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("text", "r"),
    [
        ("16", 16),
        ("16:-1.0", {"r": 16, "inflection": -1.0}),
        ("8,8,4", [8, 8, 4]),
        ("keep=0.9", {"keep": 0.9}),
        ("{r: 16, inflection: -1.0}", {"r": 16, "inflection": -1.0}),
        ("[8, 4]", [8, 4]),
    ],
)
def test_r_is_written_in_many_ways(text, r):
    assert parse_r(text) == r


def test_the_default_r_is_the_recipes_or_merges_nearly_all():
    case = _case()
    assert resolve_settings(case, CPU).r == (64 // 2,)
    case.model.r = 3
    assert resolve_settings(case, CPU).r == (3,)


def test_what_cannot_be_measured_is_refused_before_anything_runs():
    case = _case()
    with pytest.raises(PlanError, match="at most 32"):
        resolve_settings(case, CPU, r=(33,))
    with pytest.raises(ValueError, match="merges something"):
        resolve_settings(case, CPU, r=(0,))
    with pytest.raises(ValueError, match="float32, bfloat16, float16"):
        resolve_settings(case, CPU, dtype="int8")
    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        find_device("tpu")


def test_the_function_measures_every_batch_size():
    rows = benchmark(
        "test_vit", img_size=64, depth=2, r=(2, [1, 2]), batch_size=(1, 2), device="cpu", rounds=1
    )
    assert [(row.batch, row.r) for row in rows] == [(b, r) for b in (1, 2) for r in (0, 2, [1, 2])]
    (_, own) = benchmark(
        recipe="quickstart",
        overrides={"model.vit.depth": 1, "model.r": [3]},
        batch_size=2,
        device="cpu",
        rounds=1,
    )
    assert (own.r, own.tokens_out) == ([3], 47)
    assert own.prop_attn
