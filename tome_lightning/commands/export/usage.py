"""The lines of Python that load an exported file."""

from __future__ import annotations

from pathlib import Path

from tome_lightning.commands.export.architecture import Architecture
from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.inputs import Clip, Spectrogram


def how_to_load(
    file: Path, format: str, loaded: LoadedModel, architecture: Architecture, batch: int | None
) -> list[str]:
    """Python that loads the file and makes logits of ``x``.

    Args:
        file: Where it is.
        format: safetensors, torch or onnx.
        loaded: What was exported.
        architecture: How its ViT is built.
        batch: Samples of a batch; ``None`` for any number.
    """
    where = repr(str(file))
    if format == "torch":
        return [
            "import torch",
            f"model = torch.export.load({where}).module()",
            f"logits = model(x)  # {_sample(loaded, batch)}",
        ]
    if format == "onnx":
        return [
            "import onnxruntime",
            f'session = onnxruntime.InferenceSession({where}, providers=["CPUExecutionProvider"])',
            f'logits = session.run(["logits"], {{"x": x}})[0]  # {_sample(loaded, batch)}',
        ]
    net = loaded.model
    if format == "hf-folder":
        clips = isinstance(loaded.input, Clip)
        kind = "AutoModelForVideoClassification" if clips else "AutoModelForImageClassification"
        frames = "x.transpose(1, 2)" if clips else "x"
        return [
            "import transformers",
            f"model = transformers.{kind}.from_pretrained({where})",
            f"logits = model.eval()({frames}).logits  # {_sample(loaded, None)}",
        ]
    if format == "timm-hub":
        return [
            "import timm",
            f'vit = timm.create_model("local-dir:{file}", pretrained=True)',
            f"logits = vit.eval()(x)  # {_sample(loaded, None)}",
            "from tome_lightning.tome import patch  # with merging",
            f"logits = patch(vit, r={net.r!r}, prop_attn={net.prop_attn})(x)",
        ]
    imports, build = architecture.lines()
    return [
        imports,
        "from safetensors.torch import load_file",
        build,
        f"vit.load_state_dict(load_file({where}))",
        f"logits = vit.eval()(x)  # {_sample(loaded, None)}",
        "from tome_lightning.tome import patch  # with merging",
        f"logits = patch(vit, r={net.r!r}, prop_attn={net.prop_attn})(x)",
    ]


def _sample(loaded: LoadedModel, batch: int | None) -> str:
    shape = ", ".join(map(str, (batch or "B", *loaded.shape)))
    mean, std = (_number(values) for values in (loaded.mean, loaded.std))
    if isinstance(loaded.input, Spectrogram):
        return f"x: float32 [{shape}], (log-mel - {mean}) / (2 * {std})"
    what = "frames" if isinstance(loaded.input, Clip) else "pixels"
    return f"x: float32 [{shape}], ({what} / 255 - {mean}) / {std}"


def _number(values: tuple[float, ...]) -> str:
    return str(values[0]) if len(values) == 1 else str(values)
