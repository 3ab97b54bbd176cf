"""What the profiler says of a step: its peak memory, and the attention that ran."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tome_lightning.speed import profiling
from tome_lightning.speed.profiling import attention_kernel, attention_of, profile_step

CPU = torch.device("cpu")
MIB = 2**20


def test_the_peak_is_the_most_that_lives_at_once():
    def step():
        first = torch.empty(MIB, dtype=torch.uint8)
        second = torch.empty(2 * MIB, dtype=torch.uint8)
        del first
        third = torch.empty(MIB // 2, dtype=torch.uint8)
        del second, third

    assert profile_step(step, CPU).peak_bytes == 3 * MIB


def test_what_was_there_before_does_not_count():
    kept = torch.ones(4 * MIB, dtype=torch.uint8)
    assert profile_step(lambda: kept[:MIB].clone(), CPU).peak_bytes == MIB


def _attention():
    q = torch.randn(1, 2, 8, 16)
    F.scaled_dot_product_attention(q, q, q)


def test_the_attention_that_ran_is_named():
    assert profile_step(_attention, CPU).attention == "flash"
    with sdpa_kernel(SDPBackend.MATH):
        assert profile_step(_attention, CPU).attention == "math"
    assert profile_step(lambda: torch.ones(2), CPU).attention == "unknown"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("aten::_scaled_dot_product_flash_attention", "flash"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "flash"),
        ("aten::_scaled_dot_product_efficient_attention", "efficient"),
        ("aten::_scaled_dot_product_cudnn_attention", "cudnn"),
        ("aten::_scaled_dot_product_attention_math", "math"),
        ("aten::_scaled_dot_product_flash_attention_backward", "unknown"),
    ],
)
def test_operators_have_one_word_each(name, word):
    assert attention_of(["aten::mm", name]) == word


def test_all_attention_that_ran_is_told_the_most_frequent_first():
    flash, efficient = (f"aten::_scaled_dot_product_{n}_attention" for n in ("flash", "efficient"))
    assert attention_of([efficient, flash, "aten::mm", flash]) == "flash+efficient"


def test_the_kernel_of_most_blocks_is_told():
    names = ["gemm", "flash_fwd_kernel<a>", "flash_fwd_kernel<a>", "fmha_cutlassF", "gemm", "gemm"]
    assert attention_kernel(names) == "flash_fwd_kernel<a>"
    assert attention_kernel(["gemm"]) is None


class Event:
    def __init__(self, ms: float, named: bool = False) -> None:
        self.ns, self.named = int(1e6 * ms), named

    def duration_ns(self) -> int:
        return self.ns

    def is_user_annotation(self) -> bool:
        return self.named


def test_a_device_is_busy_with_kernels_not_with_the_regions_that_hold_them():
    assert profiling.busy_ms([Event(2), Event(9, named=True), Event(0.5)]) == 2.5


class Allocator:
    """Stands for torch.cuda's: what a test says is alive, and the most of it at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.live = self.peak = 0
        monkeypatch.setattr(profiling, "synchronize", lambda device: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.live)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: self.reset())

    def reset(self) -> None:
        self.peak = self.live

    def change(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)


def test_on_cuda_what_the_run_before_has_left_does_not_count_as_there_before(monkeypatch):
    """Weights of 5, gradients of 40 that the first run leaves, activations of 7."""
    cuda, left = Allocator(monkeypatch), []
    cuda.change(5)

    def clear():
        while left:
            cuda.change(-left.pop())

    def step():
        cuda.change(7)
        clear()
        left.append(40)
        cuda.change(40)
        cuda.change(-7)

    step()
    assert profiling._cuda_peak(step, torch.device("cuda"), clear) == 47
