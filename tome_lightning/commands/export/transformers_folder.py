"""A folder as the transformers library has it: config, weights, preprocessing, a card.

The library has no ViT that averages its patches but BEiT, which with absolute positions and without
LayerScale is MAE's fine-tuned model. Neither BEiT nor VideoMAE has a bias of the keys: attention does not
depend on it, since softmax is invariant to what all keys of a query have in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import save_file
from timm.layers import LayerScale
from torch import Tensor

from tome_lightning.commands.export.check import Difference, ExportMismatchError
from tome_lightning.commands.export.hub_folder import WEIGHTS, card
from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.errors import UsageError
from tome_lightning.inputs import Clip, Image

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_PART = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


class Kind(NamedTuple):
    """A model of transformers that computes what a ViT does.

    Attributes:
        name: What its weights begin with.
        config: Its config's class.
        model: Its model's class.
        norm: Where the last LayerNorm is.
        key_bias: Whether its keys have a bias.
    """

    name: str
    config: str
    model: str
    norm: str
    key_bias: bool


VIT = Kind("vit", "ViTConfig", "ViTForImageClassification", "vit.layernorm", True)
BEIT = Kind("beit", "BeitConfig", "BeitForImageClassification", "beit.pooler.layernorm", False)
VIDEOMAE = Kind("videomae", "VideoMAEConfig", "VideoMAEForVideoClassification", "fc_norm", False)


def kind_of(loaded: LoadedModel) -> Kind:
    """The model of transformers that computes what this one does, dense.

    Raises:
        UsageError: transformers is missing, or has no such model; says why.
    """
    if find_spec("transformers") is None:
        raise UsageError(
            "--format hf-folder is checked with transformers, which is not installed here: pip install "
            "transformers"
        )
    lacking = next(_beyond(loaded), None)
    if lacking:
        raise UsageError(
            f"transformers has no model with {lacking}. Write --format timm-hub or safetensors instead."
        )
    if isinstance(loaded.input, Clip):
        return VIDEOMAE
    return BEIT if loaded.vit.global_pool == "avg" else VIT


def write_transformers_folder(
    loaded: LoadedModel, kind: Kind, about: dict[str, Any], metrics: dict[str, float], folder: Path
) -> None:
    """Write `config.json`, `preprocessor_config.json`, `model.safetensors` and `README.md`.

    Args:
        loaded: What is exported.
        kind: As what.
        about: What goes with the weights, as in the metadata of safetensors.
        metrics: Of the run, as fractions.
        folder: An empty one.
    """
    config_of(loaded, kind).save_pretrained(folder)
    _processor(loaded).save_pretrained(folder)
    save_file(dict(renamed(loaded, kind)), folder / WEIGHTS, metadata={"format": "pt"})
    usage = [
        "import transformers",
        "",
        f'model = transformers.{kind.model}.from_pretrained("OWNER/NAME")  # dense; merging is timm\'s',
    ]
    text = card(loaded, about, metrics, library="transformers", usage=usage)
    (folder / "README.md").write_text(text, encoding="utf-8")


def config_of(loaded: LoadedModel, kind: Kind) -> PretrainedConfig:
    """The config of the model of transformers."""
    import transformers

    vit, given = loaded.vit, loaded.input
    block: Any = vit.blocks[0]
    names = loaded.class_names or [f"LABEL_{n}" for n in range(vit.num_classes)]
    options: dict[str, Any] = {
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "layer_norm_eps": block.norm1.eps,
        "num_channels": loaded.shape[0],
        "image_size": loaded.shape[-1],
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "architectures": [kind.model],
    }
    if isinstance(given, Clip):
        options |= {
            "patch_size": given.patch, "num_frames": given.frames, "tubelet_size": given.tubelet,
            "use_mean_pooling": True,
        }  # fmt: skip
    else:
        options["patch_size"] = vit.patch_embed.patch_size[0]
    if kind is BEIT:
        options |= {
            "use_absolute_position_embeddings": True, "layer_scale_init_value": 0.0,
            "use_mean_pooling": True, "drop_path_rate": 0.0,
        }  # fmt: skip
    found: PretrainedConfig = getattr(transformers, kind.config)(**options)
    return found


def renamed(loaded: LoadedModel, kind: Kind) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names of transformers' files."""
    outer = {
        "cls_token": f"{kind.name}.embeddings.cls_token",
        "pos_embed": f"{kind.name}.embeddings.position_embeddings",
    }
    layers = {
        "patch_embed.proj": f"{kind.name}.embeddings.patch_embeddings.projection",
        "norm": kind.norm, "fc_norm": kind.norm, "head": "classifier",
    }  # fmt: skip
    for name, value in loaded.vit.state_dict().items():
        value = value.detach().float().contiguous()
        part = _PART.fullmatch(name)
        layer, _, end = name.rpartition(".")
        if part is None:
            yield outer.get(name) or f"{layers[layer]}.{end}", value
            continue
        start = f"{kind.name}.encoder.layer.{part[1]}"
        if part[2] == "attn.qkv":
            yield from _attention(f"{start}.attention.attention", part[3], value, kind)
        else:
            yield f"{start}.{_BLOCK[part[2]]}.{part[3]}", value


