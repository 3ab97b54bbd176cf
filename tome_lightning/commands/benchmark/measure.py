"""Dense and merged steps of one model, timed in turn on one set of weights and one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tome_lightning.commands.benchmark.profiling import StepProfile, profile_step
from tome_lightning.commands.benchmark.rows import Row, Settings, device_name
from tome_lightning.commands.benchmark.timing import Times, host_time, interleaved
from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.tome import ToMeViT, layer_plan, patch, token_counts
from tome_lightning.tome.attention import chosen_kernels
from tome_lightning.tome.macs import counted_macs, macs
from tome_lightning.trainer.lightning_internals import DYNAMO
from tome_lightning.trainer.meter import time_unit


def measure(
    loaded: LoadedModel,
    settings: Settings,
    batch: int,
    meanwhile: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Rows of the dense model, which is the stock timm model called directly, and of every r.

    All share weights, optimizer and batch; the learning rate is 0, so no step changes another's
    tokens. A variant that runs out of memory or does not compile has an ``error`` in its row.
    ``meanwhile`` gets the rows as far as they are known, when a variant has run and after each round.
    """
    device = settings.device
    vit = loaded.vit.to(device).train(settings.training)
    vit.set_grad_checkpointing(False)
    merged = [patch(vit, r=r, prop_attn=settings.prop_attn) for r in settings.r]
    rows = _rows(loaded, settings, batch, merged)
    vit.set_grad_checkpointing(settings.checkpointing)
    stepper = _Stepper(loaded, settings, batch)
    with _compiling(len(rows)):
        steps = [stepper.step(model) for model in (vit, *merged)]
        for i, step in enumerate(steps):
            rows[i] = _warmed_up(rows[i], step, stepper)
            if meanwhile is not None:
                meanwhile(rows[: i + 1])
        fine = [i for i, row in enumerate(rows) if row.error is None]

        def so_far(times: list[Times]) -> None:
            if meanwhile is not None:
                meanwhile(_with_times(rows, fine, times))

        try:
            times = interleaved([steps[i] for i in fine], device, settings.rounds, after=so_far)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            why = _why_failed(error)
            return [replace(row, error=row.error or why) for row in rows]
    return _with_times(rows, fine, times)


def _with_times(rows: Sequence[Row], fine: Sequence[int], times: Sequence[Times]) -> list[Row]:
    """The rows with the times of those that ran, at these places, compared with the dense one."""
    rows = list(rows)
    for i, measured in zip(fine, times, strict=True):
        rows[i] = _timed(rows[i], measured)
    return [_compared(row, rows[0].ms) for row in rows]


def launch_times(
    loaded: LoadedModel, settings: Settings, batch: int
) -> tuple[float, float | None, float] | None:
    """Milliseconds of a step of the model that merges most: to launch it, of its kernels, in all.

    Uncompiled, whatever the settings: to compile a graph for each batch size that is tried takes minutes.

    Returns:
        None where it runs out of memory.
    """
    device = settings.device
    settings = replace(settings, compile=False)
    vit = loaded.vit.to(device).train(settings.training)
    vit.set_grad_checkpointing(settings.checkpointing)
    most = max(
        (patch(vit, r=r, prop_attn=settings.prop_attn) for r in settings.r),
        key=lambda model: sum(model.plan()),
    )
    try:
        stepper = _Stepper(loaded, settings, batch)
        step = stepper.step(most)
        step()
        step()  # the optimizer's state is made at the end of the first
        device_ms = profile_step(step, device).device_ms if device.type == "cuda" else None
        times = stepper.host_ms(step) or 0.0, device_ms, time_unit(step, 1, device)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        _why_failed(error)
        torch.cuda.empty_cache()
        return None
    finally:
        vit.zero_grad(set_to_none=True)
    return times


