"""What test_sharding.py runs in two processes: ``python sharded_run.py FOLDER``.

Started twice with the environment that says which process it is; the first one writes what it saw to
``FOLDER/seen.pt``. Samples are dealt out in turn, so one process with batches of 8 sees at each step
what two see with batches of 4.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import TensorDataset

from datamodules.loader import EpochSampler, Loader
from tome_lightning import FineTune, Image, SingleLabel
from tome_lightning.sharding import NAMES, ShardingError

VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2}
EPOCHS, STEPS = 2, 3  # a run
BLOCK_RUNS = EPOCHS * STEPS * VIT["depth"]  # of one process, in training
WORLD = int(os.environ.get("WORLD_SIZE", "1"))  # read once: Lightning removes it after a run


class Toy(LightningDataModule):
    num_classes, class_names = 4, list("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 8 // WORLD

    def loader(self, seed: int, *views: int) -> Loader:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(8 * STEPS, *views, 3, 16, 16, generator=generator)
        data = TensorDataset(x, torch.arange(len(x)) % 4, torch.arange(len(x)))
        world, rank = self.trainer.world_size, self.trainer.global_rank
        sampler = EpochSampler(data, world, rank, shuffle=False)
        return Loader(data, batch_size=self.batch_size, sampler=sampler)

    def train_dataloader(self) -> Loader:
        return self.loader(1)

    def val_dataloader(self) -> Loader:
        return self.loader(2, 1)

    test_dataloader = predict_dataloader = val_dataloader


class Recorder(Callback):
    """Losses, block runs and, at the start, the groups and how the parameters lie."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.groups: list[dict[str, Any]] = []
        self.kinds: dict[str, str] = {}
        self.runs = 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        names = {id(p): name for name, p in pl_module.vit.named_parameters()}
        self.kinds = {name: type(p).__name__ for name, p in pl_module.vit.named_parameters()}
        for group in trainer.optimizers[0].param_groups:
            held = [names[id(p)] for p in group["params"]]
            told = {"lr_scale": group["lr_scale"], "weight_decay": group["weight_decay"]}
            self.groups.append({**told, "initial_lr": group["initial_lr"], "names": held})
        for block in pl_module.vit.blocks:
            block.mlp.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.runs += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))


def tiny(**settings: Any) -> FineTune:
    seed_everything(0, verbose=False)
    settings = {"vit": dict(VIT), "r": 4, "base_lr": 0.064, "warmup_epochs": 1} | settings
    return FineTune(Image(16, 4), SingleLabel(4), head_init_std=0.02, **settings)


def train(
    folder: Path,
    strategy: str,
    resume: Path | None = None,
    model: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> tuple[Trainer, dict[str, Any]]:
    """Fit, keeping ``FOLDER/epoch=0.ckpt`` and ``epoch=1.ckpt``; returns what was seen as well."""
    recorder, module = Recorder(), tiny(**(model or {}))
    keep = ModelCheckpoint(folder, "{epoch}", monitor=None, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu", devices=WORLD, strategy=strategy, max_epochs=EPOCHS, logger=False,
        callbacks=[recorder, keep, *callbacks], enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        **{"gradient_clip_val": 0.1} | settings,
    )  # fmt: skip
    trainer.fit(module, datamodule=Toy(), ckpt_path=resume, weights_only=True)
    seen = {name: getattr(recorder, name) for name in ("losses", "groups", "kinds", "runs")}
    seen["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return trainer, seen


def main(folder: Path) -> None:
    seen: dict[str, Any] = {}

    def run(name: str, strategy: str, **settings: Any) -> Trainer:
        trainer, seen[name] = train(folder / name, strategy, **settings)
        return trainer

    assert NAMES  # importing it is what registers them
    run("ddp", "ddp")
    trainer = run("fsdp2", "fsdp2")
    file = folder / "fsdp2" / "epoch=1.ckpt"
    (seen["tested"],) = trainer.test(tiny(), Toy(), file, verbose=False, weights_only=True)
    scores = trainer.predict(tiny(), Toy(), ckpt_path=file, weights_only=True)
    seen["predicted"] = torch.cat([batch["scores"] for batch in scores])
    # weights to start from, not a run to restore: no --ckpt_path
    (seen["started"],) = trainer.test(tiny(checkpoint=str(file)), Toy(), verbose=False)
    try:
        run("averaged", "fsdp2", callbacks=[EMAWeightAveraging()])
    except ShardingError as error:
        seen["refused"] = str(error)

    run("resumed", "fsdp2", resume=folder / "fsdp2" / "epoch=0.ckpt")
    run("ddp_to_fsdp2", "fsdp2", resume=folder / "ddp" / "epoch=0.ckpt")
    run("fsdp2_to_ddp", "ddp", resume=folder / "fsdp2" / "epoch=0.ckpt")

    run("shares", "fsdp2_sharded")
    run("from_shares", "fsdp2", resume=folder / "shares" / "epoch=0.ckpt")

    run("dense_paths", "fsdp2", model={"vit": VIT | {"drop_path_rate": 0.0}})
    run("recomputed", "fsdp2", model={"grad_checkpointing": True})
    frozen = {"model": {"freeze": "positions"}, "accumulate_grad_batches": 2}
    run("frozen_ddp", "ddp", **frozen)
    run("frozen", "fsdp2", **frozen)
    run("bfloat16_ddp", "ddp", precision="bf16-mixed")
    run("bfloat16", "fsdp2", precision="bf16-mixed")
    if trainer.is_global_zero:
        torch.save(seen, folder / "seen.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
