"""A folder as timm and the Hugging Face Hub have it: config, weights, a card. Nothing is uploaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from tome_lightning.arguments import UsageError
from tome_lightning.commands.export.architecture import Architecture
from tome_lightning.commands.export.check import Difference, ExportMismatchError
from tome_lightning.commands.export.weights import check_same, check_weights, write_weights
from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.tome import R

PLAIN = "vit_base_patch16_224"  # timm's entry whose sizes are VisionTransformer's own defaults
WEIGHTS = "model.safetensors"


def check_plain(architecture: Architecture) -> None:
    """Refuse a model that timm alone does not build.

    Raises:
        UsageError: Clips, overlapping patches, or an epsilon of its own.
    """
    lacking = architecture.beyond_timm
    if lacking:
        raise UsageError(
            f"A folder for timm holds what timm alone builds, and this model has {lacking}. Write "
            "--format safetensors instead: its lines of Python build the rest."
        )


def write_hub_folder(
    loaded: LoadedModel,
    architecture: Architecture,
    about: dict[str, Any],
    metrics: dict[str, float],
    folder: Path,
) -> None:
    """Write `config.json`, `model.safetensors` and `README.md`.

    Args:
        loaded: What is exported.
        architecture: How timm builds it.
        about: What goes with the weights, as in the metadata of safetensors.
        metrics: Of the run, as fractions.
        folder: An empty one.
    """
    config = config_of(loaded, architecture)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_weights(loaded, about, folder / WEIGHTS)
    (folder / "README.md").write_text(card(loaded, about, metrics), encoding="utf-8")


def config_of(loaded: LoadedModel, architecture: Architecture) -> dict[str, Any]:
    """timm's `config.json`: the architecture, its arguments, and how samples are prepared."""
    name, arguments = architecture.timm_call()
    rest = {key: value for key, value in arguments.items() if key != "num_classes"}
    channels, *size = loaded.shape
    vit, data = loaded.vit, loaded.data
    config: dict[str, Any] = {
        "architecture": name or PLAIN,
        "num_classes": vit.num_classes,
        "num_features": vit.num_features,
        "global_pool": vit.global_pool,
        "model_args": rest,
        "pretrained_cfg": {
            "tag": "tome",
            "input_size": [channels, *size],
            "fixed_input_size": True,
            "interpolation": data.get("interpolation", "bicubic"),
            "crop_pct": data.get("crop_pct", 1.0),
            "mean": list(loaded.mean),
            "std": list(loaded.std),
            "num_classes": vit.num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if loaded.class_names:
        config["label_names"] = list(loaded.class_names)
    return config


def card(
    loaded: LoadedModel,
    about: dict[str, Any],
    metrics: dict[str, float],
    library: str = "timm",
    usage: Sequence[str] | None = None,
) -> str:
    """The model card: what it is, how it was measured, how to use it.

    Args:
        loaded: What is exported.
        about: What goes with the weights.
        metrics: Of the run, as fractions.
        library: That reads the folder.
        usage: Python that does; by default timm's, with and without merging.
    """
    net, licence = loaded.model, about["licence"]
    stated = "cc-by-nc-4.0" if licence and "CC-BY-NC-4.0" in licence else "other"
    measured = ", ".join(f"{name} {value:.2%}" for name, value in metrics.items())
    plan = list(net.plan())
    lines = [
        "---",
        f"library_name: {library}",
        f"license: {stated}",
        f"tags: [{library}, token-merging, tome]",
        "---",
        "",
        f"# {about['recipe'] or 'A Vision Transformer'}, fine-tuned with Token Merging",
        "",
        "A plain ViT. Its weights were trained with tokens being merged, and work with and without.",
        "",
        f"- recipe: {about['recipe'] or 'none'}",
        f"- r: {net.r}, prop_attn: {net.prop_attn}",
        f"- tokens merged by block: {plan}, {net.num_tokens} -> {net.num_tokens - sum(plan)}",
        f"- measured at this r: {measured or 'not noted'}",
        f"- input: {list(loaded.shape)}, mean {list(loaded.mean)}, std {list(loaded.std)}",
        f"- weights: {'averaged over training' if about['averaged'] else 'of the best epoch'}",
        f"- licence of what it started from: {licence or 'not known'}",
        f"- made by tome_lightning {about['versions']['tome_lightning']}",
        "",
        "```python",
        *(_usage(net.r, net.prop_attn) if usage is None else usage),
        "```",
        "",
    ]
    return "\n".join(lines)


def _usage(r: R, prop_attn: bool) -> list[str]:
    return [
        "import timm",
        "import tome_lightning",
        "",
        'vit = timm.create_model("hf-hub:OWNER/NAME", pretrained=True).eval()  # or local-dir:FOLDER',
        f"merging = tome_lightning.patch(vit, r={r!r}, prop_attn={prop_attn})",
    ]


@torch.no_grad()
def check_hub_folder(loaded: LoadedModel, architecture: Architecture, folder: Path) -> Difference:
    """Load the folder by ``timm.create_model`` and by ``checkpoints.load``, and compare logits.

    Raises:
        ExportMismatchError: If timm does not build the model, or logits differ.
    """
    check_weights(loaded, architecture, folder / WEIGHTS)
    try:
        fresh = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ExportMismatchError(f"timm does not load the folder: {error}") from error
    return check_same(fresh, loaded, "timm's model of the folder")
