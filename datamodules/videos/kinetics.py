"""Kinetics-400, or any videos in class folders or lists, as the video MAEs are fine-tuned on them."""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import SPLITS
from datamodules.errors import DataError, require
from datamodules.filelist import (
    UNLABELLED,
    VIDEO_EXTENSIONS,
    FileList,
    class_folders,
    read_names,
)
from datamodules.kept import folder_listed_once, list_read_once
from datamodules.on_device import DeviceTransform
from datamodules.rooted import SingleLabelled
from datamodules.samples import Samples
from datamodules.shards.member import file_of
from datamodules.unlabelled import files_to_predict, plain_folder
from datamodules.videos.check import VideoCheck
from datamodules.videos.class_names import (
    KINETICS400,
    check_labels,
    kinetics400,
    match_folders,
    numbered,
    plain,
)
from datamodules.videos.clip_reader import Decoding, EvalClipReader, TrainClipReader
from datamodules.videos.clips import SAMPLINGS
from datamodules.videos.decoding import choose_decoder
from datamodules.videos.transforms import ClipEvalTransform, ClipTrainTransform

LOOKED_FOR = 100  # files of a list that are looked for before anything starts


class Kinetics400(SingleLabelled):
    """Clips of videos, from `root/{train,val,test}.csv` or `root/{train,val,test}/<class>/*`.

    A list, where there is one, has one `path label` or `path,label` a line; paths start from root.
    `test` is `val` where there is no test list or folder. For prediction `root`, or `root/test`, may be a
    plain folder of videos. Training x: `[B * repeat_aug, C, T, size,
    size]`; validation x: `[B, 1, C, T, size, size]`, the centre of the video; test x: `[B, V, C, T,
    size, size]` with V = test_clips * test_crops views, view v of clip v // test_crops. Training x is
    uint8 from the loader, see `prepare`; evaluation x is float32, since frames rounded to uint8 would
    not be the published protocol. The defaults are those of MAE-ST's fine-tuning.

    Args:
        root: Folder of the data set, also one of shards, or `hf://datasets/OWNER/NAME[@REVISION]`.
        batch_size: Training videos in a batch on each process; each gives repeat_aug clips.
        train_list: List instead of `root/train.csv`; relative paths start from root.
        val_list: The same instead of `root/val.csv`.
        test_list: The same instead of `root/test.csv`. For prediction a list may be one of paths alone.
        class_list: `kinetics400` for its 400 classes, whatever of them is there; a text file with
            one class name a line; null for the class folders in alphabetical order (or, with
            lists, for numbers), or in evaluation for the checkpoint's.
        frames: Frames T of a clip.
        rate: Frames of the video to a frame of the clip, at 30 a second.
        sampling: How clips are placed, `mae_st` or `videomae`; see `datamodules.videos.clips`.
        size: Side of the square frames in pixels.
        mean: Mean of each channel on the scale 0 to 1.
        std: Standard deviation of each channel on the same scale.
        repeat_aug: Augmentations of each decoded clip in a batch.
        scale: Range of the random crop's share of the frame's area.
        ratio: Range of the random crop's width over height.
        hflip: Probability of a horizontal flip.
        auto_augment: timm's string for RandAugment, drawn once for a clip; null for none.
        reprob: Probability of random erasing, one box for a clip.
        remode: What erased pixels become: noise (pixel), one colour (rand), zero (const).
        recount: Greatest number of erased boxes.
        test_clips: Clips over the length of a video in testing.
        test_crops: Crops along the longer side of each of them. Under `mae_st` a single one is cut
            from frames whose short side is 8/7 of `size` (256 for 224), as MAE-ST does.
        decoder: `pyav`, `decord` or `torchcodec`; null is pyav. decord brings FFmpeg 4.1 of 2018, whose
            holes are known: for files that you trust.
        decoder_threads: Threads of the decoder in each worker.
        read_timeout: Seconds after which a video that is still being read counts as bad.
        max_hung: Stop when more reads than this have timed out: each leaves a thread behind.
        **loading: The other options of `datamodules.rooted.RootedData`, with their defaults.

    Raises:
        DataError: A setting has no meaning. What is wrong with the files is raised by `setup`.
    """

    what, feature = "videos", "Video"
    usual_lists = ("train.csv", "val.csv", "test.csv")
    same_class = staticmethod(plain)

    def __init__(
        self,
        root: str,
        batch_size: int = 8,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        class_list: str | None = KINETICS400,
        frames: int = 16,
        rate: int = 4,
        sampling: Literal["mae_st", "videomae"] = "mae_st",
        size: int = 224,
        mean: tuple[float, ...] = (0.45, 0.45, 0.45),
        std: tuple[float, ...] = (0.225, 0.225, 0.225),
        repeat_aug: int = 2,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        auto_augment: str | None = "rand-m7-mstd0.5-inc1",
        reprob: float = 0.25,
        remode: Literal["pixel", "rand", "const"] = "pixel",
        recount: int = 1,
        test_clips: int = 10,
        test_crops: int = 3,
        decoder: Literal["decord", "pyav", "torchcodec"] | None = None,
        decoder_threads: int = 1,
        read_timeout: float = 30.0,
        max_hung: int = 16,
        **loading: Any,
    ) -> None:
        super().__init__(root, batch_size, **loading)
        require("sampling", sampling, sampling in SAMPLINGS, f"one of {', '.join(SAMPLINGS)}")
        require("test_clips", test_clips, test_clips >= 1, "1 or more")
        require("test_crops", test_crops, test_crops >= 1, "1 or more")
        require("decoder_threads", decoder_threads, decoder_threads >= 0, "0 (all cores) or more")
        require("read_timeout", read_timeout, read_timeout > 0, "above 0 (seconds)")
        require("max_hung", max_hung, max_hung >= 0, "0 or more")
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.class_list = class_list
        self.repeat_aug = repeat_aug
        self.test_clips = test_clips
        self.test_crops = test_crops
        self.decoder = decoder
        self.decoder_threads = decoder_threads
        self.read_timeout = read_timeout
        self.max_hung = max_hung
        self.sampling = SAMPLINGS[sampling](frames, rate)
        self.sample_shape = (len(mean), frames, size, size)  # of one view
        self._plain: Path | None = None  # where all videos are predicted
        self._eval_transforms = {
            split: ClipEvalTransform(
                size, crops, tuple(mean), tuple(std), short_side, self.sampling.rounds_up
            )
            for split, crops, short_side in (
                ("val", 1, size),  # sees what the crop in the middle of three does
                ("test", test_crops, self.sampling.short_side(size, test_crops)),
            )
        }
        self._train_transform = ClipTrainTransform(
            size, len(mean), scale, ratio, hflip, auto_augment, repeat_aug
        )
        self.on_device = DeviceTransform(tuple(mean), tuple(std), 3, reprob, remode, recount)
        self.preprocessing = {"mean": tuple(mean), "std": tuple(std), "size": size}

    def check(self, stage: str | None = None) -> None:
        """Find the decoder, and list the videos of the splits that `stage` needs; opens none."""
        choose_decoder(self.decoder)
        super().check(stage)

    def check_files(self, stage: str | None) -> None:
        """Refuse a missing root, and folders or lists that are missing or do not fit together."""
        if not Path(self.root).is_dir():
            raise DataError(
                f"root {self.root} is not a folder; expected train.csv and val.csv, or train/ and "
                "val/ with a folder for each class, in it"
            )
        if self._predicting != (stage == "predict"):  # which takes lists that others do not
            self._predicting, self._files = stage == "predict", {}
        self._plain = self._plain_folder() if self._predicting else None
        for split in SPLITS[stage]:
            self.files(split)
        if self.num_classes < 2:
            raise DataError(f"{self.root} has one class only ({self.class_names[0]})")

    @property
    def extensions(self) -> tuple[str, ...]:
        """Endings of videos."""
        return VIDEO_EXTENSIONS

    def listed(self, split: str) -> FileList:
        """The videos of train, val or test from folders or lists."""
        path = self._list_of(split)
        if self._plain is not None:
            names = files_to_predict(Path(self.root), self._plain, VIDEO_EXTENSIONS, "videos")
            return FileList(names, [UNLABELLED] * len(names))
        return self._from_folders(split) if path is None else self._from_list(split, path)

    def build(self, split: str) -> Samples:
        """The samples of train, val or test."""
        decoding = self._decoding()
        reader: Any = TrainClipReader(decoding, self.sampling)
        transform: Any = self._train_transform
        if split != "train":
            reader = EvalClipReader(decoding, self.sampling, self._protocol(split)[0])
            transform = self._eval_transforms[split]
        return Samples(
            split,
            self.folder,
            self.files(split),
            reader,
            transform,
            seed=self.seed,
            workers=self.workers,
            max_retries=self.max_retries,
            max_corrupt_share=self.max_corrupt_share,
            max_hung=self.max_hung,
            evaluation=split != "train",
            read_draws=split == "train",
            transform_draws=split == "train",
        )

    def file_check(self, quick: bool = False) -> VideoCheck:
        """What `scan` does with each file; see `VideoCheck`."""
        return VideoCheck(self._decoding(), quick)

    def describe(self, split: str, count: int) -> str:
        """For example `19404 videos x 10 clips x 3 crops`."""
        clips, crops = self._protocol(split)
        return f"{count} videos x {clips} clips x {crops} crops"

    def views(self, split: str) -> int:
        """Clips times crops."""
        clips, crops = self._protocol(split)
        return clips * crops

    def state_dict(self) -> dict[str, Any]:
        """As every data module's, and the decoder: another one may give other frames."""
        return {**super().state_dict(), "decoder": choose_decoder(self.decoder)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every data module's, with a word on another decoder."""
        super().load_state_dict(state_dict)
        ours, theirs = choose_decoder(self.decoder), state_dict.get("decoder")
        if theirs not in (None, ours):
            rank_zero_warn(
                f"the checkpoint's videos were read by {theirs}, these are read by {ours}, whose "
                f"frames differ a little; pass --data.decoder {theirs} to have the same"
            )

    def _protocol(self, split: str) -> tuple[int, int]:
        return (self.test_clips, self.test_crops) if split == "test" else (1, 1)

    def _decoding(self) -> Decoding:
        return Decoding(choose_decoder(self.decoder), self.decoder_threads, self.read_timeout)

    def _list_of(self, split: str) -> Path | None:
        """The list of a split, None where class folders take its place."""
        for name in (split, "val") if split == "test" else (split,):
            if (given := self.lists[name]) is not None:
                return Path(self.root, given)
            if (usual := Path(self.root, f"{name}.csv")).is_file():
                return usual
            if self._class_folders(name):
                return None
        return None

    def _plain_folder(self) -> Path | None:
        """The folder whose videos are predicted without a list or class folders, if there is one."""
        listed = self._list_of("test")
        if self.lists["test"] is not None or (listed is not None and listed.is_file()):
            return None
        return plain_folder(
            Path(self.root), VIDEO_EXTENSIONS
        )  # a checkpoint's val_list is not of these

    def _class_folders(self, name: str) -> list[str]:
        folder = Path(self.root, name)
        return class_folders(folder) if folder.is_dir() else []

    def _from_list(self, split: str, path: Path) -> FileList:
        # the very list that says how many classes there are
        first = (
            self.class_list is None and self.known_classes is None and split == self._naming_split
        )
        first = first and not (split == "test" and self.head_classes is not None)
        known = None if first else self.num_classes
        files = list_read_once(path, self.asked, known, bare=self._predicting)
        rows = np.linspace(0, len(files) - 1, min(LOOKED_FOR, len(files))).astype(int)
        looked_for = [os.path.join(self.root, files[int(row)][0]) for row in rows]
        if not any(os.path.isfile(file_of(file)) for file in looked_for):
            raise DataError(
                f"{path}: none of {len(looked_for)} files looked for is there, for example "
                f"{looked_for[0]}; paths start from root, {self.root}"
            )
        if not (first or files.unlabelled or all(map(str.isdecimal, self.class_names))):
            check_labels(path, files, self.class_names)
        return files

    def _from_folders(self, split: str) -> FileList:
        name = split
        found = self._class_folders(split)
        if split == "test" and not found:  # the public test videos have no labels
            name = "val"
            found = self._class_folders(name)
        folder = Path(self.root, name)
        if not found:
            raise DataError(
                f"there is neither a list {split}.csv nor a folder {name} with class folders in "
                f"{self.root}; set data.root, or data.{split}_list"
            )
        labels = match_folders(folder, found, self.class_names)
        files, left_out = folder_listed_once(
            Path(self.root), name, labels, VIDEO_EXTENSIONS, self.asked
        )
        if left_out:
            rank_zero_warn(f"{folder}: {left_out}")
        if not len(files):
            raise DataError(
                f"{folder}: the class folders hold no video; {left_out or 'they are empty'}"
            )
        missing = self.num_classes - len(np.unique(files.labels))
        if missing:
            rank_zero_warn(f"{folder}: {missing} of {self.num_classes} classes have no video")
        return files

    @property
    def _naming_split(self) -> str:
        """The split whose folders or labels say what the classes are, where no class_list does."""
        for split in ("train", "val"):
            if self._list_of(split) or Path(self.root, split).is_dir():
                return split
        return "test"

    def class_names_of_shards(self) -> list[str]:
        """As `find_class_names`, by what the shards say."""
        return kinetics400() if self.class_list == KINETICS400 else super().class_names_of_shards()

    def find_class_names(self) -> list[str]:
        """Class names by `class_list`, folders, lists or a checkpoint."""
        if self.class_list == KINETICS400:
            return kinetics400()
        path = None if self.class_list is None else Path(self.root, self.class_list)
        if path is not None and (self.known_classes is None or path.is_file()):
            return read_names(path)
        if self.known_classes is not None:
            return self.known_classes
        if self._plain is not None and not self._class_folders("train"):
            if self.head_classes is None:
                return numbered(self._plain, self.files("test"))
            return [str(label) for label in range(self.head_classes)]
        split = self._naming_split
        if (listed := self._list_of(split)) is None:
            return class_folders(Path(self.root, split))
        if split == "test" and self.head_classes is not None:
            return [str(label) for label in range(self.head_classes)]
        return numbered(listed, self.files(split))
