"""Walk the files of a data set, check each once, and sum up what was found."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from tqdm import tqdm

from datamodules.shards.member import file_of
from datamodules.workers import usable_cores
from tome_lightning.arguments import nearest
from tome_lightning.commands.outputs import write_json
from tome_lightning.commands.scan.manifest import BAD, GOOD, Manifest
from tome_lightning.commands.scan.record import Record
from tome_lightning.commands.scan.workers import Job, Outcome, Task, check_all
from tome_lightning.errors import UsageError
from tome_lightning.screen import say
from tome_lightning.version import __version__

if TYPE_CHECKING:
    from datamodules.file_check import FileCheck
    from datamodules.filelist import LabelledFiles

SPLITS = ("train", "val", "test")
CALLED = ("prepare_data", "files", "missing", "file_check")  # of a data module


class Scannable(Protocol):
    """A data module that can be scanned.

    Attributes:
        root: Folder that the paths of its lists start from, unless it has another, `folder`: that of
            files from the Hub.
        exclude: JSON file of an earlier scan whose bad files are left out; None for none.
    """

    root: str
    exclude: str | None

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of the class index."""

    def prepare_data(self) -> None:
        """Make the files of a data set that is made on first use."""

    def files(self, split: str) -> LabelledFiles:
        """The files of train, val or test."""

    def missing(self, split: str) -> list[str]:
        """What its list names and is not there: left out of `files`."""

    def file_check(self, quick: bool = False) -> FileCheck:
        """What is done with each file, and what it says of all."""


def scan(
    data: object,
    out: str | Path,
    splits: Sequence[str] = SPLITS,
    quick: bool = False,
    workers: int | None = None,
    progress: bool = True,
    recipe: str | None = None,
) -> dict[str, Any]:
    """Check every file of a data set and write down what was found; data.exclude takes the file.

    A file that several splits have is checked once. What is found is kept in `out.partial` as it
    comes: the same scan started again, or with other splits, checks only what is not there or has
    changed its size or time. Of good files only numbers are in memory. A script calls this under
    `if __name__ == "__main__":`, because the processes import it.

    Args:
        data: A data module with `files` and `file_check`, without an exclude list; see `Scannable`.
        out: JSON file, written when everything is checked; one that is there is replaced.
        splits: Any of train, val and test.
        quick: Decode some frames of each video, the header of a sound file, header and end of a picture,
            instead of all.
        workers: Processes, by default one for each core. 0 checks in this process: for debugging,
            since a decoder that crashes then ends it.
        progress: Show a bar.
        recipe: Name to write down.

    Returns:
        What the JSON file holds: what was scanned (`root`, `splits`, `recipe`, `version`, and the
        settings of the check such as `quick`), `files` and `bytes`, `manifest_hash` of the lists, what
        the check says of all good files (see `VideoCheck.summary`, `AudioCheck.summary`), `bad`
        (path and reason of each), `missing` (split and path of what the lists name and is not
        there) and `counts` (for each split: files, bad, missing, classes without a good file, good
        files of each class).

    Raises:
        UsageError: The data cannot be scanned, or `out` cannot be written.
        datamodules.DataError: A list, a folder or the decoder is missing.
        KeyboardInterrupt: Ctrl-C; what was found is kept.
    """
    out = Path(out).expanduser()
    data = _checked(data, splits, workers, out)
    data.prepare_data()
    lists = {split: data.files(split) for split in dict.fromkeys(splits)}
    manifest = Manifest(lists)
    check = data.file_check(quick)
    folder = str(getattr(data, "folder", data.root))
    job = Job(folder, check)
    settings = {"root": os.path.abspath(folder), **check.settings}
    workers = min(len(usable_cores()) if workers is None else workers, len(manifest))
    record = Record(out.with_name(f"{out.name}.partial"), settings)
    try:
        tally = _walk(job, manifest, record, workers, progress)
    finally:
        record.close()
    content = {
        "version": __version__,
        "recipe": recipe,
        **settings,
        "splits": list(lists),
        "manifest_hash": _hash(lists),
        "files": len(manifest),
        "bytes": tally.bytes,
        **check.summary(tally.facts),
        "bad": [{"path": path, "reason": reason} for path, reason in sorted(tally.bad)],
        "missing": [
            {"split": split, "path": path} for split in lists for path in data.missing(split)
        ],
        "counts": _counts(data, lists, manifest),
    }
    write_json(content, out)
    record.path.unlink()
    return content


