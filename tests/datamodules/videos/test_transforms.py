"""Clips into model input: one draw for a whole clip, views where they should be."""

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from datamodules import DataError
from datamodules.samples import seeded
from datamodules.videos.clips import crop_starts
from datamodules.videos.transforms import (
    ClipEvalTransform,
    ClipTrainTransform,
    rand_augment,
    same_draw,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAE_ST, VIDEOMAE = "rand-m7-mstd0.5-inc1", "rand-m7-n4-mstd0.5-inc1"
RECIPE: dict[str, Any] = {
    "size": 32, "channels": 3, "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "hflip": 0.5,
    "auto_augment": VIDEOMAE, "repeat_aug": 2,
}  # fmt: skip
RAW = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # leaves pixels from 0 to 255
CROP_ONLY = {"auto_augment": None, "hflip": 0.0, "repeat_aug": 1}


def train(clip: Tensor, seed: int = 0, **changes: Any) -> Tensor:
    transform = ClipTrainTransform(**RECIPE | changes)
    with seeded(seed):
        return transform(clip)


def noise(frames: int = 3, height: int = 40, width: int = 53, seed: int = 0) -> Tensor:
    pixels = np.random.RandomState(seed).randint(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


def ramp(frames: int, height: int, width: int) -> Tensor:
    """Red grows by one a column, green by one a row, blue by ten a frame."""
    clip = torch.zeros(frames, height, width, 3, dtype=torch.uint8)
    clip[..., 0] = torch.arange(width)
    clip[..., 1] = torch.arange(height)[:, None]
    clip[..., 2] = 10 * torch.arange(frames)[:, None, None]
    return clip


def planes(clip: Tensor) -> Tensor:
    """[T, H, W, C] to float32 [C, T, H, W]."""
    return clip.permute(3, 0, 1, 2).float()


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 40, 53), (3, 53, 40), (4, 33, 33), (2, 20, 91), (2, 1, 1)]
)
def test_training_views_have_the_asked_shape(frames: int, height: int, width: int) -> None:
    for seed in range(5):
        x = train(noise(frames, height, width), seed)
        assert x.shape == (2, 3, frames, 32, 32)
        assert x.dtype == torch.uint8


@pytest.mark.parametrize("auto_augment", [None, MAE_ST, VIDEOMAE])
def test_the_whole_clip_has_one_draw(auto_augment: str | None) -> None:
    still = noise(1).expand(4, -1, -1, -1)
    for seed in range(20):
        x = train(still, seed, auto_augment=auto_augment)
        assert (x == x[:, :, :1]).all()


def test_repeats_have_draws_of_their_own() -> None:
    for auto_augment in (None, MAE_ST, VIDEOMAE):
        x = train(noise(), auto_augment=auto_augment, repeat_aug=4)
        assert all((x[a] != x[b]).any() for a in range(4) for b in range(a))


def test_repeats_differ_in_rand_augment_too() -> None:
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0}
    x = train(noise(2, 32, 32), auto_augment="rand-m9-n4-p1", repeat_aug=4, **whole)
    assert all((x[a] != x[b]).any() for a in range(4) for b in range(a))


def test_the_views_depend_on_the_seeds_alone() -> None:
    clip = noise()
    before = clip.clone()
    first = train(clip, 7)
    random.random(), np.random.rand(), torch.rand(3)
    assert torch.equal(train(clip, 7), first)
    assert not torch.equal(train(clip, 8), first)
    assert torch.equal(clip, before)


def test_frames_are_augmented_as_if_each_were_alone() -> None:
    augment = rand_augment("rand-m9-n4-mstd0.5-p1", 3)
    frames = [Image.fromarray(frame) for frame in noise(3).numpy()]
    for seed in range(10):
        with seeded(seed):
            together = same_draw(augment, frames)
        for frame, augmented in zip(frames, together, strict=True):
            with seeded(seed):
                assert augment(frame).tobytes() == augmented.tobytes()


def test_many_frames_take_as_many_random_numbers_as_one() -> None:
    augment = rand_augment(VIDEOMAE, 3)
    frames = [Image.fromarray(frame) for frame in noise(5).numpy()]

    def next_numbers(count: int) -> tuple[float, float]:
        with seeded(3):
            same_draw(augment, frames[:count])
            return random.random(), float(np.random.rand())

    assert next_numbers(1) == next_numbers(5)
    with seeded(3):
        assert next_numbers(1) != (random.random(), float(np.random.rand()))


