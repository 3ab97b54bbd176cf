"""Small checkpoints in the published layouts, and small models to put them into."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import PatchEmbed
from timm.models import VisionTransformer
from torch import Tensor

from checkpoints import CheckpointError, load
from tome_lightning.inputs import Clip

WIDTH, DEPTH, HEADS, PATCH, IMAGE, CLASSES = 32, 2, 4, 8, 32, 7
FRAMES, TUBELET = 6, 2  # a grid of 3 x 4 x 4


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


def mae_st(kind: str, positions: str = "separable", class_token: bool = True) -> Any:
    """mae_st's video layout (protocol 2.2) with random values; kind encoder, full or fine-tuned.

    positions: "separable" or "joint".
    """
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    steps, places = FRAMES // TUBELET, (IMAGE // PATCH) ** 2
    weights = {
        "patch_embed.proj.weight": draw(WIDTH, 3, TUBELET, PATCH, PATCH),
        "patch_embed.proj.bias": draw(WIDTH),
    }
    if class_token:
        weights["cls_token"] = draw(1, 1, WIDTH)
    if positions == "joint":
        weights["pos_embed"] = draw(1, class_token + steps * places, WIDTH)
    else:
        weights["pos_embed_spatial"] = draw(1, places, WIDTH)
        weights["pos_embed_temporal"] = draw(1, steps, WIDTH)
        if class_token:
            weights["pos_embed_class"] = draw(1, 1, WIDTH)
    for i in range(DEPTH):
        weights |= _norm(draw, f"blocks.{i}.norm1", WIDTH)
        for part in ("q", "k", "v", "proj"):
            weights |= _linear(draw, f"blocks.{i}.attn.{part}", WIDTH, WIDTH)
        weights |= _norm(draw, f"blocks.{i}.norm2", WIDTH)
        weights |= _linear(draw, f"blocks.{i}.mlp.fc1", 4 * WIDTH, WIDTH)
        weights |= _linear(draw, f"blocks.{i}.mlp.fc2", WIDTH, 4 * WIDTH)
    weights |= _norm(draw, "norm", WIDTH)
    if kind == "fine-tuned":
        weights |= _linear(draw, "head", CLASSES, WIDTH)
    if kind == "full":
        weights |= {"mask_token": draw(1, 1, 16), "decoder_cls_token": draw(1, 1, 16)}
        weights |= {"decoder_pos_embed_spatial": draw(1, places, 16)}
        weights |= {"decoder_pos_embed_temporal": draw(1, steps, 16)}
        weights |= {"decoder_pos_embed_class": draw(1, 1, 16)}
        weights |= _linear(draw, "decoder_embed", 16, WIDTH) | _norm(draw, "decoder_norm", 16)
        weights |= _linear(draw, "decoder_blocks.0.attn.q", 16, 16)
        weights |= _linear(draw, "decoder_pred", 3 * PATCH * PATCH, 16)
    return weights


def videomae(kind: str) -> Any:
    """VideoMAE's layout (protocol 2.2) with random values; kind full or fine-tuned."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    weights = {
        "patch_embed.proj.weight": draw(WIDTH, 3, TUBELET, PATCH, PATCH),
        "patch_embed.proj.bias": draw(WIDTH),
    }
    for i in range(DEPTH):
        weights |= _block(draw, f"blocks.{i}", WIDTH)
        q_bias, _, v_bias = weights.pop(f"blocks.{i}.attn.qkv.bias").chunk(3)
        weights[f"blocks.{i}.attn.q_bias"] = q_bias.clone()
        weights[f"blocks.{i}.attn.v_bias"] = v_bias.clone()
    if kind == "fine-tuned":
        return weights | _norm(draw, "fc_norm", WIDTH) | _linear(draw, "head", CLASSES, WIDTH)
    weights = {f"encoder.{name}": w for name, w in (weights | _norm(draw, "norm", WIDTH)).items()}
    weights |= {"encoder_to_decoder.weight": draw(16, WIDTH), "mask_token": draw(1, 1, 16)}
    weights |= _block(draw, "decoder.blocks.0", 16) | _norm(draw, "decoder.norm", 16)
    return weights | _linear(draw, "decoder.head", 3 * TUBELET * PATCH * PATCH, 16)