@torch.no_grad()
def check_transformers_folder(loaded: LoadedModel, kind: Kind, folder: Path) -> Difference:
    """Load the folder by `from_pretrained` and compare logits.

    Raises:
        ExportMismatchError: transformers finds weights missing or too many, or logits differ.
    """
    import transformers

    fresh, report = getattr(transformers, kind.model).from_pretrained(
        folder, output_loading_info=True, attn_implementation="sdpa"
    )
    wrong = {name: sorted(found) for name, found in report.items() if found}
    if wrong:
        raise ExportMismatchError(f"transformers does not load the folder as it is: {wrong}.")
    x = torch.randn(2, *loaded.shape, generator=torch.Generator().manual_seed(1))
    logits = loaded.vit(x)
    clips = isinstance(loaded.input, Clip)
    theirs = fresh.eval()(x.transpose(1, 2) if clips else x).logits
    found = Difference(float((theirs - logits).abs().max()), float(logits.abs().max()))
    if not found.largest <= found.allowed:
        raise ExportMismatchError(
            f"transformers' model of the folder differs by {found}; the limit is {found.allowed:.1e}."
        )
    return found


def _beyond(loaded: LoadedModel) -> Iterator[str]:
    """What transformers has no model for, in words."""
    vit, given = loaded.vit, loaded.input
    block: Any = vit.blocks[0]
    if not isinstance(given, Image | Clip):
        yield f"a {type(given).__name__} input"
    if isinstance(given, Clip) and (given.positions != "sinusoid" or vit.num_prefix_tokens):
        yield f"{given.positions} positions of clips or a class token beside them"
    if isinstance(given, Clip) and vit.global_pool != "avg":
        yield f"global_pool {vit.global_pool} of clips"
    if isinstance(given, Image) and (
        vit.num_prefix_tokens != 1 or vit.global_pool not in ("avg", "token")
    ):
        yield f"{vit.num_prefix_tokens} prefix tokens and global_pool {vit.global_pool}"
    if block.attn.qkv.bias is None:
        yield "queries without a bias"
    if isinstance(block.ls1, LayerScale) or not isinstance(block.attn.q_norm, torch.nn.Identity):
        yield "LayerScale or normed queries in a plain ViT"
    if not isinstance(vit.norm_pre, torch.nn.Identity):
        yield "a LayerNorm before its blocks"


def _attention(start: str, end: str, value: Tensor, kind: Kind) -> Iterator[tuple[str, Tensor]]:
    """Query, key and value of timm's one matrix or bias; without the keys' bias where there is none."""
    for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
        if end == "bias" and name == "key" and not kind.key_bias:
            continue
        one = f"{name[0]}_bias" if kind is VIDEOMAE and end == "bias" else f"{name}.{end}"
        yield f"{start}.{one}", part.contiguous()


def _processor(loaded: LoadedModel) -> Any:
    """transformers' processor that prepares a sample as evaluation does."""
    import transformers

    size = loaded.shape[-1]
    short = round(size / (loaded.data.get("crop_pct") or 1.0))
    bilinear = isinstance(loaded.input, Clip) or loaded.data.get("interpolation") == "bilinear"
    options: dict[str, Any] = {
        "do_resize": True, "size": {"shortest_edge": short}, "do_center_crop": True,
        "crop_size": {"height": size, "width": size}, "resample": 2 if bilinear else 3,
        "image_mean": list(loaded.mean), "image_std": list(loaded.std),
    }  # fmt: skip
    if isinstance(loaded.input, Clip):
        return transformers.VideoMAEImageProcessor(**options)
    return transformers.BitImageProcessor(**options)
