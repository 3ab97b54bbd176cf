"""Images in class folders or file lists, with the transforms of MAE's fine-tuning."""

import os
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL.Image import registered_extensions

from datamodules.errors import DataError, require
from datamodules.filelist import (
    IMAGE_EXTENSIONS,
    UNLABELLED,
    FileList,
    class_folders,
    read_names,
)
from datamodules.images.check import ImageCheck
from datamodules.images.reading import read_image
from datamodules.images.transforms import EvalTransform, Interpolation, train_transform
from datamodules.kept import folder_listed_once, list_read_once
from datamodules.on_device import DeviceTransform
from datamodules.rooted import SingleLabelled
from datamodules.samples import Samples
from datamodules.shards.member import file_of
from datamodules.unlabelled import files_to_predict, plain_folder
from datamodules.videos.class_names import numbered, refuse_other_folders


class ImageNet(SingleLabelled):
    """`root/{train,val}/<class>/*`, file lists or shards; any number of classes.

    The class index is the alphabetical order of the folders. Images may lie in sub-folders of a
    class, behind links as well; what is hidden, a thumbnail or of another kind is left out and named.
    `test` is `root/test` if that has class folders, else `val`. For prediction `root`, or `root/test`,
    may be a plain folder of images. Training x: `[B, C, size, size]`; evaluation x:
    `[B, 1, C, size, size]`; uint8 from the loader, see `prepare`. The defaults are MAE's fine-tuning
    recipe for ImageNet-1k.

    Args:
        root: Folder of the data set, also one of shards, or `hf://datasets/OWNER/NAME[@REVISION]`.
        batch_size: Training images in a batch on each process.
        train_list: Text file with one `path,label` or `path label` a line, instead of
            `root/train`; paths are relative to root, labels count from 0.
        val_list: The same instead of `root/val`.
        test_list: The same for the test split; `val_list` if null. For prediction a list may be one of
            paths alone.
        class_list: Text file with one class name a line, for file lists; without it the names are
            the numbers, or in evaluation those of the checkpoint.
        size: Side of the square input in pixels.
        channels: 3 for RGB, 1 for grey.
        mean: Mean of each channel on the scale 0 to 1.
        std: Standard deviation of each channel on the same scale.
        scale: Range of the random crop's share of the image area.
        ratio: Range of the random crop's width over height.
        hflip: Probability of a horizontal flip in training.
        auto_augment: timm's string for RandAugment and its kin; null for none.
        color_jitter: Strength of brightness, contrast and saturation jitter; needs auto_augment
            null or a 3-Augment string, since timm leaves it out otherwise.
        interpolation: How crops and images are resized.
        reprob: Probability of random erasing.
        remode: What erased pixels become: noise (pixel), one colour (rand), zero (const).
        recount: Greatest number of erased boxes.
        exif: Turn pictures upright as their EXIF orientation says, as phones write it and viewers do.
        crop_pct: Share of the resized short side that the centre crop keeps; if null 224/256 up
            to size 224 and 1 above, as in MAE.
        **loading: The other options of `datamodules.rooted.RootedData`, with their defaults.

    Raises:
        DataError: A setting has no meaning. What is wrong with the files is raised by `setup`.
    """

    what, feature = "images", "Image"

    def __init__(
        self,
        root: str,
        batch_size: int = 32,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        class_list: str | None = None,
        size: int = 224,
        channels: Literal[1, 3] = 3,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        color_jitter: float | None = None,
        interpolation: Interpolation = "bicubic",
        reprob: float = 0.25,
        remode: Literal["pixel", "rand", "const"] = "pixel",
        recount: int = 1,
        exif: bool = True,
        crop_pct: float | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(root, batch_size, **loading)
        self.lists = {"train": train_list, "val": val_list, "test": test_list or val_list}
        self._test_list = test_list
        self.class_list = class_list
        self._lists_read: dict[str, FileList] = {}
        self._plain: Path | None = None  # where all images are predicted
        self.channels = channels
        self.exif = exif
        self.sample_shape = (channels, size, size)  # of one view
        require("size", size, size >= 1, "1 or more")
        require("channels", channels, channels in (1, 3), "1 or 3")
        for name, values in (("mean", mean), ("std", std)):
            require(name, values, len(values) == channels, f"{channels} numbers, one a channel")
        require("std", std, all(value > 0 for value in std), "above 0")
        for name, pair in (("scale", scale), ("ratio", ratio)):
            require(name, pair, 0 < pair[0] <= pair[1], "a range (low, high) above 0")
        require("hflip", hflip, 0 <= hflip <= 1, "in [0, 1]")
        known = interpolation in ("bilinear", "bicubic")
        require("interpolation", interpolation, known, "bilinear or bicubic")
        if crop_pct is None:
            crop_pct = 224 / 256 if size <= 224 else 1.0
        require("crop_pct", crop_pct, 0 < crop_pct <= 1, "in (0, 1]")
        if color_jitter and auto_augment and "3a" not in auto_augment:
            raise DataError(
                f"color_jitter={color_jitter} has no effect with auto_augment={auto_augment!r}; "
                "set one of the two to null"
            )
        self._train_transform = train_transform(
            size, tuple(mean), scale, ratio, hflip, auto_augment, color_jitter, interpolation
        )
        self._eval_transform = EvalTransform(size, crop_pct, interpolation)
        self.on_device = DeviceTransform(tuple(mean), tuple(std), 2, reprob, remode, recount)
        self.preprocessing = {
            "mean": tuple(mean), "std": tuple(std), "size": size, "interpolation": interpolation,
            "crop_pct": crop_pct,
        }  # fmt: skip

    def check_files(self, stage: str | None) -> None:
        """Refuse a missing root, split or list and class folders that differ; reads no image."""
        if not Path(self.root).is_dir():
            raise DataError(f"root {self.root} is not a folder; expected train/ and val/ in it")
        if self._predicting != (stage == "predict"):  # which takes lists that others do not
            self._predicting, self._lists_read, self._files = stage == "predict", {}, {}
        self._plain = self._plain_folder() if self._predicting else None
        if self._plain is not None:
            self._list("test")
        elif self._from_lists:
            self._check_lists(stage)
        else:
            self._check_folders(stage)
        if self.num_classes < 2:
            raise DataError(
                f"{self.root} has one class only ({self.class_names[0]}): nothing to learn"
            )

    @property
    def extensions(self) -> tuple[str, ...]:
        """Endings of the pictures that Pillow reads here."""
        return tuple(end for end in IMAGE_EXTENSIONS if end in registered_extensions())

    def listed(self, split: str) -> FileList:
        """The images of train, val or test from folders or lists."""
        listed = self._from_lists or self._plain is not None
        return self._list(split) if listed else self._scan(split)

    def file_check(self, quick: bool = False) -> ImageCheck:
        """What `scan` does with each file; see `ImageCheck`."""
        return ImageCheck(self.channels, self.exif, quick)

    def build(self, split: str) -> Samples:
        """List the files of train, val or test."""
        files = self.files(split)
        train = split == "train"
        return Samples(
            split,
            self.folder,
            files,
            partial(read_image, channels=self.channels, exif=self.exif),
            self._train_transform if train else self._eval_transform,
            seed=self.seed,
            workers=self.workers,
            max_retries=self.max_retries,
            max_corrupt_share=self.max_corrupt_share,
            evaluation=not train,
            read_draws=False,
            transform_draws=train,
        )

    def find_class_names(self) -> list[str]:
        """Class names by folders, lists or a checkpoint."""
        path = None if self.class_list is None else Path(self.root, self.class_list)
        if path is not None and (self.known_classes is None or path.is_file()):
            return read_names(path)
        if self.known_classes is not None:
            return self.known_classes
        train = Path(self.root, "train")
        if not self._from_lists and self._plain is None:
            return class_folders(train if train.is_dir() else Path(self.root, "val"))
        given = [split for split in ("train", "val") if self.lists[split] and self._plain is None]
        if not given and train.is_dir():
            return class_folders(train)
        if not given and self.head_classes is not None:
            return [str(label) for label in range(self.head_classes)]
        if self._plain is not None:
            return numbered(self._plain, self._list("test"))
        lists = [
            (Path(self.root, str(self.lists[name])), self._list(name)) for name in given or ["test"]
        ]
        return max((numbered(path, files) for path, files in lists), key=len)

    def _check_folders(self, stage: str | None) -> None:
        if self.class_list is not None:
            raise DataError("class_list goes with train_list and val_list; folders have names")
        for split in _needed(stage):
            name = self._test_folder if split == "test" else split
            folder = Path(self.root, name)
            if not folder.is_dir():
                raise DataError(f"{folder} is missing; expected {name}/<class>/<image> in root")
            classes = class_folders(folder)
            if not classes:
                raise DataError(f"{folder} has no class folders; expected {name}/<class>/<image>")
            known = self.known_classes is not None
            refuse_other_folders(folder, classes, self.class_names, of_checkpoint=known)

    @property
    def _test_folder(self) -> str:
        folder = Path(self.root, "test")
        if not folder.is_dir():
            return "val"
        if not class_folders(folder):  # ImageNet's own test images have no public labels
            rank_zero_warn(f"{folder} has no class folders to take labels from: testing on val")
            return "val"
        return "test"

    def _scan(self, split: str) -> FileList:
        folder = self._test_folder if split == "test" else split
        found = set(class_folders(Path(self.root, folder)))
        labels = {name: label for label, name in enumerate(self.class_names) if name in found}
        files, left_out = folder_listed_once(
            Path(self.root), folder, labels, self.extensions, self.asked
        )
        if left_out:
            rank_zero_warn(f"{Path(self.root, folder)}: {left_out}")
        present = np.bincount(files.labels, minlength=self.num_classes) > 0
        empty = [
            name for name, any_file in zip(self.class_names, present, strict=True) if not any_file
        ]
        if not empty:
            return files
        line = (
            f"{Path(self.root, folder)}: {len(empty)} of {self.num_classes} "
            f"{'class folders hold' if len(labels) == self.num_classes else 'classes have'} no image, "
            f"for example {empty[0]}"
        )
        if split == "train" or not len(files):
            raise DataError(f"{line}; fill them, or remove them in every split")
        rank_zero_warn(line)
        return files

    @property
    def _from_lists(self) -> bool:
        return any(self.lists.values())

    def _plain_folder(self) -> Path | None:
        """The folder whose images are predicted without a list or class folders, if there is one."""
        listed = self.lists["test"]
        if self._test_list or (listed and Path(self.root, listed).is_file()):
            return None
        return plain_folder(
            Path(self.root), self.extensions
        )  # a checkpoint's val_list is not of new data

    def _list(self, split: str) -> FileList:
        if split not in self._lists_read and self._plain is not None:
            paths = files_to_predict(Path(self.root), self._plain, self.extensions, "images")
            self._lists_read[split] = FileList(paths, [UNLABELLED] * len(paths))
        if split not in self._lists_read:
            path = self.lists[split]
            if path is None:
                raise DataError(f"{split}_list is not set; file lists are needed for every split")
            self._lists_read[split] = list_read_once(
                Path(self.root, path), self.asked, bare=self._predicting
            )
        return self._lists_read[split]

    def _check_lists(self, stage: str | None) -> None:
        for split in _needed(stage):
            files = self._list(split)
            path = Path(self.root, str(self.lists[split]))
            first = Path(self.root, self.files(split)[0][0])
            if not os.path.isfile(file_of(str(first))):
                raise DataError(f"{path} names {first}, which is no file; paths start from root")
            highest = int(files.labels.max())
            if highest >= self.num_classes:
                raise DataError(
                    f"{path} has label {highest}, but there are {self.num_classes} classes, "
                    "0 the first"
                )
            counts = files.class_counts(self.num_classes)
            if split == "train" and self.class_list is None and not counts.all():
                raise DataError(
                    f"{path}: no file has label {int(counts.argmin())} of 0 to "
                    f"{self.num_classes - 1}; count labels from 0, or give a class_list"
                )


def _needed(stage: str | None) -> tuple[str, ...]:
    return {"fit": ("train", "val"), None: ("train", "val"), "validate": ("val",)}.get(
        stage, ("test",)
    )