@pytest.mark.parametrize("config", [MAE_ST, VIDEOMAE, "rand-m10-n8-inc1-p1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_draw_of_rand_augment_succeeds(config: str, channels: int) -> None:
    """The strongest posterize asks for 0 bits, which Pillow 13 refuses."""
    settings = {"size": 8, "auto_augment": config, "channels": channels}
    transform = ClipTrainTransform(**RECIPE | settings)
    for seed in range(60):
        with seeded(seed):
            assert transform(noise(2, 12, 14)).shape == (2, channels, 2, 8, 8)


@pytest.mark.parametrize(("height", "width"), [(40, 53), (53, 40), (300, 31)])
def test_the_crop_is_torchvisions_with_one_box_and_no_antialias(height: int, width: int) -> None:
    """The oracle crops a float video [T, C, H, W] in one call: one box for all its frames."""
    clip = noise(3, height, width)
    crop = v2.RandomResizedCrop(32, RECIPE["scale"], RECIPE["ratio"], antialias=False)
    for seed in range(10):
        with seeded(seed):
            expected = crop(clip.permute(0, 3, 1, 2).float())
        x = train(clip, seed, **CROP_ONLY)[0].float()
        # rounded; and 0.001 of 255: torch has two float kernels, chosen by the number of channels
        torch.testing.assert_close(x, expected.transpose(0, 1), rtol=0, atol=0.5 + 1e-3)


def test_a_crop_moves_with_the_pixels_of_the_ramp() -> None:
    """Red and green tell the place of each pixel: all frames show the same rectangle."""
    for seed in range(10):
        x = train(ramp(3, 100, 120), seed, **CROP_ONLY)[0].int()
        assert (x[0] == x[0, :, :1]).all()  # the columns are the same in all rows
        assert (x[0] == x[0, :1]).all()  # and in all frames
        assert (x[1] == x[1, :1]).all()
        assert (x[0, 0, 0].diff() >= 0).all()
        assert len(x[0].unique()) > 8
        assert [frame.unique().tolist() for frame in x[2]] == [[0], [10], [20]]


def test_a_flip_mirrors_all_frames() -> None:
    for seed in range(5):
        kept = train(noise(), seed, **CROP_ONLY)
        assert torch.equal(train(noise(), seed, **CROP_ONLY | {"hflip": 1.0}), kept.flip(-1))


def test_half_of_the_views_are_flipped_at_a_probability_of_a_half() -> None:
    x = train(ramp(1, 40, 40), **CROP_ONLY | {"hflip": 0.5, "repeat_aug": 200, "size": 8})
    flipped = x[:, 0, 0, 0, 0] > x[:, 0, 0, 0, -1]
    assert 70 <= int(flipped.sum()) <= 130  # four standard deviations


def test_with_everything_off_a_training_clip_is_the_whole_clip() -> None:
    off = {"auto_augment": None, "hflip": 0.0, "scale": (1, 1), "ratio": (1, 1)}
    x = train(noise(3, 32, 32), **off)
    assert torch.equal(x, noise(3, 32, 32).permute(3, 0, 1, 2).expand(2, -1, -1, -1, -1))


def test_grey_clips_are_those_of_pil() -> None:
    clip = noise(2, 32, 32)
    grey = torch.stack([
        torch.from_numpy(np.array(Image.fromarray(frame).convert("L"))) for frame in clip.numpy()
    ])  # fmt: skip
    x = train(clip, **CROP_ONLY, channels=1, scale=(1, 1), ratio=(1, 1)).float()
    y = ClipEvalTransform(32, 1, (0.0,), (1 / 255,))(clip[None])
    assert x.shape == y.shape == (1, 1, 2, 32, 32)
    torch.testing.assert_close(x, y)
    assert (x[0, 0] - grey).abs().max() <= 1  # PIL's weights are rounded to 16 bits
    assert (x[0, 0] - grey).abs().mean() < 0.01
    white = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    assert ClipEvalTransform(4, 1, (0.0,), (1.0,))(white[None]).unique().tolist() == [1.0]


@pytest.mark.parametrize(("height", "width"), [(64, 90), (90, 64), (65, 91), (47, 33), (32, 32)])
@pytest.mark.parametrize("crops", [1, 2, 3, 5])
def test_evaluation_views_are_crops_of_the_clip_resized(
    height: int, width: int, crops: int
) -> None:
    clips = torch.stack([noise(2, height, width, seed) for seed in range(3)])
    views = ClipEvalTransform(32, crops, **RAW)(clips)
    assert views.shape == (3 * crops, 3, 2, 32, 32)
    assert views.dtype == torch.float32
    short, long = min(height, width), max(height, width)
    resized_long = int(32 * long / short)
    shape = (resized_long, 32) if height > width else (32, resized_long)
    starts = crop_starts(resized_long, 32, crops)
    for v, view in enumerate(views):
        resized = interpolate(planes(clips[v // crops]), shape, mode="bilinear", antialias=False)
        start = starts[v % crops]
        rows, columns = (start, 0) if height > width else (0, start)
        expected = resized[..., rows : rows + 32, columns : columns + 32]
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-3)


def test_evaluation_does_not_antialias() -> None:
    clip = noise(1, 128, 128)
    x = ClipEvalTransform(32, 1, **RAW)(clip[None])[0]
    # at a quarter of the size a pixel is the mean of the 2x2 in the middle of its 4x4
    middle = planes(clip).unfold(2, 4, 4).unfold(3, 4, 4)[..., 1:3, 1:3].mean((-1, -2))
    torch.testing.assert_close(x, middle)


@pytest.mark.parametrize("portrait", [False, True])
def test_spatial_crops_go_along_the_long_side(portrait: bool) -> None:
    clip = ramp(2, 32, 81)
    if portrait:
        clip = clip.transpose(1, 2)  # red now grows by one a row
    views = ClipEvalTransform(32, 3, **RAW)(clip[None])
    first_pixels = views[:, 0, 0, 0, 0]
    torch.testing.assert_close(first_pixels, torch.tensor([0.0, 24.0, 49.0]))
    last_pixels = views[:, 0, 0, -1, -1]
    torch.testing.assert_close(last_pixels, first_pixels + 31)
    centre = ClipEvalTransform(32, 1, **RAW)(clip[None])
    assert torch.equal(centre, views[1:2])


@pytest.mark.parametrize("portrait", [False, True])
def test_a_crop_from_larger_frames_lies_in_their_middle(portrait: bool) -> None:
    clip = ramp(2, 37, 81)  # 5 and 49 pixels more than a crop
    if portrait:
        clip = clip.transpose(1, 2)
    for up, middle in ((False, (24, 2)), (True, (25, 3))):
        view = ClipEvalTransform(32, 1, **RAW, short_side=37, rounds_up=up)(clip[None])[0]
        assert view.shape == (3, 2, 32, 32)
        assert (view[0, 0, 0, 0], view[1, 0, 0, 0]) == middle
        views = ClipEvalTransform(32, 3, **RAW, short_side=37, rounds_up=up)(clip[None])
        assert views[:, 0, 0, 0, 0].tolist() == [0, middle[0], 49]
        assert views[:, 1, 0, 0, 0].tolist() == [middle[1]] * 3
        assert torch.equal(views[1], view)


def test_views_count_crops_faster_than_clips() -> None:
    clips = torch.arange(0, 40, 10, dtype=torch.uint8).view(4, 1, 1, 1, 1).expand(4, 2, 8, 20, 3)
    views = ClipEvalTransform(8, 3, **RAW)(clips)
    shades = views.mean((1, 2, 3, 4))
    torch.testing.assert_close(shades, torch.arange(0.0, 40, 10).repeat_interleave(3))


def test_frames_stay_in_order() -> None:
    x = ClipEvalTransform(16, 1, **RAW)(ramp(5, 20, 30)[None])
    torch.testing.assert_close(x[0, 2].mean((1, 2)), 10 * torch.arange(5.0))


def test_normalisation_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    clip = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(1, 2, 40, 50, 3)
    x = ClipEvalTransform(32, 1, MEAN, STD)(clip)
    expected = (torch.tensor([0, 128 / 255, 1]) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(x.mean((0, 2, 3, 4)), expected)


def test_both_transforms_survive_the_way_into_a_spawned_worker() -> None:
    clip = noise()
    training, evaluation = ClipTrainTransform(**RECIPE), ClipEvalTransform(32, 3, MEAN, STD)
    for seed in range(5):
        with seeded(seed):
            expected = training(clip)
        with seeded(seed):
            assert torch.equal(pickle.loads(pickle.dumps(training))(clip), expected)
    copy = pickle.loads(pickle.dumps(evaluation))
    assert torch.equal(copy(clip[None]), evaluation(clip[None]))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"auto_augment": "rand-z9"}, "auto_augment='rand-z9'"),
        ({"auto_augment": "original"}, "auto_augment='original'"),
        ({"auto_augment": ""}, "auto_augment=''"),
        ({"size": 0}, "size must be 1 or more, got 0"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"scale": (0.5, 0.1)}, "scale must be a range"),
        ({"ratio": (0.0, 1.0)}, "ratio must be a range"),
        ({"hflip": 2.0}, "hflip must be in"),
        ({"repeat_aug": 0}, "repeat_aug must be 1 or more, got 0"),
    ],
)
def test_a_training_setting_without_meaning_is_one_clear_line(
    changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(DataError, match=line) as error:
        ClipTrainTransform(**RECIPE | changes)
    assert "\n" not in str(error.value)


def test_an_evaluation_setting_without_meaning_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="crops must be 1 or more, got 0"):
        ClipEvalTransform(32, 0, MEAN, STD)
    with pytest.raises(DataError, match=r"short_side.*31"):
        ClipEvalTransform(32, 1, MEAN, STD, short_side=31)
    with pytest.raises(DataError, match="mean must be 1 or 3 numbers"):
        ClipEvalTransform(32, 1, (), ())
    with pytest.raises(DataError, match="std must be 3 numbers"):
        ClipEvalTransform(32, 1, MEAN, (0.5,))
    with pytest.raises(DataError, match="std must be above 0"):
        ClipEvalTransform(32, 1, MEAN, (0.5, 0.5, 0.0))
