"""`benchmark()`: what the verb does, from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tome_lightning.commands.benchmark.measure import launch_times, measure
from tome_lightning.commands.benchmark.rows import Mode, Row, Settings, waits_for_launches
from tome_lightning.commands.benchmark.timm_model import from_timm
from tome_lightning.commands.loaded import LoadedModel, from_recipe
from tome_lightning.errors import UsageError
from tome_lightning.run.overrides import words_of
from tome_lightning.tome import R, layer_plan
from tome_lightning.tome.plan import check_possible

MODES = ("forward", "train")
DTYPES = ("float32", "bfloat16", "float16")
BATCH = {"cuda": 64, "cpu": 8}  # where neither the user nor a recipe says; the least on a GPU
MOST = 1024  # on a GPU
# Share of a step's time within which the host has to launch it: well below `LAUNCH_BOUND`.
BUSY = 0.7


def benchmark(
    model: str | None = None,
    *,
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    r: R | Sequence[R] | None = None,
    batch_size: int | Sequence[int] | None = None,
    img_size: int | None = None,
    frames: int | None = None,
    depth: int | None = None,
    mode: Mode = "forward",
    dtype: str | None = None,
    compile: bool = False,
    prop_attn: bool | None = None,
    checkpointing: bool | None = None,
    device: str = "auto",
    rounds: int | None = None,
) -> list[Row]:
    """Time a dense ViT against itself with Token Merging.

    Args:
        model: A timm ViT's name, or give a recipe.
        recipe: A recipe's name or file; its model, with random weights.
        overrides: Dotted options of the recipe, ``{"model.vit.depth": 8}``.
        r: One r (see ``tome.R``; a list of ints is one value a block) or a tuple of several.
        batch_size: One or several; each gives the rows of all variants.
        img_size: Of a timm model: pixels a side.
        frames: Of a timm model: makes it a video model.
        depth: Of a timm model: only its first blocks.
        mode: ``forward`` or ``train`` (forward, backward and AdamW).
        dtype: ``float32``, ``bfloat16``, ``float16``; by default the recipe's, else float32.
        compile: Compile dense and merged models.
        prop_attn: By default the recipe's, else off.
        checkpointing: By default the recipe's, else off.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        rounds: Timed rounds; by default as many as some 20 seconds a variant allow.

    Returns:
        For each batch size the dense row, then one for each r.

    Raises:
        ValueError: For what the command would refuse, with the same message.
    """
    where = find_device(device)
    if recipe is not None:
        loaded = from_recipe(["--recipe", recipe, *words_of(overrides)])
    elif model is not None:
        loaded = from_timm(model, img_size, frames, depth)
    else:
        raise UsageError("benchmark needs --model NAME (timm's) or --recipe NAME|FILE.")
    rs = None if r is None else r if isinstance(r, tuple) else (r,)
    batches = [batch_size] if isinstance(batch_size, int) else batch_size
    settings = resolve_settings(
        loaded, where, rs, mode, dtype, compile=compile, prop_attn=prop_attn,
        checkpointing=checkpointing, rounds=rounds,
    )  # fmt: skip
    return run(loaded, settings, resolve_batches(loaded, settings, batches))


def run(
    loaded: LoadedModel,
    settings: Settings,
    batches: Sequence[int],
    after: Callable[[list[Row]], None] | None = None,
    meanwhile: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Measure at every batch size; ``after`` gets all rows so far when one is done, ``meanwhile`` gets
    them also as they come: of the batch size being measured, with the rounds that they have had."""
    rows: list[Row] = []

    def partly(current: list[Row]) -> None:
        if meanwhile is not None:
            meanwhile([*rows, *current])

    for batch in batches:
        rows += measure(loaded, settings, batch, partly)
        if after is not None:
            after(rows)
    return rows


