"""The rows of AudioSet's lists, a batch at a time: AudioMAE's JSON, the segment CSVs, CSVs of paths."""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from io import StringIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np

from datamodules.csv_lines import cells, cells_of
from datamodules.errors import DataError
from datamodules.packed import SPACES, Packed, Spans, pack

PLAIN_HEADER = ["path", "labels"]
LINES = 20_000  # of a CSV at once
BLOCK = 1 << 21  # characters of a JSON or bytes of a CSV at once: some 20,000 rows
TIMES = re.compile(" *([0-9.]+), *([0-9.]+), *")  # between id and labels, as AudioSet writes them
Segment = tuple[str, str]  # start and end of a clip in its video in seconds, as a CSV has them


class Rows(NamedTuple):
    """Some rows of a list, one after the other.

    Attributes:
        numbers: Their places in the list, 1 the first: lines of a CSV, entries of a JSON.
        clips: Path of each clip, or in a CSV of segments its YouTube id.
        labels: Label ids of each, with commas or semicolons in between.
        segments: Different segments of these rows; none in a list of paths.
        segment: Which of them each is, in a CSV of segments.
    """

    numbers: Sequence[int] | np.ndarray
    clips: Packed
    labels: Packed
    segments: Sequence[Segment] = ()
    segment: np.ndarray = np.empty(0, np.int64)


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
    for numbers, lines in _numbered(path):
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
        yield Rows(numbers, pack(clips), pack(labels))


def _segment_rows(path: Path) -> Iterator[Rows]:
    first = 1
    for block in _blocks(path):
        rows = _standard_rows(block, first) or _other_rows(path, block, first)
        if rows.clips.total:
            yield rows
        first += len(_text_lines(block)) if b"\r" in block else block.count(b"\n")


def _standard_rows(block: bytes, first: int) -> Rows | None:
    """The rows of a block, the first of which is line `first`, if all are as AudioSet writes them.

    That is `YTID, start_seconds, end_seconds, "labels"`, in ASCII; a CSV reader takes ten times as long.
    """
    text, size = np.frombuffer(block, dtype=np.uint8), len(block)
    stops = np.flatnonzero(text == ord("\n"))
    stops = stops if block.endswith(b"\n") else np.append(stops, size)
    starts = np.append(0, stops[:-1] + 1)
    rows = np.flatnonzero((starts < stops) & (text[starts] != ord("#")))
    starts, stops = starts[rows], stops[rows]
    commas = np.append(np.flatnonzero(text == ord(",")), 4 * [size])
    quotes = np.append(np.flatnonzero(text == ord('"')), 2 * [size])
    comma, quote = np.searchsorted(commas, starts), np.searchsorted(quotes, starts)
    comma1, comma3, comma4 = (commas[comma + n] for n in (0, 2, 3))
    opening, closing = quotes[quote], quotes[quote + 1]
    shaped = (comma3 < opening) & (opening < comma4) & (closing == stops - 1)
    named = (comma1 > starts) & ~SPACES[text[starts]]
    if not (block.isascii() and b"\r" not in block and (shaped & named).all()):
        return None
    times = Spans(text, comma1 + 1, opening)
    different, segment = times.distinct()
    found = [TIMES.fullmatch(times.at(row)) for row in different]
    segments = [(match[1], match[2]) for match in found if match and _are_times(match.groups())]
    if len(segments) < len(found):
        return None
    clips, labels = Spans(text, starts, comma1), Spans(text, opening + 1, closing)
    return Rows(first + rows, clips.packed(), labels.packed(), segments, segment)


def _other_rows(path: Path, block: bytes, first: int) -> Rows:
    """The rows of a block, however they are written."""
    lines = _text_lines(block)
    kept = [n for n, line in enumerate(lines) if line and line[0] != "#"]
    numbers, lines = [first + n for n in kept], [lines[n] for n in kept]
    rows = [_segment(path, *row) for row in zip(numbers, lines, cells_of(lines), strict=True)]
    segments = dict[Segment, int]()
    segment = [segments.setdefault((start, end), len(segments)) for _, start, end, _ in rows]
    clips, labels = pack(row[0] for row in rows), pack(row[3] for row in rows)
    return Rows(numbers, clips, labels, list(segments), np.array(segment, dtype=np.int64))


def _segment(path: Path, number: int, line: str, row: list[str] | None) -> tuple[str, ...]:
    if row is None or len(row) < 3 or not _are_times((row[1], row[2])):
        raise _malformed(path, number, line)
    clip, start, end, *ids = row
    return clip, start, end, ",".join(ids)


def _are_times(pair: Sequence[str]) -> bool:
    try:
        float(pair[0]), float(pair[1])
    except ValueError:
        return False
    return True


def _malformed(path: Path, number: int, line: str) -> DataError:
    return DataError(
        f'{path}, line {number}: expected `YTID, start_seconds, end_seconds, "labels"`, got '
        f"{line[:80]!r}"
    )


def _numbered(path: Path) -> Iterator[tuple[list[int], list[str]]]:
    """Number and content of the lines of a CSV that are neither blank nor its header."""
    first, text = 1, _lines(path)
    while lines := list(map(str.strip, islice(text, LINES))):
        kept = [n for n, line in enumerate(lines, start=first) if line and n > 1]
        if kept:
            yield kept, [lines[n - first] for n in kept]
        first += len(lines)


def _blocks(path: Path) -> Iterator[bytes]:
    """Whole lines of a text file, of about `BLOCK` bytes."""
    with _open_bytes(path) as file:
        rest = file.read(BLOCK).removeprefix(codecs.BOM_UTF8)
        while more := file.read(BLOCK):
            block, newline, rest = (rest + more).rpartition(b"\n")
            if newline:
                yield (block + newline).replace(b"\r\n", b"\n")
        if rest:
            yield rest.replace(b"\r\n", b"\n")


def _text_lines(block: bytes) -> list[str]:
    """The lines of a block, without white space at their ends."""
    text = StringIO(block.decode(errors="surrogateescape"), newline=None)
    return [line.strip() for line in text]


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
        yield Rows(range(first, first + len(entries)), pack(clips), pack(labels))
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
    return TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", errors="surrogateescape")


def _open_bytes(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def place(path: Path, number: int) -> str:
    """How messages call a row."""
    return f"{'entry' if path.suffix.lower() == '.json' else 'line'} {number}"
