"""The rows of AudioSet's lists, a batch at a time: AudioMAE's JSON, the segment CSVs, CSVs of paths."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from datamodules.csv_lines import cells, cells_of
from datamodules.errors import DataError

PLAIN_HEADER = ["path", "labels"]
LINES = 20_000  # of a CSV at once
BLOCK = 1 << 21  # characters of a JSON at once: some 20,000 entries
# A line as AudioSet writes them, for which a CSV reader takes five times as long.
STANDARD = re.compile(r'^([^\s",][^",\n]*), *([\d.]+), *([\d.]+), *"([^"\n]*)"$', re.MULTILINE)
Segment = tuple[str, str]  # start and end of a clip in its video in seconds, as a CSV has them


class Rows(NamedTuple):
    """Some rows of a list, one after the other.

    Attributes:
        numbers: Their places in the list, 1 the first: lines of a CSV, entries of a JSON.
        clips: Path of each clip, or in a CSV of segments its YouTube id.
        labels: Label ids of each, with commas or semicolons in between.
        segments: Segment of each; None in a list of paths.
    """

    numbers: Sequence[int]
    clips: list[str]
    labels: list[str]
    segments: list[Segment] | None = None


def read_rows(path: Path, bare: bool) -> Iterator[Rows]:
    """The rows of a list of any kind.

    Args:
        path: The list.
        bare: Whether rows of paths may lack their labels.

    Raises:
        DataError: The list cannot be read, or a row is malformed, which is named.
    """
    if path.suffix.lower() == ".json":
        return _json_rows(path, bare)
    return plain_rows(path, bare) if is_plain(path) else _segment_rows(path)


def is_plain(path: Path) -> bool:
    """Whether a list has the header `path,labels`, or `path` alone."""
    try:
        first = cells(next(iter(_lines(path)), ""))
    except ValueError:
        return False
    return [name.strip().lower() for name in first] in (PLAIN_HEADER, PLAIN_HEADER[:1])


def plain_rows(path: Path, bare: bool = False) -> Iterator[Rows]:
    """The rows of a CSV of `path,labels`."""
    for numbers, lines in _numbered(path, header=True):
        clips, labels = [], []
        for number, line, row in zip(numbers, lines, cells_of(lines), strict=True):
            if row is not None and bare and len(row) == 1:
                row = [*row, ""]
            if row is None or len(row) != 2:
                raise DataError(
                    f"{path}, line {number}: expected a path and its labels with ; in between, got "
                    f"{line[:80]!r}"
                )
            clips.append(row[0].strip())
            labels.append(row[1])
        yield Rows(numbers, clips, labels)


def _segment_rows(path: Path) -> Iterator[Rows]:
    known = set[Segment]()  # some hundred different ones in two million rows
    for numbers, lines in _numbered(path, comments=True):
        rows = STANDARD.findall("\n".join(lines))
        if len(rows) < len(lines):  # not all written as AudioSet's are
            rows = [
                _segment(path, *row) for row in zip(numbers, lines, cells_of(lines), strict=True)
            ]
        clips, starts, ends, labels = map(list, zip(*rows, strict=True))
        segments = list(zip(starts, ends, strict=True))
        if not known.issuperset(segments):
            for number, line, pair in zip(numbers, lines, segments, strict=True):
                _check_times(path, number, line, pair)
            known.update(segments)
        yield Rows(numbers, clips, labels, segments)


def _segment(path: Path, number: int, line: str, row: list[str] | None) -> tuple[str, ...]:
    if row is None or len(row) < 3:
        raise _malformed(path, number, line)
    clip, start, end, *ids = row
    _check_times(path, number, line, (start, end))
    return clip, start, end, ",".join(ids)


def _check_times(path: Path, number: int, line: str, pair: Segment) -> None:
    try:
        float(pair[0]), float(pair[1])
    except ValueError:
        raise _malformed(path, number, line) from None


def _malformed(path: Path, number: int, line: str) -> DataError:
    return DataError(
        f'{path}, line {number}: expected `YTID, start_seconds, end_seconds, "labels"`, got '
        f"{line[:80]!r}"
    )


def _numbered(
    path: Path, header: bool = False, comments: bool = False
) -> Iterator[tuple[Sequence[int], list[str]]]:
    """Number and content of the lines of a CSV that are neither blank, header nor comment."""
    first, text = 1, _lines(path)
    while lines := list(map(str.strip, islice(text, LINES))):
        skipped = "#" if comments else "\n"  # no line starts with that
        kept = [
            n for n, line in enumerate(lines, start=first)
            if line and line[0] != skipped and not (header and n == 1)
        ]  # fmt: skip
        if kept:
            yield kept, [lines[n - first] for n in kept]
        first += len(lines)


def _json_rows(path: Path, bare: bool) -> Iterator[Rows]:
    first = 1
    for entries in _json_entries(path):
        try:
            clips, labels = [e["wav"] for e in entries], [e["labels"] for e in entries]
            fine = {*map(type, clips), *map(type, labels)} <= {str}
        except (TypeError, KeyError):
            fine = False
        if not fine:
            clips, labels = _one_by_one(path, entries, first, bare)
        yield Rows(range(first, first + len(entries)), clips, labels)
        first += len(entries)


def _one_by_one(
    path: Path, entries: list[Any], first: int, bare: bool
) -> tuple[list[str], list[str]]:
    clips, labels = [], []
    for number, entry in enumerate(entries, start=first):
        match entry:
            case {"wav": str(clip), "labels": str(ids)}:
                labels.append(ids)
            case {"wav": str(clip)} if bare and "labels" not in entry:
                labels.append("")
            case _:
                raise DataError(
                    f'{path}, entry {number}: expected {{"wav": path, "labels": ids}}, got '
                    f"{str(entry)[:80]}"
                )
        clips.append(clip)
    return clips, labels


def _json_entries(path: Path) -> Iterator[list[Any]]:
    """The entries of `{"data": [...]}` in batches: two million at once would take over a gigabyte.

    A piece of the array that ends with a `}` is parsed as an array of its own. That fails where the `}`
    belongs to a string or lies deeper; then one before it, or more text, is tried. So whatever parses is
    what the whole would have given. A file of another shape is read as a whole, as is one that
    fails, to be told why.
    """
    done = 0
    with _open(path) as file:
        text = file.read(BLOCK)
        start = re.match(r'\s*\{\s*"data"\s*:\s*\[', text)
        text = text[start.end() :] if start else ""
        while start and (more := file.read(BLOCK)):
            entries, text = _parsed(text)
            done += len(entries)
            if entries:
                yield entries
            text += more
        if start and (rest := _last_entries(text)) is not None:
            yield rest
            return
    if done and _whole(path):  # which gives the last of several lists, as any reader of JSON does
        raise DataError(f"{path} has the key `data` more than once; leave one")
    yield _whole(path)


def _parsed(text: str) -> tuple[list[Any], str]:
    """The entries up to a `}` near the end of some text of an array, and the text that follows."""
    body = text.lstrip().removeprefix(",")
    cut = len(body)
    for _ in range(8):
        cut = body.rfind("}", 0, cut)
        if cut < 0:
            break
        try:
            return json.loads(f"[{body[: cut + 1]}]"), body[cut + 1 :]
        except (ValueError, RecursionError):
            continue
    return [], text


def _last_entries(text: str) -> list[Any] | None:
    """The entries up to the end of the array, if nothing but other keys follows it."""
    try:
        body = f"[{text.lstrip().removeprefix(',')}"
        entries, end = json.JSONDecoder().raw_decode(body)
        others = json.loads('{"data": null' + body[end:])
    except (ValueError, RecursionError):
        return None
    return entries if others["data"] is None else None


def _whole(path: Path) -> list[Any]:
    try:
        with _open(path) as file:
            entries = json.load(file)["data"]
        if not isinstance(entries, list):
            raise TypeError("data is no list")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f'{path} is not {{"data": [{{"wav": path, "labels": ids}}]}} '
            f"({type(error).__name__}: {error})"
        ) from None
    return entries


def _lines(path: Path) -> Iterator[str]:
    with _open(path) as file:
        yield from file


def _open(path: Path) -> TextIO:
    try:
        return open(path, encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def place(path: Path, number: int) -> str:
    """How messages call a row."""
    return f"{'entry' if path.suffix.lower() == '.json' else 'line'} {number}"