def resolve_settings(
    loaded: LoadedModel,
    device: torch.device,
    r: Sequence[R] | None = None,
    mode: str = "forward",
    dtype: str | None = None,
    *,
    compile: bool = False,
    prop_attn: bool | None = None,
    checkpointing: bool | None = None,
    rounds: int | None = None,
) -> Settings:
    """Fill in what was not given from the model and its recipe, and refuse what cannot be measured.

    Raises:
        UsageError: For a mode or dtype there is not, or one that the device has not.
        PlanError: For an r that the model has not the tokens for.
    """
    if mode not in MODES:
        raise UsageError(f"--mode is {' or '.join(MODES)}, got {mode!r}.")
    if rounds is not None and rounds < 1:
        raise UsageError(f"--rounds is 1 or more, got {rounds}.")
    training = mode == "train"
    model, tokens = loaded.dense, loaded.tokens(training)
    rs = tuple(r) if r is not None else (default_r(loaded, training),)
    for one in rs:
        check_possible(one, model.depth, tokens, model.num_prefix)
    if not rs or not all(any(_plan(loaded, one, tokens)) for one in rs):
        raise UsageError(
            "--r is what is compared with the dense model, so each r merges something."
        )
    recompute = loaded.vit.grad_checkpointing if checkpointing is None else checkpointing
    return Settings(
        r=rs,
        mode="train" if training else "forward",
        dtype=_dtype(dtype or loaded.dtype or "float32", device, given=dtype is not None),
        device=device,
        compile=compile,
        prop_attn=loaded.model.prop_attn if prop_attn is None else prop_attn,
        checkpointing=recompute and training,
        rounds=rounds,
    )


def default_r(loaded: LoadedModel, training: bool) -> R:
    """The recipe's own r; else the constant one that merges nearly all patches by the last block.

    Patches / blocks gives what ToMe's authors use: 16 for ViT-B/16 and 8 for ViT-L/16 at 224 pixels,
    65 for a video ViT-L.
    """
    model = loaded.model
    if any(model.plan()):
        return model.r
    return max(1, (loaded.tokens(training) - model.num_prefix) // model.depth)


def resolve_batches(
    loaded: LoadedModel, settings: Settings, given: Sequence[int] | None
) -> list[int]:
    """The batch sizes: given, the recipe's, 8 on a CPU, or one that keeps a GPU busy, 64 or more.

    Raises:
        UsageError: For one below 1.
    """
    batches = list(given or ())
    if not batches and loaded.batch_size is None and settings.device.type == "cuda":
        batches = [busy_batch(lambda batch: launch_times(loaded, settings, batch))]
    batches = batches or [loaded.batch_size or BATCH["cpu"]]
    if min(batches) < 1:
        raise UsageError(f"--batch-size is 1 or more, got {min(batches)}.")
    return batches


def busy_batch(times: Callable[[int], tuple[float, float | None, float] | None]) -> int:
    """The smallest batch, from 64 by doubling, at which a GPU does not wait for launches.

    Args:
        times: Of a batch size what the host needs to launch a step, what its kernels take and what
            the step takes, milliseconds; None where it does not fit.

    Returns:
        The largest one that fits, at most 1024, where it waits at all of them.
    """
    batch = BATCH["cuda"]
    while (now := times(batch)) is not None and waits_for_launches(*now, BUSY) and batch < MOST:
        batch *= 2
    return batch if now is not None else max(batch // 2, BATCH["cuda"])


def find_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one.

    Raises:
        UsageError: For a device that is not there or that this does not measure.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if gpus else torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"--device is auto, cpu, cuda or cuda:1, got {name!r}.")
    if kind == "cpu":
        return torch.device("cpu")
    if not gpus:
        raise UsageError(
            f"--device {name}: torch {torch.__version__} sees no CUDA device. Use --device cpu."
        )
    if index and int(index) >= gpus:
        raise UsageError(f"--device {name}: there are {gpus} CUDA devices, counted from 0.")
    return torch.device("cuda", int(index) if index else torch.cuda.current_device())


def _plan(loaded: LoadedModel, r: R, tokens: int) -> tuple[int, ...]:
    model = loaded.dense
    return layer_plan(r, model.depth, tokens, model.num_prefix)


def _dtype(name: str, device: torch.device, given: bool) -> str:
    if name not in DTYPES:
        raise UsageError(f"--dtype is {', '.join(DTYPES)}, got {name!r}.")
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT")
    if not given and slow:
        return "float32"  # as fit does with a recipe for GPUs
    if name == "bfloat16" and device.type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise UsageError(
                    f"{torch.cuda.get_device_name(device)} has no bfloat16. Use --dtype float16."
                )
    return name
