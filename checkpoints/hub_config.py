"""What the `config.json` of a folder in the Hub's layout says of its model, timm's or transformers'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .bounds import read_fetched
from .errors import CheckpointError
from .preprocessing import Preprocessing

# `model_type` of transformers, and the family whose layout its weights have under timm's names.
FAMILIES = {
    "vit_mae": "mae",
    "vit": "timm",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "videomae": "videomae",
    "audio-spectrogram-transformer": "ast",
}
_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # numbers of PIL


@dataclass(frozen=True)
class ModelConfig:
    """What a config says; None where it says nothing.

    `maker` is who reads the folder, `kind` timm's architecture or transformers' model type, `family` the
    layout's name or None where the names have to tell. `size` is in pixels, `frames` of a clip or of
    a spectrogram, `mels` and `stride` of a spectrogram; `class_names` are in the order of the head.
    """

    maker: Literal["timm", "transformers"]
    kind: str
    family: str | None = None
    trained: str = "encoder"  # what is known of `Identity.kind`
    depth: int | None = None
    width: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict)  # of timm's architecture
    size: int | None = None
    patch: int | None = None
    frames: int | None = None
    tubelet: int | None = None
    mels: int | None = None
    stride: int | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    pooling: str | None = None
    norm_eps: float | None = None
    qkv_bias: bool | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def mel_grid(self) -> tuple[int, int] | None:
        """Patches over time and over the mels; None for what is no spectrogram."""
        if not (self.frames and self.mels and self.patch and self.stride):
            return None
        steps, bands = (
            (count - self.patch) // self.stride + 1 for count in (self.frames, self.mels)
        )
        return steps, bands

    def known(self) -> dict[str, Any]:
        """What the config says of the model, by name, without its classes' names."""
        apart = ("maker", "kind", "family", "trained", "args", "class_names", "preprocessing")
        values = {name: value for name, value in vars(self).items() if name not in apart}
        return {name: value for name, value in values.items() if value is not None}


def is_hub_folder(path: Path) -> bool:
    """Whether a folder is in the Hub's layout."""
    return (path / "config.json").is_file()


def read_config(folder: Path) -> ModelConfig:
    """The config of a folder, and of its `preprocessor_config.json`.

    Raises:
        CheckpointError: It cannot be read, or says a model that holds no plain ViT.
    """
    config = _json(folder / "config.json")
    if isinstance(config.get("architecture"), str):
        return _of_timm(config)
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise CheckpointError(
            f"{folder}/config.json has neither timm's `architecture` nor transformers' `model_type`: "
            "give a folder that timm or transformers saved, or a file of weights"
        )
    second = folder / "preprocessor_config.json"
    return _of_transformers(kind, config, _json(second) if second.is_file() else {})


def _json(path: Path) -> dict[str, Any]:
    content = read_fetched(path)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, no options: fetch it again"
        )
    return content


def _of_transformers(
    kind: str, config: Mapping[str, Any], prepared: Mapping[str, Any]
) -> ModelConfig:
    family = "videomae" if kind.lower().startswith("videomaev2") else FAMILIES.get(kind)
    if family is None:
        raise CheckpointError(
            f"its config.json says model_type {kind!r}, and no plain ViT is known in that: loaded are "
            f"{', '.join(FAMILIES)} and whatever timm calls a vit_* or deit_*"
        )
    if kind.lower().startswith("videomaev2"):  # code of its own, with VideoMAE's names
        return ModelConfig("transformers", kind, family)
    audio = family == "ast"
    pooled = config.get("use_mean_pooling", True) if family == "videomae" else False
    names = _class_names(config.get("id2label"))
    saved_as = " ".join(map(str, config.get("architectures") or []))
    has_head = "Classification" in saved_as and not audio  # AST's fits no timm ViT
    return ModelConfig(
        maker="transformers",
        kind=kind,
        family=family,
        trained="fine-tuned" if has_head else "full" if "PreTraining" in saved_as else "encoder",
        depth=_number(config, "num_hidden_layers"),
        width=_number(config, "hidden_size"),
        size=_number(config, "image_size"),
        patch=_number(config, "patch_size"),
        frames=_number(config, "max_length" if audio else "num_frames"),
        tubelet=_number(config, "tubelet_size"),
        mels=_number(config, "num_mel_bins"),
        stride=_number(config, "time_stride"),
        num_classes=len(config.get("id2label") or ()) or None if has_head else None,
        class_names=names if has_head else (),
        pooling="avg" if pooled else "token" if has_head else None,
        norm_eps=_real(config, "layer_norm_eps"),
        qkv_bias=config.get("qkv_bias") if isinstance(config.get("qkv_bias"), bool) else None,
        preprocessing=_preprocessing(prepared),
    )


