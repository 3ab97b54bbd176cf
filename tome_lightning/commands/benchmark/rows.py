"""How a model is measured, and what was measured: one row a variant."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from tome_lightning.run.environment import cpu_model
from tome_lightning.tome import R

LAUNCH_BOUND = 0.9  # share of a step's time that the host needs to launch it: what is left is noise
Mode = Literal["forward", "train"]


@dataclass(frozen=True)
class Settings:
    """How a model is measured.

    Attributes:
        r: Each is a variant beside the dense model.
        mode: forward: evaluation without gradients; train: forward, backward and a step of AdamW.
        dtype: float32, or what autocast computes in: bfloat16, float16. Weights are float32.
        compile: Whether dense and merged models are compiled, each once, without graph breaks.
        prop_attn: Whether merged tokens weigh by size in attention.
        checkpointing: Whether blocks are recomputed in the backward pass.
        device: What is measured.
        rounds: Timed rounds; ``None``: as many as about 20 s a variant allow, 5 to 25.
    """

    r: tuple[R, ...]
    mode: Mode
    dtype: str
    device: torch.device
    compile: bool = False
    prop_attn: bool = False
    checkpointing: bool = False
    rounds: int | None = None

    @property
    def training(self) -> bool:
        return self.mode == "train"


@dataclass(frozen=True)
class Row:
    """One variant at one batch size; times in milliseconds a step, memory in MiB.

    Attributes:
        tokens_in: Tokens that enter the first block.
        mac_ratio: Dense / merged, by formula, without what merging itself costs.
        realised: speedup / mac_ratio.
        macs: Of a sample's forward pass, by formula, without merging.
        merging_macs: What merging adds.
        counted_macs: By torch's flop counter, merging included, sizes in attention not.
        token_ratio: Merged / dense, mean over blocks of the tokens that enter and leave them.
        peak_mem_mib: Weights, gradients, optimizer state and activations at their most.
        activation_mem_mib: The same less weights, gradients and optimizer state.
        attention: flash, efficient, cudnn, math or unknown; of several the most frequent first.
        kernel: The CUDA kernel's name.
        host_ms: What the host needs to launch a step on an idle GPU; None on a CPU, and where a step
            waits for the GPU by itself (training in float16).
        device_ms: What a step's kernels take on a GPU, waiting left out; None on a CPU.
        error: Why there are no figures.
    """

    variant: str
    model: str
    img_size: int
    frames: int | None
    depth: int
    r: R
    mode: str
    device: str
    device_name: str
    dtype: str
    compile: bool
    prop_attn: bool
    checkpointing: bool
    batch: int
    tokens_in: int
    tokens_out: int
    torch: str
    macs: int
    merging_macs: int
    counted_macs: int
    mac_ratio: float
    token_ratio: float
    ms: float | None = None
    ms_min: float | None = None
    ms_max: float | None = None
    rounds: int | None = None
    samples_per_s: float | None = None
    speedup: float | None = None
    realised: float | None = None
    peak_mem_mib: float | None = None
    activation_mem_mib: float | None = None
    attention: str = "unknown"
    kernel: str | None = None
    host_ms: float | None = None
    device_ms: float | None = None
    error: str | None = None

    @property
    def launch_bound(self) -> bool:
        """Whether the GPU waits for launches: see `waits_for_launches`."""
        if not self.host_ms or not self.ms:
            return False
        return waits_for_launches(self.host_ms, self.device_ms, self.ms)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def waits_for_launches(
    host_ms: float, device_ms: float | None, ms: float, share: float = LAUNCH_BOUND
) -> bool:
    """Whether a GPU idles because the host needs that share of a step's time to launch it.

    Not where kernels fill the step: the host is slow then because it waits for room in the queue of
    launches, which holds about a thousand; training a ViT-L launches several times that.
    """
    busy = device_ms is not None and device_ms >= LAUNCH_BOUND * ms
    return host_ms >= share * ms and not busy


def device_name(device: torch.device) -> str:
    """What a figure is of: the GPU's name, or the CPU's and the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_model() or 'unknown'}, {threads} thread{'s' if threads > 1 else ''}"
