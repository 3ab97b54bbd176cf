"""Pictures as evaluation sees them."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from datamodules.images.reading import read_image
from datamodules.images.transforms import EvalTransform
from tome_lightning.arguments import UsageError
from tome_lightning.commands.loaded import LoadedModel
from tome_lightning.commands.visualize.reading import check_files, read_example
from tome_lightning.inputs import Image as ImageInput
from tome_lightning.tome import patch

SIZES = {"embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 2}


def loaded(channels: int = 3, **data: float) -> LoadedModel:
    vit = timm.models.VisionTransformer(img_size=32, patch_size=8, in_chans=channels, **SIZES)
    mean, std = (0.4,) * channels, (0.25,) * channels
    input = ImageInput(size=32, patch=8, channels=channels)
    return LoadedModel("tiny", patch(vit), input, mean, std, "random", data=dict(data))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    ramp = np.linspace(0, 255, 60 * 40 * 3).reshape(40, 60, 3).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop_pct", [1.0, 0.8])
def test_the_pixels_are_those_of_evaluation(channels: int, crop_pct: float, picture: Path):
    seen = read_example(picture, loaded(channels, crop_pct=crop_pct))
    expected = EvalTransform(32, crop_pct, "bicubic")(read_image(str(picture), channels))[0]
    torch.testing.assert_close(seen.x, (expected / 255 - 0.4) / 0.25)
    assert seen.frames is not None
    assert (seen.frames[0] == expected.permute(1, 2, 0).expand(-1, -1, 3).numpy()).all()


def test_a_photograph_is_turned_upright(picture: Path):
    upright = read_example(picture, loaded()).x
    with Image.open(picture) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn right to see it
        image.rotate(90, expand=True).save(picture.with_name("turned.png"), exif=exif)
    torch.testing.assert_close(read_example(picture.with_name("turned.png"), loaded()).x, upright)


def test_no_picture_s_shape_is_refused(tmp_path: Path):
    Image.new("L", (1, 101)).save(tmp_path / "line.png")
    with pytest.raises(UsageError, match="no picture's shape"):
        read_example(tmp_path / "line.png", loaded())
    with pytest.raises(UsageError, match="is a folder"):
        check_files([tmp_path], loaded().input)
