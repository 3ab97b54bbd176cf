"""Small checkpoints in the published layouts, and small models to put them into."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor

WIDTH, DEPTH, HEADS, PATCH, IMAGE, CLASSES = 32, 2, 4, 8, 32, 7


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test; returns the folder that weights are kept in."""
    monkeypatch.setenv("TOME_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def _linear(draw: Callable[..., Tensor], name: str, out: int, into: int) -> dict[str, Tensor]:
    return {f"{name}.weight": draw(out, into), f"{name}.bias": draw(out)}


def _norm(draw: Callable[..., Tensor], name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}


def _block(draw: Callable[..., Tensor], name: str, width: int) -> dict[str, Tensor]:
    return (
        _norm(draw, f"{name}.norm1", width)
        | _linear(draw, f"{name}.attn.qkv", 3 * width, width)
        | _linear(draw, f"{name}.attn.proj", width, width)
        | _norm(draw, f"{name}.norm2", width)
        | _linear(draw, f"{name}.mlp.fc1", 4 * width, width)
        | _linear(draw, f"{name}.mlp.fc2", width, 4 * width)
    )


def official(kind: str, depth: int = DEPTH, width: int = WIDTH, patch: int = PATCH) -> Any:
    """MAE's image layout (protocol 2.2) with random values; kind encoder, full or fine-tuned."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    positions = (IMAGE // patch) ** 2 + 1
    weights = {
        "cls_token": draw(1, 1, width),
        "pos_embed": draw(1, positions, width),
        "patch_embed.proj.weight": draw(width, 3, patch, patch),
        "patch_embed.proj.bias": draw(width),
    }
    for i in range(depth):
        weights |= _block(draw, f"blocks.{i}", width)
    if kind == "fine-tuned":
        weights |= _norm(draw, "fc_norm", width) | _linear(draw, "head", CLASSES, width)
        return weights
    weights |= _norm(draw, "norm", width)
    if kind == "full":
        weights |= {"mask_token": draw(1, 1, 16), "decoder_pos_embed": draw(1, positions, 16)}
        weights |= _linear(draw, "decoder_embed", 16, width)
        weights |= _block(draw, "decoder_blocks.0", 16) | _norm(draw, "decoder_norm", 16)
        weights |= _linear(draw, "decoder_pred", 3 * patch * patch, 16)
    return weights


def build(**changes: Any) -> VisionTransformer:
    """The model that `official` fits, with timm's arguments changed as given."""
    torch.manual_seed(1)
    arguments: dict[str, Any] = {
        "img_size": IMAGE,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "num_classes": CLASSES,
        "global_pool": "avg",
    }
    return VisionTransformer(**(arguments | changes)).eval()


@pytest.fixture(name="official")
def official_fixture() -> Callable[..., dict[str, Tensor]]:
    """See `official`."""
    return official


@pytest.fixture(name="build")
def build_fixture() -> Callable[..., VisionTransformer]:
    """See `build`."""
    return build


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write weights as a training run does, under `model`; returns the path."""

    def write(weights: dict[str, Tensor], name: str = "checkpoint.pth") -> Path:
        torch.save({"model": weights}, tmp_path / name)
        return tmp_path / name

    return write
