"""The same pictures of a few validation samples, each epoch, in TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tome_lightning.callbacks import as_finetune
from tome_lightning.commands.visualize.groups import Groups, trace_groups
from tome_lightning.commands.visualize.pictures import draw
from tome_lightning.commands.visualize.reading import Example, example
from tome_lightning.inputs import Spectrogram
from tome_lightning.tome import R

if TYPE_CHECKING:
    from tome_lightning.finetune import FineTune


class GroupPictures(Callback):
    """Logs in each validation which patches of a few samples became one token.

    They are spread evenly over the validation data, whose classes often follow each other, and are
    always the same. Nothing of the run changes: they are read once, beside the loader; r, mode and
    random numbers are as before.

    Args:
        samples: How many; of a clip each costs a page of frames.
        r: Tokens merged per block; that of evaluation by default.
        every_n_epochs: Epochs from one picture to the next.
        tag: Name in TensorBoard.
    """

    def __init__(
        self,
        samples: int = 4,
        r: int | list[int] | dict[str, int | float] | None = None,
        every_n_epochs: int = 1,
        tag: str = "tome/groups",
    ) -> None:
        if samples < 1 or every_n_epochs < 1:
            raise ValueError(
                f"GroupPictures: samples and every_n_epochs are 1 or more, got {samples} and "
                f"{every_n_epochs}."
            )
        self.samples = samples
        self.r: R | None = r
        self.every_n_epochs = every_n_epochs
        self.tag = tag
        self._examples: list[Example] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.r is not None:
            as_finetune(pl_module).check_r(self.r)

    # Not at the validation's end: averaged weights and r of evaluation may have gone by then.
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        boards = [log for log in trainer.loggers if isinstance(log, TensorBoardLogger)]
        due = batch_idx == dataloader_idx == 0 and trainer.current_epoch % self.every_n_epochs == 0
        if trainer.sanity_checking or not boards or not due:
            return
        if not trainer.is_global_zero:
            return
        module = as_finetune(pl_module)
        if self._examples is None:
            self._examples = self._read(trainer, module)
        if not self._examples:
            return
        groups = self._groups(trainer, module, self._examples)
        page = np.asarray(draw(self._examples, groups, module.input))
        for log in boards:
            log.experiment.add_image(self.tag, page, trainer.global_step, dataformats="HWC")

    def _groups(
        self, trainer: Trainer, module: FineTune, examples: list[Example]
    ) -> list[list[Groups]]:
        model = module.model
        r = model.r if self.r is None else self.r
        modes = {part: part.training for part in model.modules()}
        model.eval()
        try:
            x = torch.stack([example.x for example in examples]).to(module.device)
            with trainer.precision_plugin.forward_context():
                return trace_groups(model, trainer.precision_plugin.convert_input(x), [r])
        finally:
            for part, mode in modes.items():
                part.training = mode

    def _read(self, trainer: Trainer, module: Any) -> list[Example]:
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "samples"):
            return []
        samples = data.samples("val")
        examples = []
        count = min(self.samples, len(samples))
        for index in (i * len(samples) // count for i in range(count)):
            views, label, _ = samples[index]
            x: Tensor = data.prepare(views[None])[0] if views.dtype == torch.uint8 else views
            if tuple(x[0].shape) != module.sample_shape:
                rank_zero_warn(
                    f"GroupPictures draws nothing: samples are {tuple(x[0].shape)}, the model's own size "
                    f"is {module.sample_shape}"
                )
                return []
            name = _label(label, module.class_names)
            examples.append(example(name, x[0], module.input, *_scale(data, module.input)))
        return examples


def _scale(data: Any, input: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    front = getattr(data, "front_end", None)
    if isinstance(input, Spectrogram) and front is not None:
        return (float(front.mean),), (float(front.std),)
    return data.on_device.mean, data.on_device.std


def _label(label: Any, names: list[str] | None) -> str:
    if isinstance(label, Tensor) and label.ndim:
        held = label.nonzero().flatten().tolist()
        return ", ".join(names[i] if names else str(i) for i in held)
    return str(names[int(label)] if names and int(label) >= 0 else int(label))
