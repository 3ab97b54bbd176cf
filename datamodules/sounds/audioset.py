"""AudioSet, or any clips with several labels each, as AudioMAE is fine-tuned on it."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.base import SPLITS
from datamodules.errors import DataError, require
from datamodules.kept import Listing, digest_of, listed_once
from datamodules.loader import EpochSampler
from datamodules.rooted import RootedData
from datamodules.samples import Samples
from datamodules.sounds.balanced import BalancedSampler, sample_weights
from datamodules.sounds.check import AudioCheck
from datamodules.sounds.clip_finder import ClipFinder
from datamodules.sounds.features import MEAN, STD, FrontEnd
from datamodules.sounds.lists import (
    Classes,
    Listed,
    audioset527,
    classes_of,
    read_classes,
    read_lists,
)
from datamodules.sounds.reading import (
    AUDIO_EXTENSIONS,
    AudioReader,
    require_decoders,
    require_torchaudio,
)
from datamodules.sounds.samples import AudioSamples, EvalSpectrogram, TrainSpectrogram
from datamodules.sounds.tagged import TaggedList
from datamodules.sounds.transforms import SpecAugment, WaveAugment
from datamodules.unlabelled import files_to_predict
from datamodules.witness import Witness

# What is looked for in root where no list is given: the first of these that is there as a whole.
TRAIN_LISTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "20k": (("train.json",), ("balanced_train_segments.csv",), ("train.csv",)),
    "2m": (
        ("train_all.json",),
        ("unbalanced_train_segments.csv", "balanced_train_segments.csv"),
    ),
}
EVAL_LISTS = (("eval_19k.json",), ("eval.json",), ("eval_segments.csv",), ("val.csv",))


class AudioSet(RootedData[TaggedList]):
    """Log-mel spectrograms of clips with several labels each; any number of classes.

    A list is AudioMAE's JSON, `{"data": [{"wav": path, "labels": "/m/09x0r,/m/05zppz"}]}` with paths
    absolute or from root on; a CSV with the header `path,labels` and rows such as `a.wav,dog;rain`; or
    one of AudioSet's own CSVs, `YTID, start_seconds, end_seconds,
    "labels"`, whose clips, already cut, are found below `clips` by their YouTube id. Clips that are
    listed and not there are left out, with a warning; see `missing`. Training
    x: `[B, 1, frames, mels]` and
    y float32 `[B, K]`, soft where two clips are mixed; evaluation x: `[B, 1, 1, frames, mels]` and y
    0 or 1, or -1 for all classes of a clip that cannot be read. The defaults are those of AudioMAE's
    fine-tuning on AudioSet-20K.

    Args:
        root: Folder of the data set, also one of shards, or `hf://datasets/OWNER/NAME[@REVISION]`.
        batch_size: Training clips in a batch on each process.
        subset: Which lists of root train where `train_list` is null: for `20k` train.json, else
            balanced_train_segments.csv, else train.csv; for `2m` train_all.json, else
            unbalanced_train_segments.csv and balanced_train_segments.csv together.
        train_list: List, or several, to train on; paths start from root.
        val_list: List to validate on; null for the first in root of eval_19k.json, eval.json,
            eval_segments.csv and val.csv.
        test_list: The same for the test split; that of validation if null. For prediction a list of paths
            may have no labels; and where there is no list, all sounds below `clips` are predicted.
        label_csv: `index,mid,display_name` of every class; the path starts from root. Null takes the
            labels of the training list, in alphabetical order, where that is a CSV of `path,labels`, or
            in evaluation the checkpoint's. Shards without it: AudioSet's 527 classes where the names of
            their labels are of these, else their labels in alphabetical order.
        clips: Folder of the clips of CSV lists, searched with all folders in it; root if null.
        frames: Frames of a spectrogram, 10 ms each; shorter clips are padded, longer ones cut.
        mels: Mel bins of a spectrogram.
        mean: Mean of the spectrograms, in natural logarithms.
        std: Standard deviation of the same; x is divided by twice as much.
        draws: Clips drawn in an epoch, over all processes, by weights that balance the classes; null
            for every clip once.
        replacement: Whether an epoch may draw a clip more than once.
        mixup: Probability that a training clip is mixed with another.
        roll: Whether training clips are rotated in time (`circular`) or not (`none`).
        gain: Whether training clips are made louder or softer, by 0.5 to 1.5.
        freq_mask: Most mel bins that are masked in training.
        time_mask: Most frames that are masked in training.
        read_timeout: Seconds after which a clip that is still being read counts as bad.
        max_hung: Stop when more reads than this have timed out: each leaves a thread behind.
        **loading: The other options of `datamodules.rooted.RootedData`, with their defaults.

    Raises:
        DataError: A setting has no meaning. What is wrong with the files is raised by `setup`.
    """

    multi_label = True
    what, feature = "clips", "Audio"
    usual_lists = tuple(
        name for groups in (*TRAIN_LISTS.values(), EVAL_LISTS) for group in groups for name in group
    )

    def __init__(
        self,
        root: str,
        batch_size: int = 8,
        subset: Literal["20k", "2m"] = "20k",
        train_list: str | list[str] | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        label_csv: str | None = "class_labels_indices.csv",
        clips: str | None = None,
        frames: int = 1024,
        mels: int = 128,
        mean: float = MEAN,
        std: float = STD,
        draws: int | None = None,
        replacement: bool = True,
        mixup: float = 0.5,
        roll: Literal["circular", "none"] = "circular",
        gain: bool = True,
        freq_mask: int = 48,
        time_mask: int = 192,
        read_timeout: float = 30.0,
        max_hung: int = 16,
        **loading: Any,
    ) -> None:
        super().__init__(root, batch_size, **loading)
        numbers = {
            "frames": frames, "mels": mels, "mean": mean, "std": std, "mixup": mixup,
            "freq_mask": freq_mask, "time_mask": time_mask, "read_timeout": read_timeout,
            "max_hung": max_hung,
        }  # fmt: skip
        for name, value in numbers.items():
            require(name, value, isinstance(value, (int, float)), "a number")
        require("subset", subset, subset in TRAIN_LISTS, f"one of {', '.join(TRAIN_LISTS)}")
        require("train_list", train_list, train_list != [], "a path, or a list of one or more")
        require("draws", draws, draws is None or draws >= 1, "1 or more, or null")
        require("mixup", mixup, 0 <= mixup <= 1, "in [0, 1]")
        require("read_timeout", read_timeout, read_timeout > 0, "above 0 (seconds)")
        require("max_hung", max_hung, max_hung >= 0, "0 or more")
        self.subset = subset
        self.lists = {"train": train_list, "val": val_list, "test": test_list or val_list}
        self.label_csv = label_csv
        self.clips = str(Path(self.root, Path(clips or "").expanduser()))
        self.draws = draws
        self.replacement = replacement
        self.mixup = mixup
        self.max_hung = max_hung
        self.sample_shape = (1, frames, mels)  # of one view
        self.front_end = FrontEnd(frames, mels, mean, std)
        self.preprocessing = {"mean": (mean,), "std": (std,)}
        self._reader = AudioReader(self.front_end.seconds, read_timeout)
        self._augment = WaveAugment(roll, gain)
        self._mask = SpecAugment(freq_mask, time_mask)
        self._mask.check(frames, mels)
        self._finder = ClipFinder(self.root, self.clips)
        self._classes: Classes | None = None
        self._test_list = test_list
        self._plain: Path | None = None  # where all sounds are predicted
        self._missing: dict[str, list[str]] = {}

    def check(self, stage: str | None = None) -> None:
        """Find the decoders, and list the clips of the splits that `stage` needs; opens none."""
        require_torchaudio()
        require_decoders()
        super().check(stage)
        if "train" in SPLITS[stage] and self.draws is not None and not self.replacement:
            count = len(self.files("train"))
            fine = f"at most the {count} clips there are, without replacement"
            require("draws", self.draws, self.draws <= count, fine)

    def check_files(self, stage: str | None) -> None:
        """Read the lists of the splits that `stage` needs and look for their clips."""
        if not Path(self.root).is_dir():
            raise DataError(
                f"root {self.root} is not a folder; expected {self.label_csv or 'lists'} and "
                f"lists such as {TRAIN_LISTS[self.subset][0][0]} in it"
            )
        if self._predicting != (stage == "predict"):  # which takes lists that others do not
            self._predicting, self._files = stage == "predict", {}
        self._plain = self._plain_folder() if self._predicting else None
        if self.num_classes < 2:
            raise DataError(f"{self._classes_read.path} has one class only")
        for split in SPLITS[stage]:
            self.files(split)
        self._finder = ClipFinder(self.root, self.clips)  # millions of names are not needed again

    @property
    def extensions(self) -> tuple[str, ...]:
        """Endings of sounds."""
        return AUDIO_EXTENSIONS

    def listed(self, split: str) -> TaggedList:
        """The clips of train, val or test that lists name and that are there."""
        self._missing[split] = []
        if self._plain is not None:
            names = files_to_predict(Path(self.root), self._plain, AUDIO_EXTENSIONS, "sounds")
            return TaggedList(names, [()] * len(names), self.num_classes)
        listed, left_out = self._listed(self._lists_of(split))
        self._warn(split, listed, left_out)
        self._missing[split] = listed.missing
        return listed.files

    def files(self, split: str) -> TaggedList:
        """The clips of train, val or test that are there, without those of the exclude list."""
        same = self.lists["test"] == self.lists["val"] and self._plain is None
        if split == "test" and same and not self.in_shards:
            files = self.files("val")
            self._missing["test"] = self._missing["val"]
            return files
        return super().files(split)

    def of_shards(self, split: str) -> TaggedList:
        """The clips of train, val or test from shards."""
        self._missing[split] = []
        source, classes = self.listed_split(split), self._classes_read
        return self.shards.tagged(source, classes.names, classes.ids, bare=self._predicting)

    def missing(self, split: str) -> list[str]:
        """Clips listed for train, val or test that are not there: paths or ids, as in the list."""
        self.files(split)
        return self._missing[split]

    def build(self, split: str) -> Samples:
        """The samples of train, val or test."""
        place = (split, self.folder, self.files(split), self._reader)
        settings: dict[str, Any] = {
            "seed": self.seed,
            "workers": self.workers,
            "max_retries": self.max_retries,
            "max_corrupt_share": self.max_corrupt_share,
            "max_hung": self.max_hung,
            "read_draws": False,
            "transform_draws": split == "train",
        }
        if split != "train":
            return Samples(*place, EvalSpectrogram(self.front_end), evaluation=True, **settings)
        transform = TrainSpectrogram(self.front_end, self._mask)
        return AudioSamples(*place, transform, augment=self._augment, mixup=self.mixup, **settings)

    def file_check(self, quick: bool = False) -> AudioCheck:
        """What `scan` does with each file; see `AudioCheck`."""
        require_torchaudio()
        require_decoders()
        return AudioCheck(self._reader, self.front_end, quick)

    def sampler(self, split: str) -> EpochSampler:
        """The order of a split on this process: training is drawn or shuffled, the rest as listed."""
        if split != "train" or self.draws is None:
            return super().sampler(split)
        return BalancedSampler(
            sample_weights(self.files(split), self.num_classes),
            self.draws,
            num_replicas=self._processes,
            rank=self._rank,
            seed=self.seed,
            replacement=self.replacement,
            number_repeats=True,
        )

    @property
    def epoch_length(self) -> int:
        """Training clips in an epoch, over all processes."""
        return super().epoch_length if self.draws is None else self.draws

    @property
    def class_names(self) -> list[str]:
        """Display names in the order of the class index."""
        return self._classes_read.names

    @property
    def class_ids(self) -> list[str]:
        """Label ids, such as `/m/09x0r`, in the order of the class index."""
        ids = {number: label for label, number in self._classes_read.ids.items()}
        return [ids[number] for number in range(self.num_classes)]

    def describe(self, split: str, count: int) -> str:
        """For example `19148 clips`."""
        return f"{count} clips"

    @property
    def _classes_read(self) -> Classes:
        if self._classes is None:
            path = None if self.label_csv is None else Path(self.folder, self.label_csv)
            optional = self.known_classes is not None or self.in_shards
            if path is not None and (path.is_file() or not optional):
                self._classes = read_classes(path)
            elif (names := self.known_classes) is not None:
                numbers = {name: number for number, name in enumerate(names)}
                self._classes = Classes(Path("the checkpoint"), names, numbers)
            elif self.in_shards:
                self._classes = self._classes_of_shards()
            else:
                self._classes = classes_of(self._lists_of("train"))
        return self._classes

    def _classes_of_shards(self) -> Classes:
        """The labels of the shards as classes: AudioSet's 527 in their order where titles are theirs."""
        labels = self.shards.class_names(self.naming_split)
        titles = self.shards.titles(self.naming_split)
        names = [titles.get(label, label) for label in labels]
        ids = {label: number for number, label in enumerate(labels)}
        if set(names) <= set(known := audioset527()):
            places = {name: number for number, name in enumerate(known)}
            ids = places | {label: places[name] for label, name in zip(labels, names, strict=True)}
            names = known
        return Classes(Path(self.root), names, ids)

    def _plain_folder(self) -> Path | None:
        """The folder whose sounds are predicted, where it has no list (a checkpoint's is not of them)."""
        try:
            there = all(path.is_file() for path in self._lists_of("test"))
        except DataError:
            there = False
        return None if self._test_list is not None or there else Path(self.clips)

    def _lists_of(self, split: str) -> list[Path]:
        given = self.lists[split]
        if given is not None:
            names = [given] if isinstance(given, str) else given
            return [Path(self.root, name) for name in names]
        usual = TRAIN_LISTS[self.subset] if split == "train" else EVAL_LISTS
        for group in usual:
            paths = [Path(self.root, name) for name in group]
            if all(path.is_file() for path in paths):
                return paths
        names = [" and ".join(group) for group in usual]
        raise DataError(
            f"there is no list of {split} clips in {self.root}: neither {' nor '.join(names)}; set "
            f"data.{split}_list"
        )

    def _listed(self, lists: list[Path]) -> tuple[Listed, str]:
        """What lists name and is there, and what was passed over where it was looked for, in words."""
        classes, finder, bare = self._classes_read, self._finder, self._predicting

        def make(seen: Witness) -> Listing[TaggedList]:
            files, *counts = read_lists(lists, classes, finder, bare)
            seen.take(finder.seen)
            return Listing(files, {"counts": counts, "told": finder.left_out.describe()})

        what = (self.root, self.clips, lists, list(map(digest_of, lists)), classes, bare)
        build = partial(TaggedList.of_columns, num_classes=len(classes.names))
        files, notes = listed_once(what, make, build, self.asked)
        return Listed(files, *notes["counts"]), notes["told"]

    def _warn(self, split: str, listed: Listed, left_out: str) -> None:
        there, lost = len(listed.files), len(listed.missing)
        if lost:
            rank_zero_warn(
                f"{split}: {lost:,} of {there + lost:,} clips listed are not there, e.g. "
                f"{listed.missing[0]}; they are left out"
            )
            if left_out:
                rank_zero_warn(f"{self.clips}, searched for them: {left_out}")
        if listed.repeated:
            rank_zero_info(f"{split}: {listed.repeated:,} of {there:,} clips are listed repeatedly")
        empty = np.flatnonzero(listed.files.class_counts(self.num_classes) == 0)
        if 0 < len(empty) < self.num_classes:  # all are where the list has no labels
            rank_zero_warn(
                f"{split}: {len(empty)} of {self.num_classes} classes have no clip, e.g. "
                f"{self.class_names[empty[0]]}"
            )
