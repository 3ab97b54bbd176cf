"""Time the ways of proportional attention: ``python -m tome_lightning.commands.benchmark.attention``.

none: sizes do not count. mask: ``log(size)`` as an additive mask. channels: ``log(size)`` in spare
channels of the keys. Each on the kernel that models run it on, which is named, and on CUDA also on cuDNN
(+cudnn), which models leave out. flex: FlexAttention, compiled. One row a way, all on the same tensors,
in turn; the first call of all is timed apart: it is what each new number of tokens costs once.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tome_lightning.commands.benchmark.profiling import profile_step
from tome_lightning.commands.benchmark.timing import interleaved
from tome_lightning.tome.attention import chosen_kernels, size_channels
from tome_lightning.trainer.meter import time_unit

Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

HEAD = (
    f"{'tokens':>6}  {'way':<15}{'kernel':<10}{'first ms':>9}{'forward ms':>11}"
    f"{'with backward':>14}{'error':>10}"
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def none(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    with chosen_kernels(q.device):
        return F.scaled_dot_product_attention(q, k, v)


def mask(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    bias = size.log().to(q.dtype).transpose(1, 2).unsqueeze(1)
    with chosen_kernels(q.device):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def channels(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
    d = q.shape[-1]
    wide = size_channels(q, k, v, size)
    with chosen_kernels(q.device):
        return F.scaled_dot_product_attention(*wide, scale=1 / math.sqrt(d))[..., :d]


def on_cudnn(way: Way) -> Way:
    """The same on cuDNN's kernel, which raises where it has none."""

    def attend(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return way(q, k, v, size)

    return attend


def flex() -> Way:
    """FlexAttention, which wants to be compiled; it has no backward on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Any = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> Tensor:
        log = size[..., 0].log()

        def add(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + log[b, j]

        out: Tensor = compiled(q, k, v, score_mod=add)
        return out

    return attend


def ways(device: torch.device) -> dict[str, Way]:
    """What can be measured on a device."""
    found: dict[str, Way] = {"none": none, "mask": mask, "channels": channels}
    if device.type != "cuda":
        return found
    return (
        found | {f"{name}+cudnn": on_cudnn(way) for name, way in found.items()} | {"flex": flex()}
    )


def inputs(
    batch: int, heads: int, tokens: int, d: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random queries, keys, values ``[B, H, N, d]``, and sizes ``[B, N, 1]`` of 1 to 64 patches."""
    torch.manual_seed(0)
    qkv = torch.randn(3, batch, heads, tokens, d, device=device, dtype=dtype)
    q, k, v = (part.requires_grad_() for part in qkv.unbind(0))
    size = torch.exp(torch.rand(batch, tokens, 1, device=device) * math.log(64)).round()
    return q, k, v, size


@torch.no_grad()
def error(way: Way, q: Tensor, k: Tensor, v: Tensor, size: Tensor) -> float:
    """Largest difference from attention in float64 of the same rounded inputs."""
    exact = mask(q.double(), k.double(), v.double(), size.double())
    return float((way(q, k, v, size).double() - exact).abs().max())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m tome_lightning.commands.benchmark.attention", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16" if cuda else "float32")
    parser.add_argument("--batch", type=int, default=64 if cuda else 1)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--tokens", type=int, nargs="+", default=[197, 577, 1569])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    try:
        device = torch.device(options.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as reason:
        parser.error(f"--device {options.device} cannot be used: {reason}")
    print(HEAD)
    for tokens in options.tokens:
        shape = options.batch, options.heads, tokens, options.head_dim
        for line in _rows(inputs(*shape, DTYPES[options.dtype], device), options.rounds):
            print(f"{tokens:>6}  {line}", flush=True)


def _rows(tensors: tuple[Tensor, Tensor, Tensor, Tensor], rounds: int) -> list[str]:
    q, device = tensors[0], tensors[0].device
    grad = torch.randn_like(q)
    found = ways(device)

    def forward(way: Way) -> Callable[[], object]:
        return torch.no_grad()(lambda: way(*tensors))

    def both(way: Way) -> Callable[[], object]:
        return lambda: torch.autograd.grad(way(*tensors), tensors[:3], grad)

    lines = {}
    for name, way in list(found.items()):  # compiles, plans, and warms up
        try:
            first = time_unit(both(way), 1, device)
            kernel = profile_step(forward(way), device).attention
        except RuntimeError as reason:
            lines[name] = f"{name:<15}{' '.join(str(reason).split())[:60]}"
            del found[name]
        else:
            lines[name] = f"{name:<15}{kernel:<10}{first:>9.2f}"
    times = interleaved(
        [make(way) for make in (forward, both) for way in found.values()], device, rounds
    )
    for i, (name, way) in enumerate(found.items()):
        wrong = "" if name.startswith("none") else format(error(way, *tensors), ".1e")
        lines[name] += f"{times[i].ms:>11.2f}{times[i + len(found)].ms:>14.2f}{wrong:>10}"
    return list(lines.values())


if __name__ == "__main__":
    main()
