"""Fine-tuning a ViT with Token Merging: the one LightningModule, whatever the modality."""

from __future__ import annotations

import os
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data.distributed import DistributedSampler
from torchmetrics import MetricCollection

import checkpoints
from tome_lightning.errors import UserError
from tome_lightning.inputs import Input
from tome_lightning.inputs.preprocessing import difference
from tome_lightning.lazy import public_path
from tome_lightning.metrics import Totals
from tome_lightning.optim import describe_trained, layer_decay_groups, lr_at, lr_at_step
from tome_lightning.tasks import Task
from tome_lightning.tome import patch
from tome_lightning.tome.plan import R, check_possible
from tome_lightning.trainer.averaging import averages_to_device, check_averaging, start_averages
from tome_lightning.trainer.batches import (
    accumulate_to,
    check_accumulation,
    continued,
    effective_batch,
    factors,
    this_run,
)
from tome_lightning.trainer.compiling import OneShape, compile_model, equal_parts
from tome_lightning.trainer.figures import at_each_batch, to_log
from tome_lightning.trainer.loss_guard import Facts, LossGuard
from tome_lightning.trainer.pace import Pace, accumulation
from tome_lightning.trainer.progress import (
    PendingValidation,
    Progress,
    keep_own_paths,
    logged_last,
    progress_of,
    set_loops,
)
from tome_lightning.trainer.same_data import set_up_together

REFERENCE_BATCH = 256  # base learning rates are per 256 samples (linear scaling rule)
UNREAD = -1  # the label of a sample whose file cannot be read
STEP_DRAWS = 0x57E9  # keeps the draws of steps apart from those of samples

Part = TypeVar("Part", Input, Task)


class FineTuneError(UserError):
    """A run that cannot be meant: one line, what, got, why and the way out."""