class _Stepper:
    """One batch, one optimizer: makes the step that is timed out of a model."""

    def __init__(self, loaded: LoadedModel, settings: Settings, batch: int) -> None:
        assert loaded.task is not None
        task = loaded.task
        self.settings, self.task, self.vit = settings, task, loaded.vit
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(batch, *loaded.shape, generator=generator).to(settings.device)
        y = torch.randint(task.num_classes, (batch,), generator=generator)
        if task.multi_label:
            y = nn.functional.one_hot(y, task.num_classes)
        self.y = y.to(settings.device)
        if not settings.training:
            return
        trained = [p for p in loaded.vit.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
        self.scaler = torch.amp.GradScaler(
            settings.device.type, enabled=settings.dtype == "float16"
        )

    def step(self, model: nn.Module) -> Callable[[], None]:
        run: Any = model if isinstance(model, ToMeViT) else _on_chosen_kernels(model)
        if self.settings.compile:
            # dynamic=False: each variant has its own shapes, and one graph
            run = torch.compile(run, fullgraph=True, dynamic=False)
        return lambda: self._train(run) if self.settings.training else self._forward(run)

    def _autocast(self) -> torch.autocast:
        dtype = getattr(torch, self.settings.dtype)
        on = dtype is not torch.float32
        return torch.autocast(self.settings.device.type, dtype=dtype if on else None, enabled=on)

    def _forward(self, model: Callable[[Tensor], Tensor]) -> None:
        with torch.no_grad(), self._autocast():
            model(self.x)

    def _train(self, model: Callable[[Tensor], Tensor]) -> None:
        with self._autocast():
            loss = self.task.loss(model(self.x), self.y)
        self.optimizer.zero_grad()  # after the forward pass, as Lightning: memory counts both
        with chosen_kernels(self.x.device):  # of what the dense model recomputes
            self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def host_ms(self, step: Callable[[], None]) -> float | None:
        """What the host needs for it; None where a step waits for the device itself, as the scaler's."""
        waits = self.settings.training and self.settings.dtype == "float16"
        return None if waits else host_time(step, self.settings.device)

    @property
    def cycle_steps(self) -> int:
        return 2 if self.settings.training else 1

    def whole_cycle(self, step: Callable[[], None]) -> Callable[[], None]:
        """Steps that hold as much memory as one in the middle of a run, begun without gradients.

        Neither the profiler nor CUDA's peak less what was there before sees the release of older
        gradients: those of the last step have to be made within it (`drop_gradients` comes before).
        """

        def run() -> None:
            for _ in range(self.cycle_steps):
                step()

        return run

    def drop_gradients(self) -> None:
        self.vit.zero_grad(set_to_none=True)

    def kept_bytes(self) -> int:
        """Weights, buffers and optimizer state."""
        kept = [*self.vit.parameters(), *self.vit.buffers()]
        if self.settings.training:
            states = self.optimizer.state.values()
            kept += [v for state in states for v in state.values() if isinstance(v, Tensor)]
        return _bytes(kept)


def _on_chosen_kernels(vit: nn.Module) -> Callable[[Tensor], Tensor]:
    """The dense model on the attention kernels that the merging one runs on."""

    def run(x: Tensor) -> Tensor:
        with chosen_kernels(x.device):
            out: Tensor = vit(x)
        return out

    return run


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _rows(loaded: LoadedModel, settings: Settings, batch: int, merged: list[ToMeViT]) -> list[Row]:
    """All that is known before anything is run; the first row is the dense model's."""
    tokens = loaded.tokens(settings.training)
    dense = loaded.dense
    nothing = (0,) * dense.depth
    full = macs(dense, nothing, tokens)
    shared = Row(
        variant="dense", model=loaded.name, img_size=loaded.shape[-1],
        frames=getattr(loaded.input, "frames", None), depth=dense.depth, r=0, mode=settings.mode,
        device=settings.device.type, device_name=device_name(settings.device),
        dtype=settings.dtype, compile=settings.compile, prop_attn=settings.prop_attn,
        checkpointing=settings.checkpointing, batch=batch, tokens_in=tokens, tokens_out=tokens,
        torch=str(torch.__version__), macs=full.total, merging_macs=0,
        counted_macs=counted_macs(loaded.vit, loaded.shape), mac_ratio=1.0, token_ratio=1.0,
    )  # fmt: skip
    rows = [shared]
    for model in merged:
        plan = layer_plan(model.r, model.depth, tokens, model.num_prefix)
        counts = token_counts(plan, tokens)
        cost = macs(model, plan, tokens)
        used = sum(counts[:-1]) + sum(counts[1:])
        rows.append(
            replace(
                shared, variant="tome", r=model.r, tokens_out=counts[-1], macs=cost.total,
                merging_macs=cost.merging, mac_ratio=full.total / cost.total,
                counted_macs=counted_macs(patch(loaded.vit, r=model.r), loaded.shape),
                token_ratio=used / (2 * tokens * model.depth),
            )
        )  # fmt: skip
    return rows


def _warmed_up(row: Row, step: Callable[[], None], stepper: _Stepper) -> Row:
    """Run a variant for the first times: compilation, optimizer state, then memory and kernel."""
    try:
        step()
        cycle = stepper.whole_cycle(step)
        profiled = profile_step(cycle, stepper.settings.device, clear=stepper.drop_gradients)
        host_ms = stepper.host_ms(step)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        why = _why_failed(error)
    else:
        return replace(_with_memory(row, profiled, stepper), host_ms=host_ms)
    stepper.drop_gradients()
    if stepper.settings.device.type == "cuda":
        torch.cuda.empty_cache()
    return replace(row, error=why)


def _with_memory(row: Row, profiled: StepProfile, stepper: _Stepper) -> Row:
    # beyond weights and optimizer state
    held = profiled.peak_bytes + _bytes((stepper.x, stepper.y))
    gradients = _bytes(p.grad for p in stepper.vit.parameters() if p.grad is not None)
    device_ms, steps = profiled.device_ms, stepper.cycle_steps
    return replace(
        row,
        device_ms=None if device_ms is None else device_ms / steps,
        peak_mem_mib=(stepper.kept_bytes() + held) / 2**20,
        activation_mem_mib=(held - gradients) / 2**20,
        attention=profiled.attention,
        kernel=profiled.kernel,
    )


def _timed(row: Row, times: Times) -> Row:
    return replace(
        row, ms=times.ms, ms_min=times.ms_min, ms_max=times.ms_max, rounds=times.rounds,
        samples_per_s=1000 * row.batch / times.ms,
    )  # fmt: skip


def _compared(row: Row, dense_ms: float | None) -> Row:
    if row.ms is None or dense_ms is None:
        return row
    speedup = dense_ms / row.ms
    return replace(row, speedup=speedup, realised=speedup / row.mac_ratio)


def _why_failed(error: Exception) -> str:
    """One line for what a variant may fail of; anything else is our mistake and raised."""
    words = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in words:
        return f"out of memory: {words[:160]}"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"does not compile: {words[:160]}"
    raise error


@contextmanager
def _compiling(variants: int) -> Iterator[None]:
    """Let torch compile a graph for each variant, and drop those of another batch size."""
    torch.compiler.reset()
    with DYNAMO.patch(recompile_limit=max(8, 2 * variants)):
        yield
