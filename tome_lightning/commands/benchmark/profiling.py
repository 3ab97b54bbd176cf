"""One step under the profiler: the most memory it held, and which attention it ran."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from tome_lightning.trainer.meter import synchronize

# By torch's operator; a part of the name, since the CPU and backward passes have longer ones.
ATTENTION_OPS = {
    "_scaled_dot_product_flash_attention": "flash",
    "_scaled_dot_product_efficient_attention": "efficient",
    "_scaled_dot_product_cudnn_attention": "cudnn",
    "_scaled_dot_product_attention_math": "math",
}
KERNEL_PARTS = ("flash", "fmha", "sdpa", "attention")


class StepProfile(NamedTuple):
    """What one step did.

    Attributes:
        peak_bytes: The most that was allocated at once beyond what was there before the step.
        attention: flash, efficient, cudnn, math or unknown; of several the most frequent first.
        kernel: Name of the CUDA kernel that ran it; ``None`` elsewhere.
        device_ms: Milliseconds that its kernels and copies took on a CUDA device; ``None`` elsewhere.
    """

    peak_bytes: int
    attention: str
    kernel: str | None
    device_ms: float | None = None


def _nothing() -> None:
    pass


def profile_step(
    step: Callable[[], object], device: torch.device, clear: Callable[[], object] = _nothing
) -> StepProfile:
    """Run a step under the profiler, and on CUDA once more for its memory.

    On CUDA the allocator itself keeps the peak. On a CPU every allocation and release is an event of
    the profiler; a process's resident peak would say nothing of the second variant in a process.

    Args:
        step: What is run.
        device: Where.
        clear: Called before each run: lets go of what the run before has left (gradients) and the
            step makes anew, which would else count as what was there before.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports its start as an error
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    clear()
    with profile(activities=activities, profile_memory=device.type == "cpu") as profiled:
        step()
        synchronize(device)
    events: list[Any] = list(profiled.profiler.kineto_results.events())
    names = [event.name() for event in events]
    if device.type == "cpu":
        return StepProfile(_peak(events), attention_of(names), None)
    kernels = [event for event in events if str(event.device_type()).endswith("CUDA")]
    return StepProfile(
        _cuda_peak(step, device, clear),
        attention_of(names),
        attention_kernel(event.name() for event in kernels),
        busy_ms(kernels),
    )


def busy_ms(kernels: Iterable[Any]) -> float:
    """Milliseconds of a CUDA device's own events, as torch's profiler sums them: without the spans of
    named regions, which hold kernels that are there already, and the time between these."""
    return sum(event.duration_ns() for event in kernels if not event.is_user_annotation()) / 1e6


def attention_of(names: Iterable[str]) -> str:
    """A word for each attention among operators of these names, the most frequent first, else unknown."""
    seen = Counter(
        word
        for name in names
        for part, word in ATTENTION_OPS.items()
        if part in name and "backward" not in name
    )
    return "+".join(word for word, _ in seen.most_common()) or "unknown"


def attention_kernel(kernels: Iterable[str]) -> str | None:
    """The most frequent CUDA kernel that is of attention by its name."""
    seen = Counter(name for name in kernels if any(part in name.lower() for part in KERNEL_PARTS))
    return seen.most_common(1)[0][0][:160] if seen else None


def _peak(events: Iterable[Any]) -> int:
    live = peak = 0
    changes = (event for event in events if event.name() == "[memory]")
    for event in sorted(changes, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _cuda_peak(
    step: Callable[[], object], device: torch.device, clear: Callable[[], object]
) -> int:
    clear()
    synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