def _checked(data: object, splits: Sequence[str], workers: int | None, out: Path) -> Scannable:
    """The data, if all arguments of `scan` make sense."""
    unknown = [split for split in splits if split not in SPLITS]
    if unknown or not splits:
        raise UsageError(
            f"splits are one or more of {', '.join(SPLITS)}, got {', '.join(splits) or 'none'}. "
            + (nearest(unknown[0], SPLITS) if unknown else "")
        )
    if workers is not None and workers < 0:
        raise UsageError(f"workers is 1 or more, or 0 for this process alone; got {workers}.")
    # not isinstance: that reads `class_names`, which may be of files that are yet to be made
    if not all(callable(getattr(type(data), name, None)) for name in CALLED):
        raise UsageError(
            f"scan reads pictures, videos and sounds; {type(data).__name__} has other files. Those that "
            "cannot be read are replaced, counted and named in training."
        )
    scannable: Any = data
    if scannable.exclude is not None:
        raise UsageError(f"scan opens every file, got data without those of {scannable.exclude}.")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder. Name a file in it, e.g. {out / 'scan.json'}")
    return cast(Scannable, data)


class _Tally:
    """What a scan has found so far: of good files their facts in columns, of bad ones path and reason."""

    def __init__(self) -> None:
        from datamodules.facts import FactTable

        self.facts = FactTable()
        self.bad: list[tuple[str, str]] = []
        self.bytes = 0
        self.files = 0
        self._shards: set[str] = set()

    def add(self, outcome: Outcome) -> None:
        """Count one file."""
        self.files += 1
        file = file_of(outcome.path)
        if file not in self._shards:  # a shard counts once, whatever is in it
            self.bytes += outcome.size or 0
        if file != outcome.path:
            self._shards.add(file)
        if outcome.reason is None:
            self.facts.add(outcome.facts)
        else:
            self.bad.append((outcome.path, outcome.reason))


def _walk(job: Job, manifest: Manifest, record: Record, workers: int, progress: bool) -> _Tally:
    """Check each file; Ctrl-C says how to go on."""
    tally = _Tally()
    flying: dict[str, tuple[int, Outcome | None]] = {}  # number and what is known, of a few files

    def tasks() -> Iterator[Task]:
        for number, path in enumerate(manifest):
            known = record.known(path)
            flying[path] = number, known
            yield Task(path, known)

    interval = 0.5 if sys.stderr.isatty() else 30  # seconds; a log file takes no more
    bar = tqdm(
        total=len(manifest), desc="scan", unit="file", mininterval=interval, disable=not progress
    )
    try:
        with bar, contextlib.closing(check_all(job, tasks(), workers)) as found:
            for outcome in found:
                number, known = flying.pop(outcome.path)
                if outcome != known:
                    record.add(outcome)
                tally.add(outcome)
                manifest.state[number] = GOOD if outcome.reason is None else BAD
                bar.set_postfix(bad=len(tally.bad), refresh=False)
                bar.update()
    except KeyboardInterrupt:
        say(
            f"interrupted: {tally.files} of {len(manifest)} files are checked and kept in "
            f"{record.path}; the same command goes on from there",
            sys.stderr,
        )
        raise
    return tally


def _counts(
    data: Scannable, lists: Mapping[str, LabelledFiles], manifest: Manifest
) -> dict[str, Any]:
    counts, names = {}, data.class_names
    for split, files in lists.items():
        good = manifest.good(split)  # [N]
        of_class = files.class_counts(len(names), good).tolist()
        per_class = dict(zip(_distinct(names), of_class, strict=True))
        counts[split] = {
            "files": len(files),
            "bad": int((~good).sum()),
            "missing": len(data.missing(split)),
            "classes_without_files": [name for name, n in per_class.items() if not n],
            "per_class": per_class,
        }
    return counts


def _distinct(names: Sequence[str]) -> list[str]:
    """Class names, with the index where several classes share one."""
    counts = Counter(names)
    return [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names)]


def _hash(lists: Mapping[str, LabelledFiles]) -> str:
    """Sixteen hexadecimal digits that name the lists scanned: files, order, labels, splits."""
    digests = "".join(f"{split} {files.digest()}\n" for split, files in sorted(lists.items()))
    return hashlib.sha256(digests.encode()).hexdigest()[:16]
