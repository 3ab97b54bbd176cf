"""What a run is about to do, in numbers: a screen when it starts, and the same in ``summary.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer

from datamodules.workers import usable_cores
from tome_lightning.run.environment import cpu_model
from tome_lightning.trainer.batches import effective_batch, this_run
from tome_lightning.trainer.pace import accumulation_scheduler, steps_to_come

if TYPE_CHECKING:
    from tome_lightning.finetune import FineTune


def run_facts(
    trainer: Trainer, module: FineTune, plan: Sequence[int], train_plan: Sequence[int]
) -> dict[str, Any]:
    """Plain values that JSON takes.

    Args:
        trainer: Of a run whose strategy is set up.
        module: What it trains or measures.
        plan: Tokens that each block merges in evaluation.
        train_plan: The same in training.
    """
    model = module.model
    fits = trainer.state.fn == "fit"
    facts: dict[str, Any] = {
        "model": _model_words(module),
        "parameters": sum(p.numel() for p in module.vit.parameters()),
        "weights": _weights_words(module, trainer),
        "macs": _macs(module, plan, model.num_tokens),
        "samples": _samples(trainer),
        "device": device_name(trainer.strategy.root_device),
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
    }
    if fits:
        facts["train_macs"] = _macs(module, train_plan, model.train_tokens)
        facts["effective_batch"] = effective_batch(trainer) or None
        known = facts["effective_batch"] or module.hparams["lr"] is not None
        facts["peak_lr"] = module.peak_lr() if known else None
        facts["steps_planned"], facts["epochs"] = _length(trainer, module)
        if (scheduler := accumulation_scheduler(trainer)) is not None:
            facts["accumulate"] = {str(at): scheduler.scheduling[at] for at in scheduler.epochs}
    return facts


def screen(facts: dict[str, Any]) -> str:
    """The facts of a run as the lines that it starts with."""
    rows = {"model": facts["model"], "weights": facts["weights"]}
    rows["MACs"] = _macs_words(facts["macs"], "a sample")
    train = facts.get("train_macs")
    if train and train != facts["macs"]:
        rows["MACs"] += f" in evaluation, {_macs_words(train, 'in training')}"
    samples = ", ".join(f"{count:,} to {_USE[split]}" for split, count in facts["samples"].items())
    steps = facts.get("steps_planned")
    rows["data"] = samples or "of another data module"
    if steps:
        rows["data"] += f"; {steps:,} steps of {_batch_words(facts)} samples"
        rows["data"] += f" in {facts['epochs']} epochs" if facts["epochs"] else ""
    many = f"{facts['processes']} x " if facts["processes"] > 1 else ""
    rows["device"] = f"{many}{facts['device']}, {facts['precision']}"
    return "\n".join(f"  {name:<8} {words}" for name, words in rows.items())


_USE = {"train": "train", "val": "validate", "test": "test", "predict": "predict"}


def device_name(device: torch.device) -> str:
    """A device as a user knows it: the GPU's name, or the processor and its cores."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "cpu":
        return f"CPU ({cpu_model() or 'unknown'}, {len(usable_cores())} cores)"
    return str(device)


def _model_words(module: FineTune) -> str:
    vit: Any = module.vit
    size = "x".join(map(str, module.sample_shape))
    heads = vit.blocks[0].attn.num_heads
    return (
        f"{type(module.input).__name__} {size} -> ViT of {len(vit.blocks)} blocks, {vit.embed_dim} wide, "
        f"{heads} heads -> {type(module.task).__name__}, {module.task.num_classes} classes"
    )


def _weights_words(module: FineTune, trainer: Trainer) -> str:
    if trainer.ckpt_path:
        if trainer.state.fn != "fit":
            return str(trainer.ckpt_path)
        start, saved = module.hparams["checkpoint"] or "random", module.resume.saved
        place = f" at step {saved.steps}" if saved is not None else ""
        return f"{start}; the run goes on from {trainer.ckpt_path}{place}"
    report = module.load_report
    if report is not None:
        fresh = [name for name in report.new if not name.startswith("head")]
        new = f", {len(fresh)} weights new besides the head" if fresh else ""
        return f"{report.source} ({report.family}, {report.kind}){new}"
    return str(module.hparams["checkpoint"] or "random")


def _macs(module: FineTune, plan: Sequence[int], num_tokens: int) -> dict[str, float]:
    from tome_lightning.tome.macs import macs

    dense = macs(module.model, [0] * len(plan), num_tokens).total
    merged = macs(module.model, plan, num_tokens).total
    return {"dense": dense, "merged": merged, "ratio": round(dense / merged, 4)}


def _macs_words(macs: dict[str, float], what: str) -> str:
    unit, name = (1e9, "G") if macs["dense"] >= 1e9 else (1e6, "M")
    dense, merged = (f"{macs[key] / unit:.1f} {name}" for key in ("dense", "merged"))
    if macs["dense"] == macs["merged"]:
        return f"{dense} {what}, dense"
    return f"{dense} {what} dense, {merged} merged: {macs['ratio']:.2f}x at most"


def _samples(trainer: Trainer) -> dict[str, int]:
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "samples"):
        return {}
    verb = "" if trainer.state.fn is None else str(trainer.state.fn.value)
    if verb == "predict":
        return {"predict": len(data.samples("test"))}
    splits = {"fit": ("train", "val"), "validate": ("val",)}.get(verb, ("test",))
    return {split: len(data.samples(split)) for split in splits}


def _batch_words(facts: dict[str, Any]) -> str:
    """Samples of an optimizer step, where the accumulation changes from the epochs on that it does in."""
    first, accumulate = facts["effective_batch"], facts.get("accumulate")
    if not first or not accumulate:
        return str(first or "?")
    one = first // accumulate["0"]
    later = [f"{one * n} from epoch {epoch} on" for epoch, n in accumulate.items() if epoch != "0"]
    return ", ".join([str(first), *later])


def _length(trainer: Trainer, module: FineTune) -> tuple[int | None, int | None]:
    """Optimizer steps of the whole run, and epochs where these end it; None for what is not known.

    Not the trainer's own estimate: that would make a loader here, and drop the place that a resumed one
    goes on from.
    """
    epochs, limit = trainer.max_epochs, trainer.max_steps
    batches = this_run(trainer, 0).epoch_batches
    if not batches or epochs is None or epochs < 0:
        return (limit if limit >= 0 else None), None
    at = module.resume.begun_at
    place = (at.epoch, at.batches, at.steps) if at is not None else ()
    steps = steps_to_come(trainer, batches, *place)
    return (steps, None) if steps == limit else (steps, epochs)
