"""Fine-tuning a ViT with Token Merging: the one LightningModule, whatever the modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities import rank_zero_info
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MetricCollection

import checkpoints
from tome_lightning import start
from tome_lightning.inputs import Input
from tome_lightning.metrics import Totals, counted
from tome_lightning.options import (
    FineTuneError,
    check_labels,
    check_numbers,
    check_pixels,
    check_shape,
    plain,
    rebuild,
)
from tome_lightning.tasks import Task
from tome_lightning.tome import patch
from tome_lightning.tome.plan import R, check_possible
from tome_lightning.trainer.averaging import averages_to_device, check_averaging, start_averages
from tome_lightning.trainer.batches import accumulate_to, check_accumulation, effective_batch
from tome_lightning.trainer.compiling import OneShape, compile_model, equal_parts
from tome_lightning.trainer.exact_resume import ExactResume
from tome_lightning.trainer.figures import at_each_batch, to_log
from tome_lightning.trainer.lightning_internals import callbacks_of
from tome_lightning.trainer.loss_guard import LossGuard
from tome_lightning.trainer.optimizer import REFERENCE_BATCH, adamw, describe, lr_factor
from tome_lightning.trainer.same_data import set_up_together

__all__ = ["FineTune", "FineTuneError"]


class FineTune(LightningModule):
    """Fine-tune a ViT whose tokens merge, from MAE (or other) weights.

    The options are in ``hparams``. A subclass whose `configure_callbacks` brings more returns these, too.

    Args:
        input: What the model reads.
        task: What it learns.
        vit: Further arguments of timm's VisionTransformer, e.g. ``embed_dim``, ``depth``,
            ``drop_path_rate``. Without ``global_pool`` the checkpoint's family decides.
        checkpoint: Weights to start from: a name in ``checkpoints.SOURCES``, a timm tag such as
            ``vit_base_patch16_224.mae``, ``hf-hub:OWNER/NAME``, a file, or a folder of the Hub; ``null``
            starts from random weights.
        inflate: Whether the checkpoint is of an image model whose weights a video model takes over,
            spread over time.
        weights: Which set of a checkpoint that holds two: ``live``, or ``ema``, their average over
            training (or its teacher). Without a value the live ones, of a run of ours its averages.
        r: Tokens merged per block: a number, a list, ``{r: 16, inflection: -1.0}`` or
            ``{keep: 0.9}``. 0 is the dense model.
        prop_attn: Whether attention counts merged tokens by their size; without a value the
            checkpoint's family decides.
        base_lr: Learning rate per 256 samples; multiplied by the effective batch / 256.
        lr: Peak learning rate as it is, instead of ``base_lr``.
        min_lr: Learning rate at the end of the cosine; not scaled by the batch.
        warmup_epochs: Length of the linear warm-up.
        lr_schedule: ``mae``: the rate of a step is that of the fractional epoch it is taken at;
            ``videomae``: a table over steps, with the peak at the last step of the warm-up.
        weight_decay: Of matrices; biases, norms, positions and prefix tokens have none.
        layer_decay: Learning rate of each layer relative to the next one; 1 switches it off.
        betas: Of AdamW.
        head_init_std: The head's weights start with this standard deviation, its biases at 0.
        freeze: ``positions`` leaves the position table as the checkpoint has it (AudioMAE);
            ``backbone`` trains only the head, and the ``fc_norm`` that average pooling puts before
            it (linear probe).
        grad_checkpointing: Recompute each block in the backward pass to save memory.
        effective_batch: Samples per optimizer step that the learning rate was found for; a run that
            has others is told so.
        non_finite: What a NaN or infinite loss does, on all processes alike: ``stop`` the run, or
            ``skip`` the step, which on CUDA costs waiting for the device at each step.
        compile: Compile the model with torch.compile: one graph for each r that is trained at and
            one for evaluation. The first step of each takes a minute or more.
    """

    def __init__(
        self,
        input: Input,
        task: Task,
        vit: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        inflate: bool = False,
        weights: Literal["live", "ema"] | None = None,
        r: int | list[int] | dict[str, int | float] = 0,
        prop_attn: bool | None = None,
        base_lr: float = 1e-3,
        lr: float | None = None,
        min_lr: float = 1e-6,
        warmup_epochs: float = 5,
        lr_schedule: Literal["mae", "videomae"] = "mae",
        weight_decay: float = 0.05,
        layer_decay: float = 0.75,
        betas: tuple[float, float] = (0.9, 0.999),
        head_init_std: float = 2e-5,
        freeze: Literal["none", "positions", "backbone"] = "none",
        grad_checkpointing: bool = False,
        effective_batch: int | None = None,
        non_finite: Literal["stop", "skip"] = "stop",
        compile: bool = False,
    ) -> None:
        given = locals()
        options = {name: given[name] for name in given if name not in ("self", "__class__")}
        super().__init__()
        self.input, self.task = rebuild(input, Input), rebuild(task, Task)
        check_numbers(options)
        # Plain builtins, classes by name: torch's safe loading takes them, and Lightning's own
        # record of hyper-parameters would lose which Input and which Task this is.
        parts = {"input": plain(self.input), "task": plain(self.task), "betas": list(betas)}
        self.save_hyperparameters(
            options | parts | start.resolve(self.input, options), logger=False
        )
        self.model = patch(
            self.input.build(num_classes=self.task.num_classes, **self.hparams["vit"]),
            r=r,
            prop_attn=self.hparams["prop_attn"],
        )
        if not self.vit.dynamic_img_size:  # else r depends on the data's size: see follow()
            self.check_r(r)
        self.model.set_grad_checkpointing(grad_checkpointing)
        start.freeze(self.vit, freeze)
        metrics = self.task.metrics()
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        # The loss as a metric: a rank whose last batch is padding alone has none to log.
        self.val_totals, self.test_totals = Totals(), Totals()

        self.run_config: dict[str, Any] = {}  # recipe and data of the run, for its checkpoints
        self.class_names: list[str] | None = None
        self.load_report: checkpoints.LoadReport | None = None
        self.keep_effective_batch = False  # whether batches are accumulated up to effective_batch
        self._has_weights = self._head_is_new = False
        # Whether the trainer restores a run's checkpoint. It knows only after setup(), where weights
        # should be loaded; who starts the trainer may know before.
        self.restoring: bool | None = None
        self.resume, self.guard = ExactResume(), LossGuard(non_finite)  # attached to each trainer
        self._run_in_evaluation = OneShape()

    @property
    def vit(self) -> VisionTransformer:
        """The stock timm model: its ``state_dict()`` loads strictly into a fresh one."""
        return self.model.vit

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: the input's, or of a model with ``dynamic_img_size`` the data's."""
        return (self.input.shape[0], *self.model.img_size)

    def follow(self, data: Any) -> None:
        """Take over the size of a data module's samples, where the model takes any; else do nothing.

        Tokens, multiply-accumulates and what r is held against are then those of that size.

        Raises:
            FineTuneError: The data's samples are none that the model reads.
            PlanError: r asks a block for more than half of all patch tokens.
        """
        if not self.vit.dynamic_img_size:
            return
        shape = getattr(data, "sample_shape", None) or self.input.shape
        check_shape(self.input, self.vit, shape)
        self.model.img_size = shape[1:]
        self.check_r(self.model.r)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, K]`` of samples ``[B, *sample_shape]``."""
        logits: Tensor = self.model(x)
        return logits

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Training loss of one batch, mixing included."""
        check_pixels(x)
        x, target = self.task.mix(x, y)
        return self.task.loss(self.model(x), target)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y, ids = batch
        loss = self.loss(x, y)
        self.guard.add(loss, ids)
        self.log("train/loss", to_log(self.trainer, loss), prog_bar=at_each_batch(self.trainer))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        loader = self.trainer.val_dataloaders
        self._evaluate(batch, batch_idx, loader, self.val_metrics, self.val_totals, "val")

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        loader = self.trainer.test_dataloaders
        self._evaluate(batch, batch_idx, loader, self.test_metrics, self.test_totals, "test")

    def predict_step(
        self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int
    ) -> dict[str, Tensor]:
        """Sample ids ``[B]`` and probabilities ``[B, K]``, averaged over views."""
        x, y, ids = batch
        rows = counted(y, batch_idx, self.trainer.predict_dataloaders, self.trainer)
        return {"id": ids[rows], "scores": self._scores(x)[rows].exp()}

    def _scores(self, x: Tensor) -> Tensor:
        check_pixels(x)
        # Some views at a time: thirty of a clip at once would not fit.
        data = getattr(self.trainer, "datamodule", None)
        at_once = max(len(x), getattr(data, "eval_batch_size", 0))
        # Rounded to bfloat16 many samples tie, and ties move a mAP.
        views = equal_parts(x.flatten(0, 1), at_once)
        run = self._run_in_evaluation
        logits = [run(self.model, some, autocast_head=False) for some in views]
        return self.task.scores(torch.cat(logits).unflatten(0, x.shape[:2]))

    def _evaluate(
        self,
        batch: tuple[Tensor, Tensor, Tensor],
        batch_idx: int,
        loader: Any,
        metrics: MetricCollection,
        totals: Totals,
        stage: str,
    ) -> None:
        x, y, _ = batch
        rows = counted(y, batch_idx, loader, self.trainer)
        scores, y = self._scores(x)[rows], y[rows]
        if self.trainer.sanity_checking:  # a mAP of two batches says nothing
            return
        if len(y):
            metrics.update(scores, y)
            totals.loss.update(self.task.eval_loss(scores, y), weight=len(y))
            totals.samples.update(len(y))
        self.log(f"{stage}/loss", totals.loss, batch_size=1)
        self.log(f"{stage}/samples", totals.samples, batch_size=1)
        self.log_dict(metrics, prog_bar=True, batch_size=1)

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and hasattr(data, "num_classes"):
            if self.class_names is None:
                self.class_names = list(data.class_names)
            self.task.check(data.num_classes, data.batch_size if stage == "fit" else 2)
            check_labels(self.task, getattr(data, "multi_label", False))
        check_shape(self.input, self.vit, getattr(data, "sample_shape", None))
        self.follow(data)
        if stage == "fit":
            if self.keep_effective_batch:
                accumulate_to(self.trainer, self.hparams["effective_batch"])
            check_accumulation(self.trainer)
            check_averaging(self.trainer)
        stage = str(getattr(stage, "value", stage))  # Lightning passes an enum
        if stage == "fit" or self.restoring is False:
            self._load_weights(stage)
        if stage == "fit" and not (self._head_is_new or self.restoring):
            self._head_is_new = True
            start.init_head(self.vit, self.hparams["head_init_std"])
            start_averages(self.trainer, self)
        if self.hparams["compile"]:
            compile_model(self.model)

    def configure_callbacks(self) -> list[Callback]:
        set_up_together(self)  # this is the last hook before the data module's own set-up
        there = callbacks_of(self.trainer)
        return [callback for callback in (self.resume, self.guard) if callback not in there]

    on_fit_start = on_fit_end = averages_to_device  # the strategy has moved the model

    def on_train_start(self) -> None:
        self.keep_frozen_in_eval()  # Lightning leaves out on_train_epoch_start where a run is resumed

    def on_train_epoch_start(self) -> None:
        self.keep_frozen_in_eval()

    def keep_frozen_in_eval(self) -> None:
        """A frozen backbone gives the features it will give later: no drop path, no dropout.

        Tokens are left out all the same where the model does so in training.
        """
        if self.hparams["freeze"] == "backbone":
            self.vit.eval()
            self.vit.head_drop.train()
            self.vit.patch_drop.train()

    def on_validation_start(self) -> None:
        self._run_in_evaluation = OneShape()
        self._load_weights("validate")

    def on_test_start(self) -> None:
        self._run_in_evaluation = OneShape()
        self._load_weights("test")

    def on_predict_start(self) -> None:
        self._run_in_evaluation = OneShape()
        self._load_weights("predict")

    def _load_weights(self, stage: str) -> None:
        """Load the checkpoint to start from, once, unless a run's own checkpoint is restored."""
        if not self._has_weights and not self.restoring:
            data = getattr(self.trainer, "datamodule", None)
            self.load_report = start.load_weights(self.vit, self.input, self.hparams, stage, data)
            self.class_names = start.names_of(self.load_report, self.class_names)
            self._has_weights = True

    def check_r(self, r: R, num_tokens: int | None = None) -> None:
        """Refuse an r that this model has not the tokens for.

        Args:
            r: As the model's.
            num_tokens: Tokens that enter the first block, by default those of evaluation.

        Raises:
            PlanError: If r is not valid, or asks a block for more than half of all patch tokens.
        """
        model = self.model
        check_possible(r, model.depth, num_tokens or model.num_tokens, model.num_prefix)

    def effective_batch(self) -> int:
        """Samples per optimizer step: batch x repeats x accumulation x processes."""
        batch = effective_batch(self.trainer)
        if not batch:
            raise FineTuneError(
                "base_lr is scaled by the effective batch, which needs a datamodule with batch_size. "
                "Pass one to fit(), or give lr= instead."
            )
        return batch

    def peak_lr(self) -> float:
        """The learning rate at the end of warm-up, before layer decay."""
        if self.hparams["lr"] is not None:
            return float(self.hparams["lr"])
        return self.hparams["base_lr"] * self.effective_batch() / REFERENCE_BATCH

    def configure_optimizers(self) -> Any:
        peak, options = self.peak_lr(), self.hparams
        base_lr = options["base_lr"] if options["lr"] is None else None
        told = describe(self.trainer, self.vit, peak, base_lr, options["effective_batch"])
        rank_zero_info(told)
        how = (options[name] for name in ("weight_decay", "layer_decay", "betas"))
        optimizer = adamw(self.trainer, self.vit, peak, *how)
        scheduler = LambdaLR(optimizer, lambda step: self._lr_factor(step, peak))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def _lr_factor(self, step: int, peak: float) -> float:
        pace = self.resume.pace if step else None
        names = ("min_lr", "warmup_epochs", "lr_schedule")
        return lr_factor(self.trainer, pace, peak, *(self.hparams[name] for name in names))

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Called after each optimizer step: r and the learning rate move on."""
        self.resume.stepped(self.trainer)
        super().lr_scheduler_step(scheduler, metric)

    def progress(self) -> float:
        """Share of this run's training that is done, 0 to 1, in steps as fractions of their epochs."""
        pace = self.resume.pace
        return 0.0 if pace is None else pace.share(self.trainer)

    @property
    def _fitting(self) -> bool:
        return self._trainer is not None and self.trainer.state.fn == "fit"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._fitting:
            self.guard.check_last(Path(self.trainer.default_root_dir))
        checkpoint["tome_lightning"] = {
            "progress": self.resume.progress(self.trainer) if self._fitting else None,
            # What these weights want when another run starts from them: see checkpoints.PROP_ATTN.
            "family": "tome" if self.model.prop_attn else "mae",
            "class_names": self.class_names,
            **self.run_config,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._has_weights = self._head_is_new = True
        self.class_names = checkpoint.get("tome_lightning", {}).get("class_names")
        if "averaging_state" in checkpoint and not self._fitting:
            rank_zero_info("The checkpoint holds averaged weights; these are what is measured")
            # In a trainer that has trained, Lightning's callback would put the live weights back.
            checkpoint["current_model_state"] = checkpoint["state_dict"]
