"""What the profiler says of a step: its peak memory, and the attention that ran."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

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


def test_the_kernel_of_most_blocks_is_told():
    names = ["gemm", "flash_fwd_kernel<a>", "flash_fwd_kernel<a>", "fmha_cutlassF", "gemm", "gemm"]
    assert attention_kernel(names) == "flash_fwd_kernel<a>"
    assert attention_kernel(["gemm"]) is None
