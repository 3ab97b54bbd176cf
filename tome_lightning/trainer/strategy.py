"""Which strategies of Lightning a run may have, and options that DDP is given."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from tome_lightning.errors import UsageError
from tome_lightning.trainer.lightning_internals import ddp_options, has_batch_norm

SHARDED = (FSDPStrategy, ModelParallelStrategy)


def check_strategy(strategy: Any) -> None:
    """Refuse a strategy that shards weights, before anything starts.

    Args:
        strategy: Of the trainer: a name, an object, or the config (``class_path``) of one. A class of the
            user's own is theirs to answer for.

    Raises:
        UsageError: For Lightning's FSDP and model-parallel strategies, under whatever name.
    """
    path = strategy
    if not isinstance(strategy, str):
        kind = type(strategy)
        own = f"{kind.__module__}.{kind.__qualname__}"
        path = getattr(strategy, "class_path", None) or own
    module, _, name = path.rpartition(".")
    ours = not module or module.startswith("lightning.")
    if ours and (name.startswith("fsdp") or name in [kind.__name__ for kind in SHARDED]):
        raise UsageError(
            f"trainer.strategy is {name}, which shares the weights out over the processes: that is "
            "not supported, and no ViT needs it (weights, gradients and AdamW of a ViT-H take 10 GB "
            "under ddp). Use --trainer.strategy ddp; where activations do not fit, "
            "--model.grad_checkpointing true."
        )


def spare_ddp(strategy: Any, module: nn.Module) -> None:
    """Let DDP hold gradients in its buckets alone, not a second time (1.2 GB for a ViT-L), and send
    no constants: VideoMAE's position table is a buffer of 6 MB, which it would send before each forward.

    Args:
        strategy: Of a trainer that has not started. A user's own ``gradient_as_bucket_view`` and
            ``broadcast_buffers`` hold.
        module: What is trained; buffers that a batch norm changes are sent as ever.
    """
    if not isinstance(strategy, DDPStrategy):
        return
    options = ddp_options(strategy)
    options.setdefault("gradient_as_bucket_view", True)
    if not has_batch_norm(module):
        options.setdefault("broadcast_buffers", False)
