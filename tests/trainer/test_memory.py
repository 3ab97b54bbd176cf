"""Out of memory is told in one message with the ways out."""

from typing import Any

import pytest
import torch

from tome_lightning.__main__ import exit_code
from tome_lightning.trainer.memory import WAYS_OUT, out_of_memory

ON_CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 79.10 GiB of which "
    "312.75 MiB is free.\nProcess 7 has 78.7 GiB memory in use."
)


def test_a_gpu_without_memory_is_named_with_what_was_asked_for():
    told = out_of_memory(torch.OutOfMemoryError(ON_CUDA))
    assert told is not None
    assert "GPU 1 was asked for 2.50 GiB and had 312.75 MiB free" in told
    assert told.endswith(f"{WAYS_OUT}.")
    assert "\n" not in told


def test_it_is_found_behind_what_a_library_raised_on_top():
    error = ValueError("while fitting")
    error.__cause__ = torch.OutOfMemoryError(ON_CUDA)
    assert "GPU 1" in str(out_of_memory(error))


def test_a_real_allocation_that_is_too_large_is_recognised(capsys: pytest.CaptureFixture[str]):
    def run() -> Any:
        return torch.empty(1 << 60, dtype=torch.uint8)

    assert exit_code(run) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: out of memory: this machine was asked for 1073741824.0 GiB")
    assert told.count("\n") == 1


@pytest.mark.parametrize("error", [None, RuntimeError("shapes differ"), MemoryError()])
def test_other_errors_are_left_alone(error: BaseException | None):
    assert out_of_memory(error) is None
