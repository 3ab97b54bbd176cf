"""The ledger of files that could not be read, shared by the main process and its workers."""

import numpy as np
import torch
from torch.utils.data import get_worker_info

LOG_BYTES = 1 << 16  # per writer: about 300 first errors; which files are bad has no such limit
NO_REASON = "its error was not kept: many other files could not be read before it"
_GOOD, _BAD, _HUNG = 1, 2, 3


class BadFiles:
    """Remembers of every file whether it was read, and of bad ones the first error.

    The state lives in shared memory without a lock: a file is one byte that any process may set,
    and every worker appends errors to a row of its own.

    Args:
        files: Number of files in the split.
        workers: Number of loader workers that will write.
    """

    def __init__(self, files: int, workers: int) -> None:
        self.state = torch.zeros(files, dtype=torch.uint8).share_memory_()
        self.log = torch.zeros(workers + 1, LOG_BYTES, dtype=torch.uint8).share_memory_()
        self.counts = torch.zeros(workers + 1, 2, dtype=torch.int64).share_memory_()

    def read(self, index: int) -> None:
        """Note that file `index` could be read."""
        state = self.state.numpy()  # a view, whose items torch takes ten times as long for
        if state[index] == 0:
            state[index] = _GOOD

    def failed(self, index: int, error: Exception) -> None:
        """Note that file `index` could not be read; only its first error is kept.

        A `TimeoutError` says that a thread is still stuck in it.
        """
        worker = get_worker_info()
        writer = 0 if worker is None else (worker.id + 1) % len(self.log)
        hung = isinstance(error, TimeoutError)
        self.counts[writer] += torch.tensor([1, hung])
        known = int(self.state[index]) >= _BAD
        if hung:
            self.state[index] = _HUNG
        if known:
            return
        text = " ".join(f"{type(error).__name__}: {error}".split())
        line = f"{index}\t{text[:200]}\n".encode(errors="replace").replace(b"\0", b"?")
        row = self.log[writer].numpy()
        used = np.count_nonzero(row)
        if used + len(line) <= LOG_BYTES:
            row[used : used + len(line)] = np.frombuffer(line, dtype=np.uint8)
        self.state[index] = _HUNG if hung else _BAD

    def hangs(self, index: int) -> bool:
        """Whether reading file `index` has hung before: it is not worth another thread."""
        return bool(self.state.numpy()[index] == _HUNG)

    @property
    def count(self) -> int:
        """Number of distinct files that could not be read."""
        return int((self.state >= _BAD).sum())

    @property
    def failures(self) -> int:
        """Number of reads that failed; a file may fail in every epoch."""
        return int(self.counts[:, 0].sum())

    @property
    def hung(self) -> int:
        """Number of reads that never came back, so of threads left behind."""
        return int(self.counts[:, 1].sum())

    @property
    def seen(self) -> int:
        """Number of distinct files that were tried."""
        return int(self.state.count_nonzero())

    def errors(self) -> dict[int, str]:
        """Each bad file by index, with its first error, or `NO_REASON` once the log was full."""
        first: dict[int, str] = {}
        for row in self.log:
            text = row[: int(row.count_nonzero())].numpy().tobytes().decode(errors="replace")
            for line in text.split("\n")[:-1]:  # what follows the last newline is half written
                index, _, error = line.partition("\t")
                first.setdefault(int(index), error)
        bad = (self.state >= _BAD).nonzero().flatten().tolist()
        return {index: first.get(index, NO_REASON) for index in sorted({*bad, *first})}
