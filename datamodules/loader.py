"""The loader: equal steps on every rank, an order that depends on (seed, epoch), exact resume."""

import re
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data.distributed import DistributedSampler

from datamodules.errors import DataError, WorkerError
from datamodules.leaving import end_at_exit
from datamodules.samples import Samples
from datamodules.workers import deaths_found_between_batches, explained


class EpochSampler(DistributedSampler[Any]):
    """A `DistributedSampler`, also for one process, that can leave out samples already used.

    Lightning keeps a `DistributedSampler` it finds and calls its `set_epoch`.

    Attributes:
        skip: Samples that the next iteration leaves out, once.
    """

    skip = 0
    _position = 0

    def indices(self) -> list[int]:
        """All that this process is to see in this epoch, in order."""
        return list(super().__iter__())

    def __iter__(self) -> Iterator[int]:
        self._position, self.skip = self.skip, 0
        for index in self.indices()[self._position :]:
            self._position += 1
            yield index

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; another epoch than before starts at its front."""
        if epoch != self.epoch:
            self.skip = self._position = 0
        super().set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its indices this process has handed out.

        Loader workers fetch ahead: what is handed out is then more than what was trained on. Where
        that matters, set `position` to batches seen times batch size; `Loader` does so itself.
        """
        return {"epoch": self.epoch, "position": self._position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next iteration go on from there, with as many processes as saved it."""
        self.set_epoch(state_dict["epoch"])
        self.skip = self._position = state_dict["position"]


def flatten_repeats(samples: list[tuple[Tensor, int | Tensor, int]]) -> list[Tensor]:
    """Collate B samples of R augmented views each: x `[B*R, ...]`, y and id `[B*R]`.

    All first views come before all second ones, so that the reversed batch, which mixup pairs a
    batch with, never pairs a sample with itself while B is even.
    """
    x, y, ids = default_collate(samples)
    return [x.transpose(0, 1).flatten(0, 1), y.repeat(x.shape[1]), ids.repeat(x.shape[1])]


class Loader(DataLoader[Any]):
    """A `DataLoader` over `Samples` that resumes in mid-epoch and reports bad files.

    It takes no arguments of its own, since Lightning builds copies of it for prediction. The state
    is `{"epoch": int, "batches": int}`: batches handed out in that epoch on this process.
    """

    _epoch = 0
    _batches = 0
    _resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator starts at its first batch. Lightning makes the iterator of a resumed run
        # before it calls set_epoch; an eager one would repeat the order of epoch 0.
        self._report()  # of an epoch that was cut short
        samples, sampler = self.dataset, self.sampler
        self._epoch = sampler.epoch if isinstance(sampler, EpochSampler) else 0
        self._batches = self._batches_to_skip()
        if isinstance(samples, Samples):
            samples.set_epoch(self._epoch)
        if isinstance(sampler, EpochSampler):
            sampler.skip = self._batches * (self.batch_size or 1)
        batches: Any = None
        try:
            with deaths_found_between_batches():
                batches = super().__iter__()
            end_at_exit(getattr(batches, "_workers", []))
            for batch in batches:
                self._batches += 1
                if self._batches == len(self):  # Lightning does not ask for one more
                    self._report()
                yield batch
        except (DataError, RuntimeError, OSError, MemoryError) as error:
            # Before the first batch: of workers that persist, which the loader begins anew with.
            stop = self._in_one_line(error, getattr(batches or self._iterator, "_workers", []))
            if stop is None:
                raise
            traceback.clear_frames(error.__traceback__)
        else:
            return
        self._report()
        # Ends its workers now, as nothing else holds it: the frames of the error above would, until the
        # garbage collector comes, after which torch waits for each worker 5 seconds, twice.
        batches = self._iterator = None
        raise stop

    def _in_one_line(self, error: Exception, workers: list[Any]) -> Exception | None:
        """The error that ends the run; None for one that is not ours to explain."""
        if isinstance(error, DataError):
            # a worker's error arrives with its traceback as text: keep what follows its name
            message = re.split(r"^[\w.]*\bDataError: ", str(error).strip(), flags=re.MULTILINE)[-1]
            return DataError(message)
        why = explained(error, workers, self.num_workers, self.prefetch_factor or 1)
        return None if why is None else WorkerError(why)

    def state_dict(self) -> dict[str, int]:
        """Where this process stands."""
        return {"epoch": self._epoch, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the batches that the state counts, once, if its epoch comes next."""
        self._resume = dict(state_dict)

    def _batches_to_skip(self) -> int:
        resume, self._resume = self._resume, None
        if resume is None or resume["epoch"] != self._epoch:
            return 0
        return resume["batches"] % max(1, len(self))

    def _report(self) -> None:
        line = self.dataset.report() if isinstance(self.dataset, Samples) else None
        if line is not None:  # on every rank, since each reads other files
            rank = self.sampler.rank if isinstance(self.sampler, EpochSampler) else 0
            warnings.warn(f"rank {rank}, {line}", stacklevel=3)
