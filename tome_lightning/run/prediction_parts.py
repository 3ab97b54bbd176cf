"""The table of ``predict`` where several processes write it: a part of each, put together at the end."""

from __future__ import annotations

import csv
import heapq
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import Trainer

from tome_lightning.errors import UsageError
from tome_lightning.trainer.agreement import of_all


def part_of(whole: Path, rank: int) -> Path:
    """Where a process writes its rows of a table: ``predictions.3.csv`` beside ``predictions.csv``."""
    return whole.with_suffix(f".{rank}{whole.suffix}")


def append_rows(path: Path, rows: Iterable[Sequence[Any]], mode: str = "a") -> None:
    """Add rows to a table; by mode ``w`` in place of one that an earlier run has left."""
    # a name of a file need not be text: what is none is escaped, as \\udcff, and costs no row
    with _opened(path, mode) as file:
        csv.writer(file).writerows(rows)


def check_shared(part: Path, directory: Path, trainer: Trainer) -> None:
    """Make the first process's part, empty, and see that all processes find it; every process calls.

    Raises:
        UsageError: On all processes: one of another machine does not see the run directory.
    """
    first = part_of(directory / "predictions.csv", 0)
    if trainer.is_global_zero:
        directory.mkdir(parents=True, exist_ok=True)
        part.touch()
    trainer.strategy.barrier()
    apart = blind(of_all((socket.gethostname(), first.exists())))
    if apart is None:
        return
    if trainer.is_global_zero:
        part.unlink()
    raise UsageError(
        f"{apart} does not see the run directory {directory}, and the predictions of all processes are "
        "put together there. Put --run_dir on a disk that all machines see, or predict on one machine."
    )


def blind(seen: Sequence[tuple[str, bool]]) -> str | None:
    """The first process that does not see the run directory, in words: of (machine, sees it) by rank."""
    for process, (machine, there) in enumerate(seen):
        if not there:
            return f"process {process} on {machine}"
    return None


def merge_parts(whole: Path, sizes: Sequence[int]) -> None:
    """Put the parts of all processes into one table, by id, and remove them.

    A process has every so many samples of the data, in their order; what a sampler repeats to fill the
    last batches, ``predict_step`` has left out. A row of each part is in memory.

    Args:
        whole: The table.
        sizes: Bytes of the part of each process, as that process knows it.

    Raises:
        UsageError: A part is not there as it was written, or the table cannot be written; the parts stay.
    """
    parts = [part_of(whole, rank) for rank in range(len(sizes))]
    unfinished = whole.with_name(whole.name + ".partial")
    try:
        for part, size in zip(parts, sizes, strict=True):
            if part.stat().st_size != size:
                raise OSError(f"{part} has {part.stat().st_size} of {size} bytes")
        _merge(parts, unfinished)
        unfinished.replace(whole)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise UsageError(
            f"All samples are predicted, but {whole} cannot be put together "
            f"({error.strerror or error}). The rows are in {parts[0].name} to {parts[-1].name} beside "
            "it: sorted by id they are the table."
        ) from error
    for part in parts:
        part.unlink()


def _merge(parts: Sequence[Path], out: Path) -> None:
    with ExitStack() as stack:
        tables: list[Iterator[list[str]]] = [
            csv.reader(stack.enter_context(_opened(part, "r"))) for part in parts
        ]
        headers = [next(table) for table in tables]
        writer = csv.writer(stack.enter_context(_opened(out, "w")))
        writer.writerow(headers[0])
        rows: Iterator[list[str]] = heapq.merge(*tables, key=lambda row: int(row[0]))
        writer.writerows(rows)


def _opened(path: Path, mode: str) -> IO[Any]:
    return path.open(mode, newline="", encoding="utf-8", errors="backslashreplace")
