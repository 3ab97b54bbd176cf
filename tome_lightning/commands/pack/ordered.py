"""Files read or converted by several processes, and given back in the order of their list."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

from tome_lightning.commands.scan.workers import Job, Outcome, Task, check_all

AHEAD = 1 << 28  # bytes that may wait for a slow file before them


def in_order(job: Job, paths: Iterable[str], workers: int) -> Generator[Outcome, None, None]:
    """The outcome of each path in the order of the paths; a crash costs one file only.

    Args:
        job: What is done with each file; its facts hold `content`, bytes.
        paths: Paths of files; one that comes twice is done twice.
        workers: Processes; 0 works in this one.
    """
    rows: dict[str, deque[int]] = defaultdict(deque)  # of the paths that are given out
    ready: dict[int, Outcome] = {}
    waiting = 0

    def tasks() -> Iterator[Task | None]:
        for row, path in enumerate(paths):
            while waiting > AHEAD:
                yield None
            rows[path].append(row)
            yield Task(path)

    next_row = 0
    with closing(check_all(job, tasks(), workers)) as outcomes:
        for outcome in outcomes:
            row = rows[outcome.path].popleft()
            if not rows[outcome.path]:
                del rows[outcome.path]
            ready[row] = outcome
            waiting += len(outcome.facts.get("content", b""))
            while next_row in ready:
                done = ready.pop(next_row)
                waiting -= len(done.facts.get("content", b""))
                next_row += 1
                yield done
