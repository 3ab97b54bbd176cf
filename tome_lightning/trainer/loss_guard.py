"""A loss that is no number: found at its step, on all processes, with what led to it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils import get_total_norm

from tome_lightning.errors import UserError
from tome_lightning.trainer.agreement import Agreement, of_all
from tome_lightning.trainer.checkpoint_file import write_text

REPORT = "non_finite.json"
SHOWN = 8  # sample ids in a message; the file has them all
PATIENCE = 10  # steps in a row that may be left out before the weights must be at fault


class NonFiniteLossError(UserError):
    """The loss is NaN or infinite: one line, what, where, and the way out."""

    of_all = True


class Facts(NamedTuple):
    """Where a step was.

    Attributes:
        step: Optimizer steps before it.
        epoch: Its epoch.
        r: Tokens merged per block.
        lr: Largest learning rate of all groups.
    """

    step: int
    epoch: int
    r: Any
    lr: float


@dataclass
class _Step:
    """Losses ``[]`` and sample ids ``[B]`` of the batches of one optimizer step."""

    losses: list[Tensor] = field(default_factory=list)
    ids: list[Tensor] = field(default_factory=list)
    facts: Facts | None = None


class LossGuard(Callback):
    """Looks at the losses of each optimizer step before it is taken, and writes ``non_finite.json``.

    ``stop`` waits for no device: on CUDA the answer is read one step later. ``skip`` has to know before
    the step, so it waits, and looks at the gradients as well.

    Args:
        action: ``stop`` ends the run, ``skip`` leaves the step out, on all processes alike.
    """

    def __init__(self, action: Literal["stop", "skip"]) -> None:
        self.action = action
        self.skipped = 0
        self._in_a_row = 0
        self._agreement = Agreement()
        self._now, self._before = _Step(), _Step()

    def add(self, loss: Tensor, ids: Tensor) -> None:
        """Remember the loss of a batch and whose it was."""
        self._now.losses.append(loss.detach())
        self._now.ids.append(ids)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now = _Step()  # not those of a search before training, which calls no callback

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        module: Any = pl_module
        facts = Facts(
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            r=module.model.r,
            lr=max(group["lr"] for group in optimizer.param_groups),
        )
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self.look(optimizer, facts, Path(trainer.default_root_dir), scaled)

    def look(
        self, optimizer: torch.optim.Optimizer, facts: Facts, folder: Path, scaled: bool
    ) -> None:
        """Look at what was added since the last step; called by all processes before a step.

        Args:
            optimizer: Its gradients are set to None where a step is left out, so that it does nothing.
            facts: Where the run stands.
            folder: Where ``non_finite.json`` is written.
            scaled: Whether infinite gradients are ordinary, as with a float16 loss scaler.

        Raises:
            NonFiniteLossError: On all processes, to stop.
        """
        step, self._now = self._now, _Step()
        step.facts = facts
        bad = ~torch.stack(step.losses).isfinite().all()
        if self.action == "skip":
            self._look_and_skip(step, bad, optimizer, folder, scaled)
            return
        late = bad.device.type == "cuda"
        checked, self._before = (self._before if late else step), step
        if self._agreement.exchange(bad[None])[0]:
            self._stop(checked, folder)

    def check_last(self, folder: Path) -> None:
        """Check the last step before a checkpoint is written, so that no file has spoiled weights."""
        if any(self._agreement.finish()):
            self._stop(self._before, folder)

    def _look_and_skip(
        self,
        step: _Step,
        bad: Tensor,
        optimizer: torch.optim.Optimizer,
        folder: Path,
        scaled: bool,
    ) -> None:
        if not scaled:
            gradients = [p.grad for g in optimizer.param_groups for p in g["params"]]
            norm: Any = get_total_norm([grad for grad in gradients if grad is not None])
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            bad = bad | ~norm.isfinite()
        if not self._agreement.exchange(bad[None], wait=True)[0]:
            self._in_a_row = 0
            return
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row > PATIENCE:
            self._stop(step, folder, f", the {self._in_a_row}th step in a row")
        optimizer.zero_grad(set_to_none=True)
        told = self._write(step, folder)
        rank_zero_warn(f"{told}. This step is left out, {self.skipped} so far; see {REPORT}")

    def _stop(self, step: _Step, folder: Path, more: str = "") -> None:
        raise NonFiniteLossError(
            f"{self._write(step, folder)}{more}; {folder / REPORT} has the rest. Try a lower "
            "learning rate, --trainer.gradient_clip_val 5, --trainer.precision 32-true, or "
            "--model.non_finite skip, or leave the samples out (data.exclude), and go on from the last "
            "checkpoint with --resume."
        )

    def _write(self, step: _Step, folder: Path) -> str:
        """Write what all processes know of a step; returns the one line that says it."""
        assert step.facts is not None
        own = [
            {"process": _rank(), "loss": str(float(loss)), "ids": ids.tolist()}
            for loss, ids in zip(step.losses, step.ids, strict=True)
        ]
        rows: list[Any] = [row for share in of_all(own) for row in share]
        guilty = [row for row in rows if not torch.tensor(float(row["loss"])).isfinite()] or rows
        if _rank() == 0:
            record = step.facts._asdict() | {"skipped": self.skipped, "batches": guilty}
            write_text(folder / REPORT, json.dumps(record, indent=2) + "\n")
        first, facts = guilty[0], step.facts
        ids = ", ".join(map(str, first["ids"][:SHOWN]))
        more = f" and {len(first['ids']) - SHOWN} more" if len(first["ids"]) > SHOWN else ""
        what = f"loss {first['loss']}" if guilty is not rows else "gradients are not finite"
        return (
            f"{what} at optimizer step {facts.step}, epoch {facts.epoch}, r={facts.r}, learning rate "
            f"{facts.lr:.3g}, process {first['process']}, samples {ids}{more}"
        )


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