def audiomae(kind: str, rows: int = 512, swin: bool = True) -> Any:
    """AudioMAE's layout (protocol 2.2) with random values; kind encoder, full or fine-tuned.

    rows: patches in the position table; swin: the published decoder's shifted-window blocks.
    """
    generator = torch.Generator().manual_seed(8)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    weights = {
        "cls_token": draw(1, 1, WIDTH),
        "pos_embed": draw(1, rows + 1, WIDTH),
        "patch_embed.proj.weight": draw(WIDTH, 1, 16, 16),
        "patch_embed.proj.bias": draw(WIDTH),
    }
    for i in range(DEPTH):
        weights |= _block(draw, f"blocks.{i}", WIDTH)
    if kind == "fine-tuned":
        return weights | _norm(draw, "fc_norm", WIDTH) | _linear(draw, "head", 527, WIDTH)
    weights |= _norm(draw, "norm", WIDTH)
    if kind == "full":
        weights |= {"mask_token": draw(1, 1, 16), "decoder_pos_embed": draw(1, rows + 1, 16)}
        weights |= _linear(draw, "decoder_embed", 16, WIDTH) | _norm(draw, "decoder_norm", 16)
        weights |= _linear(draw, "decoder_pred", 256, 16)
        for i in range(2):
            attention = f"decoder_blocks.{i}.attn"
            weights |= _block(draw, f"decoder_blocks.{i}", 16)
            if swin:
                weights |= _linear(draw, f"{attention}.meta_mlp.fc1", 384, 2)
                weights |= _linear(draw, f"{attention}.meta_mlp.fc2", 2, 384)
                weights |= {f"{attention}.tau": draw(2)}
    return weights


class OverlapEmbed(PatchEmbed):
    """Patches every 10 cells, as AudioMAE's other patch embedding cuts them."""

    def _init_img_size(self, img_size: Any) -> Any:
        grid = tuple((size - 16) // 10 + 1 for size in img_size)
        return img_size, grid, grid[0] * grid[1]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.proj.stride = (10, 10)


def build_audio(frames: int = 1024, mels: int = 128, **changes: Any) -> VisionTransformer:
    """The model that `audiomae` fits, with timm's arguments changed as given."""
    arguments = {"img_size": (frames, mels), "patch_size": 16, "in_chans": 1, "num_classes": 527}
    return build(**(arguments | changes))


def build_video(positions: str = "separable", **changes: Any) -> VisionTransformer:
    """The model that `mae_st` fits, or with positions="sinusoid" the one of `videomae`.

    Clip's own arguments (frames, size, tubelet, patch, channels) and timm's are changed as given.
    """
    torch.manual_seed(1)
    clip = {"frames": FRAMES, "size": IMAGE, "tubelet": TUBELET, "patch": PATCH, "channels": 3}
    clip |= {name: changes.pop(name) for name in clip.keys() & changes}
    arguments = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": CLASSES}
    arguments |= {"global_pool": "avg", "class_token": positions != "sinusoid"}
    return Clip(positions=positions, **clip).build(**(arguments | changes)).eval()


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


@pytest.fixture(name="mae_st")
def mae_st_fixture() -> Callable[..., dict[str, Tensor]]:
    """See `mae_st`."""
    return mae_st


@pytest.fixture(name="videomae")
def videomae_fixture() -> Callable[..., dict[str, Tensor]]:
    """See `videomae`."""
    return videomae


@pytest.fixture(name="audiomae")
def audiomae_fixture() -> Callable[..., dict[str, Tensor]]:
    """See `audiomae`."""
    return audiomae


@pytest.fixture(name="build_audio")
def build_audio_fixture() -> Callable[..., VisionTransformer]:
    """See `build_audio`; `overlap_embed` is the embed_layer of stride 10."""
    return build_audio


@pytest.fixture
def overlap_embed() -> type[PatchEmbed]:
    """See `OverlapEmbed`."""
    return OverlapEmbed


@pytest.fixture(name="build_video")
def build_video_fixture() -> Callable[..., VisionTransformer]:
    """See `build_video`."""
    return build_video


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write weights as a training run does, under `model`; returns the path."""

    def write(weights: dict[str, Tensor], name: str = "checkpoint.pth") -> Path:
        torch.save({"model": weights}, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def assert_refused(save: Callable[..., Path]) -> Callable[..., None]:
    """Load weights into a model that cannot take them: one line names the file; nothing is changed."""

    def attempt(
        weights: dict[str, Tensor], vit: VisionTransformer, line: str, **options: Any
    ) -> None:
        path, before = save(weights), {n: value.clone() for n, value in vit.state_dict().items()}
        with pytest.raises(CheckpointError, match=line) as refused:
            load(vit, path, **options)
        assert "\n" not in str(refused.value)
        assert str(path) in str(refused.value)
        assert all(torch.equal(value, before[n]) for n, value in vit.state_dict().items())

    return attempt
