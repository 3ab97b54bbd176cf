"""How to build an exported model anew: as an object, and as lines of Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import timm
from timm.models.vision_transformer import VisionTransformer

from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.inputs import Image, Input, Spectrogram

# Arguments that shape training alone: neither the names of weights nor logits depend on them.
TRAINING = {
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate",
    "drop_path_rate", "weight_init", "fix_init",
}  # fmt: skip

TIMM_EPS = 1e-6  # of timm's LayerNorms


class _Call(NamedTuple):
    imports: str
    name: str
    make: Callable[..., Any]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A ViT without its weights.

    Attributes:
        input: What it reads.
        timm_arguments: All arguments of timm's VisionTransformer that the input does not set.
    """

    input: Input
    timm_arguments: dict[str, Any]

    @property
    def beyond_timm(self) -> str:
        """In words what timm alone does not build; "" where it builds all."""
        if self._call().make != self.input.build:
            return ""
        if "norm_eps" in self.timm_arguments:
            return f"LayerNorms of epsilon {self.timm_arguments['norm_eps']:g}, where timm's are of 1e-6"
        return f"a {type(self.input).__name__} input"

    def timm_call(self) -> tuple[str | None, dict[str, Any]]:
        """The name of timm's entry, None for its VisionTransformer, and the arguments."""
        arguments = dict(self._call().arguments)
        return arguments.pop("model_name", None), arguments

    def build(self) -> VisionTransformer:
        """With random weights, in evaluation mode: by timm alone where timm can."""
        call = self._call()
        vit = cast(VisionTransformer, call.make(**call.arguments))
        return vit.eval()

    def lines(self) -> list[str]:
        """Python that builds ``vit``."""
        call = self._call()
        return [call.imports, f"vit = {call.name}({_written(call.arguments)})"]

    def _call(self) -> _Call:
        given, rest = self.input, self.timm_arguments
        timms = "from timm.models import VisionTransformer", "VisionTransformer", VisionTransformer
        plain = "norm_eps" not in rest  # which is an argument of ours
        if plain and isinstance(given, Image) and given.timm_model is not None:
            sizes = {"img_size": given.size, "in_chans": given.channels}
            named = {"model_name": given.timm_model, **sizes, **rest}
            return _Call("import timm", "timm.create_model", timm.create_model, named)
        if plain and isinstance(given, Image):
            sizes = {"img_size": given.size, "patch_size": given.patch, "in_chans": given.channels}
            return _Call(*timms, {**sizes, **rest})
        if plain and isinstance(given, Spectrogram) and given.stride == given.patch:
            area = (given.frames, given.mels)
            return _Call(
                *timms, {"img_size": area, "patch_size": given.patch, "in_chans": 1, **rest}
            )
        kind = type(given)
        built = f"{kind.__name__}({_written(_evaluated(given))}).build"
        return _Call(
            f"from {kind.__module__} import {kind.__name__}", built, given.build, dict(rest)
        )


def architecture_of(loaded: LoadedModel) -> Architecture:
    """The architecture of a model, by the arguments of timm's that it was built with."""
    vit = loaded.model.vit
    given = loaded.vit_arguments
    lasting = {key: value for key, value in given.items() if key not in TRAINING}
    if lasting.get("norm_eps") == TIMM_EPS:
        del lasting["norm_eps"]
    lasting |= {"num_classes": vit.num_classes, "global_pool": vit.global_pool}
    return Architecture(loaded.input, lasting)


def _evaluated(given: Input) -> dict[str, Any]:
    """An input's arguments, without those of training."""
    values = asdict(cast(Any, given))
    return {key: value for key, value in values.items() if not key.startswith("mask_")}


def _written(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())