class FineTune(LightningModule):
    """Fine-tune a ViT whose tokens merge, from MAE (or other) weights.

    Args:
        input: What the model reads.
        task: What it learns.
        vit: Further arguments of timm's VisionTransformer, e.g. ``embed_dim``, ``depth``,
            ``drop_path_rate``. Without ``global_pool`` the checkpoint's family decides.
        checkpoint: Weights to start from: a name in ``checkpoints.SOURCES``, a timm tag such as
            ``vit_base_patch16_224.mae``, or a file; ``null`` starts from random weights.
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
        super().__init__()
        self.input = _rebuild(input, Input)
        self.task = _rebuild(task, Task)
        self.checkpoint = checkpoint
        self.inflate = inflate
        self.weights = weights
        self.base_lr = base_lr
        self.lr = lr
        self.min_lr = min_lr
        self.warmup_epochs = warmup_epochs
        self.lr_schedule = lr_schedule
        self.weight_decay = weight_decay
        self.layer_decay = layer_decay
        self.betas = betas
        self.head_init_std = head_init_std
        self.frozen = freeze
        self.recipe_batch = effective_batch
        self.keep_effective_batch = False  # accumulate as many batches as make recipe_batch
        self.non_finite = non_finite
        self.compiles = compile

        self._check_numbers()
        vit = dict(vit or {})
        if "num_classes" in vit:
            raise FineTuneError(
                "model.vit.num_classes is set by the task. Pass --model.task.num_classes instead."
            )
        family, pooling = "mae", None
        unpooled = self.input.chooses_pool and "global_pool" not in vit
        if checkpoint is not None and (prop_attn is None or unpooled):
            identity = checkpoints.identify(checkpoint, weights)
            family, pooling = identity.family, identity.pooling
        if prop_attn is None:
            prop_attn = checkpoints.PROP_ATTN[family]
        if self.input.chooses_pool:
            vit.setdefault("global_pool", pooling or checkpoints.POOLING[family])
        self.model = patch(
            self.input.build(num_classes=self.task.num_classes, **vit), r=r, prop_attn=prop_attn
        )
        if not self.vit.dynamic_img_size:  # else r depends on the data's size: see follow()
            self.check_r(r)
        self.model.set_grad_checkpointing(grad_checkpointing)
        self._freeze()
        metrics = self.task.metrics()
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        # The loss as a metric: a rank whose last batch is padding alone has none to log.
        self.val_totals, self.test_totals = Totals(), Totals()

        self.run_config: dict[str, Any] = {}  # recipe and data of the run, for its checkpoints
        self.class_names: list[str] | None = None
        self.load_report: checkpoints.LoadReport | None = None
        self._has_weights = False
        self._head_is_new = False
        # Whether the trainer restores a run's checkpoint. It knows only after setup(), where weights
        # should be loaded; who starts the trainer may know before.
        self.restoring: bool | None = None
        self.saved_progress: Progress | None = None  # of the checkpoint that was loaded
        self.saved_logs: dict[str, float] = {}  # what its last step has logged
        self.begun_at: Progress | None = None  # the same in batches of this run
        self._pace: Pace | None = None
        self._guard = LossGuard(non_finite)
        self._pending = PendingValidation()
        self._run_in_evaluation = OneShape()
        self._rates: list[tuple[float, float]] = []  # peak and decay of each group, by our options
        # Plain builtins, classes by name: torch's safe loading takes them, and Lightning's own
        # record of hyper-parameters would lose which Input and which Task this is.
        self.save_hyperparameters(
            {
                "input": _plain(self.input),
                "task": _plain(self.task),
                "vit": vit,
                "checkpoint": checkpoint,
                "inflate": inflate,
                "weights": weights,
                "r": r,
                "prop_attn": prop_attn,
                "base_lr": base_lr,
                "lr": lr,
                "min_lr": min_lr,
                "warmup_epochs": warmup_epochs,
                "lr_schedule": lr_schedule,
                "weight_decay": weight_decay,
                "layer_decay": layer_decay,
                "betas": list(betas),
                "head_init_std": head_init_std,
                "freeze": freeze,
                "grad_checkpointing": grad_checkpointing,
                "effective_batch": effective_batch,
                "non_finite": non_finite,
                "compile": compile,
            },
            logger=False,
        )

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
        self._check_shape(shape)
        self.model.img_size = shape[1:]
        self.check_r(self.model.r)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, K]`` of samples ``[B, *sample_shape]``."""
        logits: Tensor = self.model(x)
        return logits

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Training loss of one batch, mixing included."""
        self._check_pixels(x)
        x, target = self.task.mix(x, y)
        return self.task.loss(self.model(x), target)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y, ids = batch
        loss = self.loss(x, y)
        self._guard.add(loss, ids)
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
        rows = self._counted(y, batch_idx, self.trainer.predict_dataloaders)
        return {"id": ids[rows], "scores": self._scores(x)[rows].exp()}

    def _check_pixels(self, x: Tensor) -> None:
        if x.dtype == torch.uint8:
            raise FineTuneError(
                "The batch has raw pixels (uint8): the data module makes them the model's input once "
                "they are on the device. Give the Trainer datamodule=, not its loaders, or call "
                "data.prepare(x)."
            )

    def _scores(self, x: Tensor) -> Tensor:
        self._check_pixels(x)
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
        rows = self._counted(y, batch_idx, loader)
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

    def _counted(self, y: Tensor, batch_idx: int, loader: Any) -> Tensor:
        """Places ``[C]`` of a batch's samples that count: neither another rank's, repeated to fill the
        last batch, nor unreadable (`UNREAD`). The one thing of a batch that is waited for."""
        readable = (y >= 0).flatten(1).all(dim=1) if y.ndim > 1 else y != UNREAD
        # Not the loader's own sampler and size: for prediction Lightning makes another loader, with
        # neither, around the same batches.
        batches: Any = getattr(loader, "batch_sampler", None)
        if not isinstance(getattr(batches, "sampler", None), DistributedSampler):
            return readable.nonzero().squeeze(1)
        places = torch.arange(len(y), device=y.device) + batch_idx * batches.batch_size
        places = places * self.trainer.world_size + self.global_rank
        return (readable & (places < len(loader.dataset))).nonzero().squeeze(1)

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and hasattr(data, "num_classes"):
            if self.class_names is None:
                self.class_names = list(data.class_names)
            self.task.check(data.num_classes, data.batch_size if stage == "fit" else 2)
            self._check_labels(getattr(data, "multi_label", False))
        self._check_shape(getattr(data, "sample_shape", None))
        self.follow(data)
        if stage == "fit":
            if self.keep_effective_batch:
                accumulate_to(self.trainer, self.recipe_batch)
            check_accumulation(self.trainer)
            check_averaging(self.trainer)
        stage = str(getattr(stage, "value", stage))  # Lightning passes an enum
        if stage == "fit" or self.restoring is False:
            self._load_weights(stage)
        if stage == "fit" and not (self._head_is_new or self.restoring):
            self._head_is_new = True
            self._init_head()
            start_averages(self.trainer, self)
        if self.compiles:
            compile_model(self.model)

    configure_callbacks = set_up_together  # the last hook before the data module's own set-up
    on_fit_start = on_fit_end = averages_to_device  # the strategy has moved the model

    def on_train_start(self) -> None:
        if self._pace is None or not self.trainer.global_step:
            self._pace = Pace.of(self.trainer)
        # Lightning's scheduler of it is not asked in an epoch that a run is resumed in.
        trainer = self.trainer
        trainer.accumulate_grad_batches = accumulation(trainer, trainer.current_epoch)
        self._take_current_rates()
        self._pending.started(self.trainer)
        self.keep_frozen_in_eval()  # Lightning leaves out on_train_epoch_start where a run is resumed

    def on_train_epoch_start(self) -> None:
        self.keep_frozen_in_eval()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Mixup, drop path, dropout and masking draw from these. A function of the batch's place alone, so
        # that a resumed run draws the same, and of the process, or all would mix alike.
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        place = (STEP_DRAWS, seed, self.current_epoch, batch_idx, self.global_rank)
        words = np.random.SeedSequence(place).generate_state(4)
        random.seed(words.tobytes())
        np.random.seed(words)
        number = int(words[0]) << 32 | int(words[1])
        # torch.manual_seed writes a stack trace for each kind of device that is not in use
        torch.default_generator.manual_seed(number)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(number)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        facts = Facts(
            step=self.trainer.global_step,
            epoch=self.current_epoch,
            r=self.model.r,
            lr=max(group["lr"] for group in optimizer.param_groups),
        )
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        self._guard.look(optimizer, facts, Path(self.trainer.default_root_dir), scaled)

    def keep_frozen_in_eval(self) -> None:
        """A frozen backbone gives the features it will give later: no drop path, no dropout.

        Tokens are left out all the same where the model does so in training.
        """
        if self.frozen == "backbone":
            self.vit.eval()
            self.vit.head_drop.train()
            self.vit.patch_drop.train()

    def on_validation_start(self) -> None:
        self._run_in_evaluation = OneShape()
        self._pending.begun(self.trainer)
        self._load_weights("validate")

    def on_test_start(self) -> None:
        self._run_in_evaluation = OneShape()
        self._load_weights("test")

    def on_predict_start(self) -> None:
        self._run_in_evaluation = OneShape()
        self._load_weights("predict")

    def _load_weights(self, stage: str) -> None:
        """Load the checkpoint to start from, once, unless a run's own checkpoint is restored."""
        if self._has_weights or self.restoring:
            return
        if self.checkpoint is not None:
            report = checkpoints.load(
                self.vit, self.checkpoint, head=stage != "fit", inflate=self.inflate,
                weights=self.weights,
            )  # fmt: skip
            rank_zero_info(str(report))
            if stage != "fit" and any(name.startswith("head") for name in report.new):
                raise FineTuneError(
                    f"{self.checkpoint} has no head for {self.task.num_classes} classes, so "
                    f"{stage} would measure random outputs. Fine-tune it first, or give a fine-tuned "
                    "file (--model.checkpoint) or a run's checkpoint (--ckpt_path)."
                )
            self.load_report = report
            data = getattr(self.trainer, "datamodule", None)
            if told := difference(report.source, report.preprocessing, data):
                rank_zero_info(told)
            self._warn_of_frozen_positions(report.notes.get("pos_embed", ""))
        elif self.frozen == "positions":
            rank_zero_warn(
                "model.freeze is positions without model.checkpoint: random positions stay as they are. "
                "Give a checkpoint, or --model.freeze none"
            )
        elif stage != "fit":
            rank_zero_info(
                f"{stage} measures random weights: there is no --model.checkpoint and no --ckpt_path"
            )
        self._has_weights = True

    def _warn_of_frozen_positions(self, note: str) -> None:
        if self.frozen == "positions" and note and not note.startswith("trimmed"):
            rank_zero_warn(
                f"the positions were {note}, and model.freeze keeps them as they are. To train them: "
                "--model.freeze none"
            )

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

    def _check_numbers(self) -> None:
        rules = {
            "base_lr": (self.base_lr, self.base_lr > 0, "above 0"),
            "lr": (self.lr, self.lr is None or self.lr > 0, "above 0"),
            "min_lr": (self.min_lr, self.min_lr >= 0, "0 or more"),
            "warmup_epochs": (self.warmup_epochs, self.warmup_epochs >= 0, "0 or more"),
            "lr_schedule": (
                self.lr_schedule,
                self.lr_schedule in ("mae", "videomae"),
                "mae or videomae",
            ),
            "weight_decay": (self.weight_decay, self.weight_decay >= 0, "0 or more"),
            "layer_decay": (self.layer_decay, 0 < self.layer_decay <= 1, "above 0 and up to 1"),
            "betas": (self.betas, all(0 <= b < 1 for b in self.betas), "at least 0 and below 1"),
            "head_init_std": (self.head_init_std, self.head_init_std >= 0, "0 or more"),
        }
        for name, (value, fine, expected) in rules.items():
            if not fine:
                raise FineTuneError(f"model.{name} must be {expected}, got {value}.")

    def _check_shape(self, shape: tuple[int, ...] | None) -> None:
        if shape is None or shape == self.input.shape:
            return
        if self.vit.dynamic_img_size and shape[0] == self.input.shape[0]:
            patch = self.vit.patch_embed.patch_size[-1]
            if shape[-1] % patch and not self.vit.patch_embed.dynamic_img_pad:
                raise FineTuneError(
                    f"data.size {shape[-1]} is no multiple of the model's patches of {patch} pixels. "
                    "Choose one, or pad with --model.vit.dynamic_img_pad true."
                )
            return
        raise FineTuneError(
            f"The data gives samples of {'x'.join(map(str, shape))} ({self.input.axes}), the model reads "
            f"{'x'.join(map(str, self.input.shape))}. Set model.input and data to the same values "
            f"of {self.input.axes.replace(' x ', ', ')}."
        )

    def _check_labels(self, multi_label: bool) -> None:
        if multi_label == self.task.multi_label:
            return
        data, fitting = (
            ("any number of labels a sample", "MultiLabel")
            if multi_label
            else ("one label a sample", "SingleLabel")
        )
        raise FineTuneError(
            f"The data has {data}, which {type(self.task).__name__} does not learn. "
            f"Set model.task.class_path to tome_lightning.tasks.{fitting}."
        )

    def _init_head(self) -> None:
        # A new head for every fine-tuning, also from a fine-tuned file, as MAE does.
        for head in (self.vit.head, getattr(self.vit, "head_dist", None)):
            if isinstance(head, nn.Linear):
                nn.init.trunc_normal_(head.weight, std=self.head_init_std)
                nn.init.zeros_(head.bias)

    def _freeze(self) -> None:
        if self.frozen == "positions":
            for name, parameter in self.vit.named_parameters():
                parameter.requires_grad = not name.startswith("pos_embed")
        if self.frozen != "backbone":
            return
        # fc_norm is new weights in an average-pooled MAE model: frozen, it would stay untrained.
        trained = ("head.", "head_dist.", "fc_norm.")
        for name, parameter in self.vit.named_parameters():
            parameter.requires_grad = name.startswith(trained)

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
        if self.lr is not None:
            return self.lr
        return self.base_lr * self.effective_batch() / REFERENCE_BATCH

    def configure_optimizers(self) -> Any:
        peak = self.peak_lr()
        rank_zero_info(self._describe_optimization(peak))
        groups = layer_decay_groups(self.vit, peak, self.weight_decay, self.layer_decay)
        self._rates = [(group["lr"], group["weight_decay"]) for group in groups]
        optimizer: Any = torch.optim.AdamW(groups, lr=peak, betas=self.betas, fused=self._fuses())
        if self._fuses():
            # Without a scaler it divides no gradients; Lightning would take it for one that does, and
            # refuse to clip them.
            optimizer._step_supports_amp_scaling = False
        scheduler = LambdaLR(optimizer, lambda step: self._lr_factor(step, peak))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def _fuses(self) -> bool:
        """Whether the optimizer's step is one kernel: not with a scaler of float16 gradients, which a
        fused step would have to divide itself, unclipped."""
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        return not scaled and self.device.type in ("cpu", "cuda")

    def _take_current_rates(self) -> None:
        """A resumed run has the learning rates and decay of its own options, not the checkpoint's.

        Torch restores both with the optimizer; where nothing was changed this changes no bit.
        """
        scheduler: Any = self.lr_schedulers()
        if self.saved_progress is None or not isinstance(scheduler, LambdaLR):
            return
        scheduler.base_lrs = [lr for lr, _ in self._rates]
        for group, (lr, decay), factor in zip(
            scheduler.optimizer.param_groups, self._rates, scheduler.lr_lambdas, strict=True
        ):
            now = lr * factor(scheduler.last_epoch)
            group.update(initial_lr=lr, lr=now, weight_decay=decay, betas=self.betas)

    def _describe_optimization(self, peak: float) -> str:
        batch = effective_batch(self.trainer)
        line = f"Learning rate {peak:g} "
        if self.lr is None:
            line += f"= {self.base_lr:g} x {batch} / {REFERENCE_BATCH}"
        else:
            line += "(model.lr, whatever the batch)"
        if batch:
            line += f"; effective batch {batch} = {factors(self.trainer)}"
        if self.recipe_batch == batch:
            line += ", as in the recipe"
        elif self.recipe_batch is not None:
            line += (
                f"; the recipe's is {self.recipe_batch}, which --keep_effective_batch accumulates"
            )
        return f"{describe_trained(self.vit)}\n{line}"

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Called after each optimizer step: r and the learning rate move on."""
        if self._pace is not None:
            self._pace = self._pace.stepped(self.trainer)
        super().lr_scheduler_step(scheduler, metric)

    def _lr_factor(self, step: int, peak: float) -> float:
        table = self.lr_schedule == "videomae"
        if not step or self._pace is None:
            # Before the run knows its epochs. Not the trainer's estimated_stepping_batches: that would
            # build a loader here, and drop the position a resumed one had.
            if table:
                return 0.0 if self.warmup_epochs else 1.0
            epochs = self.trainer.max_epochs or -1
            return lr_at(0.0, peak, self.min_lr, self.warmup_epochs, max(1, epochs)) / peak
        pace, ends = self._pace, (peak, self.min_lr, self.warmup_epochs)
        end = pace.end(self.trainer, self._pending.max_steps(self.trainer))
        if table:
            return lr_at_step(pace.done, pace.epoch_steps, *ends, end) / peak
        return lr_at(pace.epoch(), *ends, pace.epoch(end)) / peak

    def progress(self) -> float:
        """Share of this run's training that is done, 0 to 1, in steps as fractions of their epochs."""
        if self._pace is None:
            return 0.0
        return self._pace.share(self.trainer, self._pending.max_steps(self.trainer))

    @property
    def _fitting(self) -> bool:
        return self._trainer is not None and self.trainer.state.fn == "fit"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress, logged = None, {}
        if self._fitting:
            self._guard.settle(Path(self.trainer.default_root_dir))
            progress = progress_of(self.trainer, this_run(self.trainer, 0))
            if progress is not None and self._pace is not None:
                progress = progress.at(self._pace)
            logged = logged_last(self.trainer)
            if self.saved_progress is not None and progress is not None:
                resumed_here = self.saved_progress.steps == progress.steps  # not a step further yet
                logged = logged or (self.saved_logs if resumed_here else {})
        checkpoint["tome_lightning"] = {
            "progress": progress and progress.as_dict(),
            "logged": logged,
            # What these weights want when another run starts from them: see checkpoints.PROP_ATTN.
            "family": "tome" if self.model.prop_attn else "mae",
            "class_names": self.class_names,
            **self.run_config,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._has_weights = self._head_is_new = True
        ours = checkpoint.get("tome_lightning", {})
        self.class_names = ours.get("class_names")
        if "averaging_state" in checkpoint and not self._fitting:
            rank_zero_info("The checkpoint holds averaged weights; these are what is measured")
            # In a trainer that has trained, Lightning's callback would put the live weights back.
            checkpoint["current_model_state"] = checkpoint["state_dict"]
        if not self._fitting:
            return
        self.saved_progress = Progress.read(checkpoint)
        self.begun_at = self._pace = None
        if self.saved_progress is None and ours.get("progress"):
            raise FineTuneError(
                "The checkpoint says where its run stood in the way of another version "
                f"({ours.get('versions', {}).get('tome_lightning', 'unknown')}). Go on with that one, or "
                "start anew from its weights with --init_from."
            )
        if self.saved_progress is not None:
            self.saved_logs = ours.get("logged", {})
            self.begun_at = continued(self.trainer, self.saved_progress)
            self._pace = self.begun_at.pace
            set_loops(checkpoint["loops"]["fit_loop"], self.begun_at)
            self._pending.insist(self.trainer, self.saved_progress)
        keep_own_paths(checkpoint["callbacks"], self.trainer)
        for state in checkpoint.get("optimizer_states", ()):
            for group in state["param_groups"]:  # else torch goes on as the checkpoint's run did
                group["fused"] = self._fuses()


def _plain(part: Input | Task) -> dict[str, Any]:
    return {"class_path": public_path(type(part)), "init_args": asdict(part)}


def _rebuild(part: Any, base: type[Part]) -> Part:
    """The object that ``_plain`` described; only subclasses already imported are made."""
    if isinstance(part, base):
        return part
    for kind in base.__subclasses__():
        if part["class_path"] == public_path(kind):
            return kind(**part["init_args"])
    raise FineTuneError(
        f"The checkpoint names {part['class_path']}, which is no known {base.__name__}. "
        "Import the module that defines it first."
    )