def _of_timm(config: Mapping[str, Any]) -> ModelConfig:
    given = config.get("pretrained_cfg")
    data: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    extra = config.get("model_args")
    args: Mapping[str, Any] = extra if isinstance(extra, Mapping) else {}
    classes = _number(config, "num_classes")
    crop = (data.get("interpolation"), _real(data, "crop_pct")) if classes else (None, None)
    side = data.get("input_size")
    size = side[-1] if isinstance(side, list) and len(side) == 3 and side[1] == side[2] else None
    names = config.get("label_names") or data.get("label_names")
    sound = _sound(side or data.get("input_size"))
    return ModelConfig(
        maker="timm",
        kind=str(config["architecture"]),
        family="mae" if data.get("tag") == "mae" else None,
        trained="fine-tuned" if classes else "encoder",
        args={**args, "num_classes": classes or 0},
        size=size,
        frames=sound[0] if sound else None,
        mels=sound[1] if sound else None,
        patch=_number(args, "patch_size") or (16 if sound else None),
        stride=(_number(args, "patch_size") or 16) if sound else None,
        num_classes=classes or None,
        class_names=tuple(map(str, names)) if isinstance(names, list) and classes else (),
        pooling=_pooling(config.get("global_pool") or args.get("global_pool")),
        qkv_bias=args.get("qkv_bias") if isinstance(args.get("qkv_bias"), bool) else None,
        preprocessing=Preprocessing(
            _channels(data.get("mean")), _channels(data.get("std")), size, *crop
        ),
    )


def _sound(size: Any) -> tuple[int, int] | None:
    """Frames and mels of a model of one channel that reads more of one than of the other."""
    plain = isinstance(size, list) and len(size) == 3 and all(isinstance(n, int) for n in size)
    if not plain or size[0] != 1 or size[1] == size[2]:
        return None
    return size[1], size[2]


def _preprocessing(prepared: Mapping[str, Any]) -> Preprocessing:
    """What transformers' image or feature processor does, in the words of the data modules."""
    if "num_mel_bins" in prepared:
        return Preprocessing(_channels(prepared.get("mean")), _channels(prepared.get("std")))
    if not prepared:
        return Preprocessing()
    resized, cropped = _edge(prepared.get("size")), _edge(prepared.get("crop_size"))
    crops = bool(prepared.get("do_center_crop")) and cropped and resized
    return Preprocessing(
        mean=_channels(prepared.get("image_mean")),
        std=_channels(prepared.get("image_std")),
        size=cropped if crops else resized,
        interpolation=_RESAMPLE.get(prepared.get("resample", -1)),
        crop_pct=cropped / resized if crops and cropped and resized else 1.0,
    )


def _edge(given: Any) -> int | None:
    """Pixels of a square or of the shorter side: old files have a number, others a dict."""
    if isinstance(given, Mapping):
        given = given.get("shortest_edge", given.get("height"))
    return given if isinstance(given, int) and given > 0 else None


def _class_names(given: Any) -> tuple[str, ...]:
    """The labels in the order of their numbers; none where they are but numbers themselves."""
    if not isinstance(given, Mapping) or not all(str(key).isdigit() for key in given):
        return ()
    names = [str(given[key]) for key in sorted(given, key=lambda key: int(key))]
    plain = all(name == f"LABEL_{number}" for number, name in enumerate(names))
    return () if plain else tuple(names)


def _channels(given: Any) -> tuple[float, ...] | None:
    values = given if isinstance(given, list) else [given]
    if not values or not all(isinstance(value, int | float) for value in values):
        return None
    return tuple(map(float, values))


def _pooling(given: Any) -> str | None:
    return given if given in ("avg", "token") else None


def _number(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _real(config: Mapping[str, Any], name: str) -> float | None:
    value = config.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
