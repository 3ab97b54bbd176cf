"""A model that a verb has opened, with what else is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer

from checkpoints.licence import licence_of
from tome_lightning.inputs import Input
from tome_lightning.tasks import Task
from tome_lightning.tome import ToMeViT, patch


@dataclass(frozen=True)
class LoadedModel:
    """A model, and what it needs to be shown a file, exported or timed.

    Attributes:
        name: As the user named it.
        model: On the CPU; by `load_model` in evaluation mode.
        input: What it reads.
        mean: Of each channel on the scale 0 to 1; of a spectrogram, one, in natural logarithms. Empty
            of a model that is only timed.
        std: Standard deviation on the same scale.
        weights: Where they come from, in words.
        task: What it learns or learnt; None where no head is known.
        class_names: Of its head, if they are known.
        data: Arguments of the run's or the recipe's data module, as far as they are known: how clips
            are sampled, how a picture is resized.
        recipe: The run's or the recipe's name.
        no_head: Whether weights were loaded and had no head that fits, so that it is random.
        batch_size: Samples a step of the recipe (with repeats), on one device, as far as it is known.
        dtype: float32, bfloat16 or float16: the recipe's trainer.precision, as far as it is known.
        family: As ``checkpoints`` calls it: decides prop_attn where the weights are loaded again.
        averaged: Whether the weights are an average over training.
        source: The file or name that they are from; of a run's checkpoint what the run started from.
        of_run: Whether they are a run's.
        vit_arguments: Of timm's VisionTransformer beyond those of the input.
    """

    name: str
    model: ToMeViT
    input: Input
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    weights: str = "random weights"
    task: Task | None = None
    class_names: list[str] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    no_head: bool = False
    batch_size: int | None = None
    dtype: str | None = None
    family: str = "timm"
    averaged: bool = False
    source: str | Path | None = None
    of_run: bool = False
    vit_arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def licence(self) -> str | None:
        """What is known of the weights' licence, in words; None where nothing is."""
        inherited = f"follows that of {self.source}" if self.of_run and self.source else None
        return licence_of(self.source) or inherited

    @property
    def vit(self) -> VisionTransformer:
        """The stock timm model."""
        return self.model.vit

    @property
    def dense(self) -> ToMeViT:
        """The model without merging; shares the weights."""
        model = patch(self.vit)
        model.img_size = self.model.img_size
        return model

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: the input's, or of a model with ``dynamic_img_size`` that of its data."""
        return (self.input.shape[0], *self.model.img_size)

    def tokens(self, training: bool) -> int:
        """Tokens of a sample that enter the first block; training may leave some out."""
        return self.model.train_tokens if training else self.model.num_tokens
