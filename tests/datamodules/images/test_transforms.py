"""Opening and transforming images."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms as v1

from datamodules import DataError
from datamodules.images.transforms import EvalTransform, posterize, train_transform
from datamodules.on_device import DeviceTransform
from datamodules.samples import seeded

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RECIPE: dict[str, Any] = {
    "size": 32, "mean": MEAN, "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "hflip": 0.5,
    "auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": None, "interpolation": "bicubic",
}  # fmt: skip


def ramp(width: int, height: int) -> Image.Image:
    """Red grows by one a column, green by one a row."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width)[None] % 256
    pixels[..., 1] = np.arange(height)[:, None] % 256
    return Image.fromarray(pixels)


def test_evaluation_equals_the_composition_of_the_protocol() -> None:
    image = ramp(500, 375)
    expected = v1.Compose([
        v1.Resize(256, interpolation=v1.InterpolationMode.BICUBIC), v1.CenterCrop(224),
        v1.ToTensor(), v1.Normalize(MEAN, STD),
    ])(image)  # fmt: skip
    view = EvalTransform(224, 224 / 256, "bicubic")(image)
    assert (view.shape, view.dtype) == ((1, 3, 224, 224), torch.uint8)
    assert torch.equal(DeviceTransform(MEAN, STD, 2)(view)[0], expected)


def test_an_image_of_the_resized_size_is_only_cropped_and_scaled() -> None:
    x = EvalTransform(224, 224 / 256, "bicubic")(ramp(256, 256))[0]
    columns = torch.arange(16, 240, dtype=torch.uint8)  # 16 pixels go on each side
    torch.testing.assert_close(x[0], columns.expand(224, 224))
    torch.testing.assert_close(x[1], columns[:, None].expand(224, 224))


@pytest.mark.parametrize(("size", "pct", "short"), [(224, 224 / 256, 256), (28, 1.0, 28)])
def test_the_short_side_is_the_size_over_the_crop_share(size: int, pct: float, short: int) -> None:
    assert EvalTransform(size, pct, "bicubic").transform.transforms[0].size == [short]


def test_training_images_have_the_asked_size_and_type() -> None:
    x = train_transform(**RECIPE)(ramp(60, 40))
    assert x.shape == (3, 32, 32)
    assert x.dtype == torch.uint8


def test_the_recipe_survives_every_draw_of_rand_augment() -> None:
    """RandAugment's strongest posterize asks for 0 bits, which Pillow 13 refuses."""
    transform = train_transform(**RECIPE | {"auto_augment": "rand-m10-n8-inc1"})
    for index in range(30):
        with seeded(index):
            assert transform(ramp(40, 40)).shape == (3, 32, 32)


def test_no_bits_are_black() -> None:
    assert posterize(ramp(8, 8), 0).getextrema() == ((0, 0), (0, 0), (0, 0))
    assert posterize(ramp(8, 8), 8).getextrema() == ((0, 7), (0, 7), (0, 0))


@pytest.mark.parametrize("auto_augment", [None, "rand-m9-mstd0.5-inc1"])
def test_grey_images_go_through_with_one_channel(auto_augment: str | None) -> None:
    grey = {"mean": (0.5,), "auto_augment": auto_augment}
    transform = train_transform(**RECIPE | grey)
    for index in range(20):
        with seeded(index):
            assert transform(ramp(28, 28).convert("L")).shape == (1, 32, 32)


def test_with_everything_off_a_training_image_is_the_whole_image() -> None:
    off = {"auto_augment": None, "hflip": 0.0, "scale": (1, 1), "ratio": (1, 1)}
    x = train_transform(**RECIPE | off)(ramp(32, 32))
    assert torch.equal(x, EvalTransform(32, 1.0, "bicubic")(ramp(32, 32))[0])


@pytest.mark.parametrize("auto_augment", [None, "rand-m9-mstd0.5-inc1"])
def test_training_images_normalised_on_the_device_are_those_of_timm(
    auto_augment: str | None,
) -> None:
    """To the last bit on the CPU: the oracle is timm's whole pipeline in a worker."""
    settings = RECIPE | {"auto_augment": auto_augment}
    whole = {name: value for name, value in settings.items() if name != "size"}
    timms = create_transform((3, 32, 32), is_training=True, std=STD, **whole)
    ours, finish = train_transform(**settings), DeviceTransform(MEAN, STD, 2)
    for index in range(10):
        with seeded(index):
            expected = timms(ramp(60, 40))
        with seeded(index):
            assert torch.equal(finish(ours(ramp(60, 40))[None])[0], expected)


def test_an_unknown_augmentation_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="auto_augment='rand-z9'") as error:
        train_transform(**RECIPE | {"auto_augment": "rand-z9"})
    assert "\n" not in str(error.value)


def test_seeding_leaves_the_generators_of_the_main_process_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def start() -> None:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)

    start()
    expected = draw()
    start()
    with seeded(1, 2):
        first = draw()
    assert draw() == expected
    with seeded(1, 2):
        assert draw() == first
    with seeded(2, 1):
        assert draw() != first
