"""What every data module here shares: splits, loaders, bad files, and what a checkpoint keeps."""

import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from datamodules.errors import DataError, require
from datamodules.leaving import outlive_signals
from datamodules.loader import EpochSampler, Loader, flatten_repeats
from datamodules.samples import Key, Samples
from datamodules.videos.class_names import refuse_other_classes
from datamodules.workers import started_of, too_few_workers, usable_cores

if TYPE_CHECKING:
    from datamodules.on_device import DeviceTransform

__all__ = ["DataError", "LabelledData"]

BIG = 10_000  # samples from which too few workers are worth a warning
SPLITS: dict[str | None, tuple[str, ...]] = {
    None: ("train", "val", "test"),
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}


class LabelledData(LightningDataModule, ABC):
    """Base of the data modules: batches `(x, y, id)`.

    Training: x `[B, C, ...]`. Evaluation: x `[B, V, C, ...]` with V views. y and id: int64 `[B]`, or
    y float32 `[B, K]` where a sample may be of several of K classes; id is the index of the sample in
    its split, y is -1 for an evaluated sample whose file cannot be read, -2 (`UNLABELLED`) in
    prediction from a list without labels. A subclass says what a split is with `check`, `build` and
    `class_names`. One with an attribute `repeat_aug` trains on that many views of each sample: its
    training samples are `[repeat_aug, C, ...]`, its batches `[B * repeat_aug, C, ...]`.

    Pixels leave the loader as uint8. In a Trainer that is given the data module, not its loaders, they
    reach the model float32, normalised and in training erased on its device. A loop of your own does
    that with `data.prepare(x.to(device))`, in training with `data.prepare(x.to(device), train_ids=id)`.

    Args:
        batch_size: Training samples in a batch on each process.
        eval_batch_size: Views that go through the model at once in evaluation; `batch_size` if null.
            A batch has as many samples as have so many views together, at least one.
        num_workers: Loader processes per training process; never more are started than there are
            cores or batches, which is said.
        pin_memory: Copy batches to page-locked memory; only done where CUDA is available.
        prefetch_factor: Batches that each worker prepares in advance.
        persistent_workers: Keep the workers between epochs.
        max_retries: Files of the same class, or that share a label, tried in place of one that cannot
            be read.
        max_corrupt_share: Stop when at least 10 files and more than this share of the files seen
            cannot be read.

    Attributes:
        multi_label: Whether y is a row of K numbers and not a class index.
        makes_files: Whether it writes its files below its root where they are not there yet.
        preprocessing: How samples are prepared, by the names of the options: mean and std of each
            channel, and what of size, interpolation and crop_pct there is.
        cores: Cores for this process's loaders; None: its equal part of those it may run on.
    """

    multi_label: ClassVar[bool] = False
    makes_files: ClassVar[bool] = False
    preprocessing: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int | None = None,
        num_workers: int = 8,
        pin_memory: bool = True,
        prefetch_factor: int = 2,
        persistent_workers: bool = True,
        max_retries: int = 10,
        max_corrupt_share: float = 0.05,
    ) -> None:
        super().__init__()
        self.asked = time.time()  # lists that other ranks make from now on are as good as ours
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.prefetch_factor = prefetch_factor
        self.persistent_workers = persistent_workers
        self.max_retries = max_retries
        self.max_corrupt_share = max_corrupt_share
        self._samples: dict[str, Samples] = {}
        self.known_classes: list[str] | None = None
        self.head_classes: int | None = None
        self.cores: int | None = None
        self.on_device: DeviceTransform | None = None  # None: pixels leave the loader as they are
        for name in "batch_size eval_batch_size num_workers prefetch_factor max_retries".split():
            value = getattr(self, name)
            require(name, value, isinstance(value, int), "a whole number")
        require("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        require("eval_batch_size", self.eval_batch_size, self.eval_batch_size >= 1, "1 or more")
        require("num_workers", num_workers, num_workers >= 0, "0 or more")
        require("prefetch_factor", prefetch_factor, prefetch_factor >= 1, "1 or more")
        require("max_retries", max_retries, max_retries >= 0, "0 or more")
        require("max_corrupt_share", max_corrupt_share, 0 <= max_corrupt_share <= 1, "in [0, 1]")

    @classmethod
    def options(cls) -> dict[str, Parameter]:
        """Its options by name, also those that it hands on to the class it extends as `**loading`."""
        found: dict[str, Parameter] = {}
        for owner in cls.__mro__:
            if "__init__" in vars(owner):
                own = list(signature(owner).parameters.values())  # those of its own __init__
                hands_on = any(option.kind is Parameter.VAR_KEYWORD for option in own)
                own = [option for option in own if option.kind is not Parameter.VAR_KEYWORD]
                found = {option.name: option for option in own} | found
                if not hands_on:
                    break
        return found

    @abstractmethod
    def check(self, stage: str | None = None) -> None:
        """Refuse missing folders and the like, before any long work.

        Args:
            stage: fit, validate, test, predict; None is all of them.

        Raises:
            DataError: Something is missing or does not fit together.
        """

    @abstractmethod
    def build(self, split: str) -> Samples:
        """Make one split: train, val or test."""

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Class names in the order of the class index."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def take_classes(self, names: Sequence[str] | None, count: int | None) -> None:
        """Say which classes the model to be evaluated has, before anything is listed.

        The data then needs no training split to name or count its classes by, and may have some of
        them only. Not for training.

        Args:
            names: Their names in the order of the model's head, as its checkpoint has them; None
                where they are not known.
            count: How many they are: of a list whose classes nothing names.
        """
        self.known_classes = None if names is None else list(names)
        self.head_classes = count

    def setup(self, stage: str | None = None) -> None:
        """Check, then list the files of the splits that `stage` needs.

        Raises:
            DataError: From `check`, or the training split has fewer samples than processes.
        """
        self.check(stage)
        for split in SPLITS[stage]:
            if split not in self._samples:
                samples = self._samples[split] = self.build(split)
                rank_zero_info(
                    f"{split}: {len(samples)} samples of {self.num_classes} classes from "
                    f"{samples.root} (list {samples.files.digest()})"
                )
        if "train" in self._samples and stage in ("fit", None):
            self._fit_batch_to_data()
            self._warn_of_few_workers()

    def samples(self, split: str) -> Samples:
        """The data set of one split: train, val or test.

        Raises:
            DataError: `setup` has not made it yet.
        """
        if split not in self._samples:
            raise DataError(f"the {split} split is not set up; call setup() or use a Trainer")
        return self._samples[split]

    def train_dataloader(self) -> Loader:
        """Batches x `[B, C, ...]`, shuffled, the last incomplete one dropped; pixels are uint8."""
        return self._loader("train")

    def val_dataloader(self) -> Loader:
        """Batches x `[B, V, C, ...]` of the val split, in order."""
        return self._loader("val")

    def test_dataloader(self) -> Loader:
        """Batches x `[B, V, C, ...]` of the test split, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> Loader:
        """The same as `test_dataloader`."""
        return self._loader("test")

    def transfer_batch_to_device(
        self, batch: Sequence[Tensor], device: torch.device, dataloader_idx: int
    ) -> list[Tensor]:
        """Lightning's copy of a batch `(x, y, id)` to the device, and `prepare` there."""
        x, y, ids = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if self.trainer is None:
            return [self.prepare(x), y, ids]
        # the ids of before the copy: to read those on the device would be to wait for it
        x = self.prepare(x, train_ids=batch[2] if self.trainer.training else None)
        # once more, since uint8 passed it by: bf16-true and 64-true want x in their own type
        x = self.trainer.precision_plugin.convert_input(x)
        return [x, y, ids]

    def prepare(self, x: Tensor, train_ids: Tensor | None = None) -> Tensor:
        """What the model takes: pixels of a batch float32 and normalised, erased in training.

        Runs on the device of x and never waits for it. A float x, which a worker has finished, is
        given back as it is.

        Args:
            x: `[B, ...]` of a batch.
            train_ids: The ids `[B]` of a training batch, on the CPU; None erases nothing. What is
                erased depends on (seed, epoch, id) and on how often the id came before in the batch.

        Raises:
            DataError: `train_ids` are given and `setup` has not made the training split.
        """
        if self.on_device is None or x.dtype != torch.uint8:
            return x
        return self.on_device(x, None if train_ids is None else self._keys(train_ids))

    def _keys(self, train_ids: Tensor) -> list[Key]:
        samples, seen = self.samples("train"), Counter[int]()
        keys: list[Key] = []
        for index in train_ids.tolist():  # the views of a sample have one id
            keys.append((samples.seed, samples.epoch, index, seen[index]))
            seen[index] += 1
        return keys

    def train_batches(self, processes: int = 1) -> int:
        """Batches in a training epoch on each of so many processes."""
        return self.epoch_length // processes // self.batch_size

    @property
    def epoch_length(self) -> int:
        """Training samples in an epoch, over all processes."""
        return len(self.samples("train"))

    @property
    def corrupt(self) -> int:
        """Distinct files that this process and its workers could not read so far."""
        return sum(samples.bad.count for samples in self._samples.values())

    def bad_files(self) -> list[dict[str, str]]:
        """Split, path as in the list, and first error of each file this process could not read."""
        return [
            {"split": split, "path": samples.files.path(index), "reason": error}
            for split, samples in self._samples.items()
            for index, error in samples.bad.errors().items()
        ]

    def missing(self, split: str) -> list[str]:
        """What the list of a split names and is not there, where that is left out of it."""
        return []

    def facts(self) -> dict[str, dict[str, Any]]:
        """Of each split that is set up the digest of its list, and how many files it lacks."""
        return {
            "lists": {split: samples.files.digest() for split, samples in self._samples.items()},
            "missing_files": {
                split: len(lost) for split in self._samples if (lost := self.missing(split))
            },
        }

    def views(self, split: str) -> int:
        """Views V of an evaluated sample."""
        return 1

    def describe(self, split: str, count: int) -> str:
        """What a metric of that many samples of `split` was measured on, in words."""
        return f"{count} samples"

    def report(self) -> list[str]:
        """A line for each split with bad files that the loader has not reported yet."""
        lines = (samples.report() for samples in self._samples.values())
        return [line for line in lines if line is not None]

    def state_dict(self) -> dict[str, Any]:
        """Class names, and the digest of the training files if they are set up."""
        state: dict[str, Any] = {"class_names": list(self.class_names)}
        if "train" in self._samples:
            state["train_digest"] = self._samples["train"].files.digest()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the checkpoint's data with these.

        Raises:
            DataError: The class names or their order differ, so logits would be misread.
        """
        refuse_other_classes(state_dict["class_names"], list(self.class_names))
        digest = state_dict.get("train_digest")
        if "train" in self._samples and digest != self._samples["train"].files.digest():
            rank_zero_warn(
                "the training files are not those of the checkpoint: a resumed run will not "
                "repeat the uninterrupted one"
            )

    @property
    def _processes(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def _rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def _cores(self) -> int:
        """Cores for each training process of this machine."""
        local = 1 if self.trainer is None else self.trainer.num_devices
        return self.cores or max(1, len(usable_cores()) // local)

    @property
    def workers(self) -> int:
        """Loader processes at most: `num_workers`, or the cores there are for them."""
        return min(self.num_workers, self._cores)

    def _loader(self, split: str) -> Loader:
        samples, train = self.samples(split), split == "train"
        sampler = self.sampler(split)
        # many views make a sample large: 30 of a clip take 290 MB
        batch_size = self.batch_size if train else max(1, self.eval_batch_size // self.views(split))
        batches = len(sampler) // batch_size + (not train and len(sampler) % batch_size > 0)
        workers = min(self.workers, batches)
        if message := started_of(self.num_workers, self._cores, batches):
            rank_zero_info(f"{split}: {message}")
        return Loader(
            samples,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
            drop_last=train,
            collate_fn=flatten_repeats if train and hasattr(self, "repeat_aug") else None,
            worker_init_fn=outlive_signals,
            prefetch_factor=self.prefetch_factor if workers else None,
            persistent_workers=self.persistent_workers and workers > 0,
        )

    def sampler(self, split: str) -> EpochSampler:
        """The order of a split on this process: training is shuffled, the rest as listed."""
        train = split == "train"
        return EpochSampler(
            self.samples(split),
            num_replicas=self._processes,
            rank=self._rank,
            shuffle=train,
            seed=self.seed,
            drop_last=train,
        )

    @property
    def seed(self) -> int:
        """Seed of order and transforms: that of `seed_everything`, the same on all ranks, or 0."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def _fit_batch_to_data(self) -> None:
        """A few files, to try things out, make a smaller batch, even so that it can be mixed."""
        count = self.epoch_length
        share = count // self._processes
        if share < 1:
            raise DataError(
                f"{self._samples['train'].root}: {count} training samples are fewer than the "
                f"{self._processes} processes that train on them; add data or use fewer devices"
            )
        if share < self.batch_size:
            smaller = max(1, share // 2 * 2)
            rank_zero_warn(
                f"{count} training samples on {self._processes} processes do not fill one "
                f"batch of {self.batch_size} each: batch_size is {smaller} instead"
            )
            self.batch_size = smaller

    def _warn_of_few_workers(self) -> None:
        # Lightning itself warns of 0 or 1
        known = self.trainer is not None and self.num_workers < 2
        message = too_few_workers(self.num_workers, self._cores)
        if message and self.epoch_length >= BIG and not known:
            rank_zero_warn(message)
