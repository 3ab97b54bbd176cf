"""FSDP2: every process holds a share of the weights, gradients and moments (experimental)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import (
    FSDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    StrategyRegistry,
)
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from tome_lightning.checkpoint_io import AtomicCheckpointIO
from tome_lightning.finetune import FineTune
from tome_lightning.tome.model import ToMeViT

# Last Lightning's other words for the first ones; None is its default.
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true", "32", "64", "bf16", "None")
METHODS = (
    "forward_state", "forward_features", "forward_head", "forward_intermediates", "forward_sources",
)  # fmt: skip
REST = "rest.ckpt"  # of a folder of shares: all that is not shared out


class ShardingError(ValueError):
    """A sharded run that cannot be: one line, what, got, why and the way out."""


class FSDP2Strategy(ModelParallelStrategy):
    """``--trainer.strategy fsdp2``: torch's ``fully_shard`` on every block and on the rest.

    All processes split the batch, as with ``ddp``, and give the same losses. A checkpoint is one file
    in the format of every other strategy, so a run may go on under any of them. Precision is that of
    the trainer: autocast rounds what it rounds elsewhere, and weights are gathered as they are kept.

    Args:
        save_distributed_checkpoint: Every process writes its share, to a folder instead of a file
            (``--trainer.strategy fsdp2_sharded``). ``consolidate`` makes one file of it.
        process_group_backend: ``nccl`` or ``gloo``; by default the device's.
        timeout: After which a process that waits for another gives up.

    Raises:
        ShardingError: At the start of a run, if its precision or a callback cannot be used.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    # ModelParallelStrategy restores a run after its setup, too late for hooks that rely on the order
    # of the other strategies; and it numbers the optimizer's parameters as the model does, not as its
    # groups do, so that layer-wise groups would get each other's moments. Here the whole weights are
    # restored before they are shared out, and these are as in ddp.
    restore_checkpoint_after_setup = False
    lightning_restore_optimizer = True
    setup = ParallelStrategy.setup
    lightning_module_state_dict = ParallelStrategy.lightning_module_state_dict
    optimizer_state = ParallelStrategy.optimizer_state

    def setup_environment(self) -> None:
        assert self.lightning_module is not None
        trainer = self.lightning_module.trainer
        check_strategy(self, str(self.root_device.type), trainer.precision, _callbacks(trainer))
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def _setup_model(self, model: nn.Module) -> nn.Module:
        if isinstance(model, FineTune):  # else it may do so once there are only shares to load into
            model._load_weights(str(getattr(model.trainer.state.fn, "value", "fit")))
        for vit in [module for module in model.modules() if isinstance(module, ToMeViT)]:
            shard(vit, self.device_mesh["data_parallel"])
        return model

    def setup_optimizers(self, trainer: Trainer) -> None:
        super().setup_optimizers(trainer)
        self._step_many_at_once()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        if Path(checkpoint_path).is_dir():
            return read_shares(Path(checkpoint_path))
        return super(ModelParallelStrategy, self).load_checkpoint(checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        weights = {
            name: _share(value, own.get(name)) for name, value in checkpoint["state_dict"].items()
        }
        self.lightning_module.load_state_dict(weights, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        pairs = zip(checkpoint["optimizer_states"], self.optimizers, strict=True)
        shared = {"optimizer_states": [_share_moments(state, own) for state, own in pairs]}
        super(ModelParallelStrategy, self).load_optimizer_state_dict(shared)
        self._step_many_at_once()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        if self._save_distributed_checkpoint:
            self._save_shares(checkpoint, Path(self.broadcast(filepath)))
            return
        whole = tree_map_only(DTensor, self._whole, checkpoint)  # every process takes part
        super(ModelParallelStrategy, self).save_checkpoint(whole, filepath, storage_options)

    def _whole(self, tensor: DTensor) -> Tensor | None:
        whole = tensor.full_tensor()
        return whole.cpu() if self.is_global_zero else None

    def _save_shares(self, checkpoint: dict[str, Any], folder: Path) -> None:
        part, files = folder.with_name(f".{folder.name}.part"), AtomicCheckpointIO()
        if self.is_global_zero:
            shutil.rmtree(part, ignore_errors=True)
        self.barrier()
        leaves, tree = tree_flatten(checkpoint)
        shares = {str(i): _rows(leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, DTensor)}
        name = f"share-{self.global_rank}-of-{self.world_size}.ckpt"
        files.save_checkpoint(shares, part / name)
        if self.is_global_zero:
            rest = [None if str(i) in shares else leaf for i, leaf in enumerate(leaves)]
            files.save_checkpoint(tree_unflatten(rest, tree), part / REST)
        failures = getattr(self.checkpoint_io, "failures", {})  # where the run looks for them
        failures.pop(folder, None)
        if not self.reduce_boolean_decision(not files.failures):
            failures[folder] = next(iter(files.failures.values()), "another process could not")
        elif self.is_global_zero:
            _replace(folder, part)
        self.barrier()

    def _step_many_at_once(self) -> None:
        # On CUDA torch does so by itself for plain parameters, for shares only when told.
        for optimizer in self.optimizers if self.root_device.type == "cuda" else ():
            for group in optimizer.param_groups:
                group["foreach"] = True


def check_strategy(
    strategy: Any, accelerator: Any, precision: Any = None, callbacks: Iterable[Any] = ()
) -> None:
    """Refuse a sharded run that cannot be, before its trainer is made.

    Args:
        strategy: Of the trainer: a name, an object, or the config (``class_path``) of one; those that
            do not shard are fine.
        accelerator: Of the trainer.
        precision: Of the trainer.
        callbacks: Of the trainer.

    Raises:
        ShardingError: For FSDP1; for a precision or a callback that FSDP2 cannot be used with.
    """
    named = strategy
    if not isinstance(strategy, str):  # an object, or a config that describes one
        named = getattr(strategy, "class_path", type(strategy).__name__).rpartition(".")[2]
    if named in (*FSDPStrategy.get_registered_strategies(), "FSDPStrategy"):
        raise ShardingError(
            f"trainer.strategy is {named} with accelerator {accelerator}: that is FSDP1, which runs "
            "on CUDA alone and mixes up the moments of layer-wise groups in its checkpoints. Use "
            "--trainer.strategy fsdp2, which shards on the CPU too, or ddp."
        )
    if named not in (*NAMES, "FSDP2Strategy"):
        return
    if str(precision) not in PRECISIONS:
        raise ShardingError(
            f"trainer.precision is {precision}, which fsdp2 does not do: float16 needs a loss scale that "
            f"shares agree on. Use one of {', '.join(PRECISIONS[:4])}, or --trainer.strategy ddp."
        )
    for callback in callbacks:
        if isinstance(callback, WeightAveraging):
            raise ShardingError(
                f"trainer.callbacks has {type(callback).__name__}, which keeps whole weights and "
                "cannot average shares of them. Leave it out, or use --trainer.strategy ddp."
            )


def _callbacks(trainer: Trainer) -> list[Any]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def shard(model: ToMeViT, mesh: DeviceMesh) -> None:
    """Shard a model's parameters over the processes of a mesh, in place; block by block.

    All processes start from the first one's weights. A model sharded already stays as it is.
    """
    if isinstance(model, FSDPModule):
        return
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, 0)
    blocks: Any = model.vit.blocks
    for block in blocks:
        fully_shard(block, mesh=mesh)
        # ToMeViT walks a block part by part, so the block's own forward is never called.
        block.with_weights = MethodType(_call, block)
        register_fsdp_forward_method(block, "with_weights")
    # Also after the last forward of an evaluation, what others see are shares, not whole weights.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for method in METHODS:
        register_fsdp_forward_method(model, method)


def _call(block: nn.Module, function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _share(value: Any, own: Any) -> Any:
    """This process's share of a whole tensor, laid out as its own."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor):
        return value
    value = value.to(own.device)
    # Every process has the whole tensor: nothing to send.
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


def _share_moments(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        number: {
            name: _share(value, parameters[number]) if _is_moment(value) else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": moments}


def _is_moment(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0  # the step is a number


def _rows(tensor: DTensor) -> Tensor:
    return (
        tensor.to_local().cpu().clone()
    )  # saved as it is, a view takes along what it is a view of


def header_file(path: Path) -> Path:
    """The file with a checkpoint's plain values: itself, or one in the folder that it is."""
    return path / REST if (path / REST).is_file() else path


def consolidate(folder: Path | str, file: Path | str) -> None:
    """Make one checkpoint file, as the other strategies write it, of a folder of shares.

    Raises:
        ShardingError: If a share is missing, or the file cannot be written.
        CheckpointFileError: If a file of the folder is damaged, or not safe.
    """
    files, file = AtomicCheckpointIO(), Path(file)
    files.save_checkpoint(read_shares(Path(folder)), file)
    if file in files.failures:
        raise ShardingError(f"{file} could not be written: {files.failures[file]}.")


def read_shares(folder: Path) -> dict[str, Any]:
    """The checkpoint that the processes of a run wrote their shares of; errors as ``consolidate``."""
    files = AtomicCheckpointIO()
    shares = [files.load_checkpoint(path, map_location="cpu") for path in _share_files(folder)]
    leaves, tree = tree_flatten(files.load_checkpoint(folder / REST, map_location="cpu"))
    for i in shares[0]:
        leaves[int(i)] = torch.cat([share[i] for share in shares])
    return tree_unflatten(leaves, tree)


def _share_files(folder: Path) -> list[Path]:
    found = {path.name for path in folder.glob("share-*")}
    expected = [f"share-{rank}-of-{len(found)}.ckpt" for rank in range(len(found))]
    if not found or found != set(expected):
        raise ShardingError(
            f"{folder} is no whole sharded checkpoint: it has {', '.join(sorted(found)) or 'no shares'}, "
            "not one share of each process. Name a folder that --trainer.strategy fsdp2_sharded wrote."
        )
    return [folder / name for name in expected]


def _replace(folder: Path, part: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)


NAMES = {"fsdp2": False, "fsdp2_sharded": True}  # and whether checkpoints are folders of shares
for _name, _sharded in NAMES.items():
    StrategyRegistry.register(
        _name,
        FSDP2Strategy,
        description="FSDP2 of every block (experimental)",
        save_distributed_checkpoint=_sharded,
    )
