"""The ledger of files that could not be read, shared by the main process and its workers."""

import numpy as np
import torch
from torch.utils.data import get_worker_info

LOG_BYTES = 1 << 16  # per writer: about 300 first errors; the count of bad files has no such limit
_GOOD, _BAD = 1, 2


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

    def read(self, index: int) -> None:
        """Note that file `index` could be read."""
        if self.state[index] == 0:
            self.state[index] = _GOOD

    def failed(self, index: int, error: Exception) -> None:
        """Note that file `index` could not be read; only its first error is kept."""
        if self.state[index] == _BAD:
            return
        text = " ".join(f"{type(error).__name__}: {error}".split())
        line = f"{index}\t{text[:200]}\n".encode(errors="replace").replace(b"\0", b"?")
        worker = get_worker_info()
        row = self.log[0 if worker is None else (worker.id + 1) % len(self.log)].numpy()
        used = np.count_nonzero(row)
        if used + len(line) <= LOG_BYTES:
            row[used : used + len(line)] = np.frombuffer(line, dtype=np.uint8)
        self.state[index] = _BAD

    @property
    def count(self) -> int:
        """Number of distinct files that could not be read."""
        return int((self.state == _BAD).sum())

    @property
    def seen(self) -> int:
        """Number of distinct files that were tried."""
        return int(self.state.count_nonzero())

    def errors(self) -> dict[int, str]:
        """The first error of each bad file, by index."""
        first: dict[int, str] = {}
        for row in self.log:
            text = row[: int(row.count_nonzero())].numpy().tobytes().decode(errors="replace")
            for line in text.split("\n")[:-1]:  # what follows the last newline is half written
                index, _, error = line.partition("\t")
                first.setdefault(int(index), error)
        return dict(sorted(first.items()))
