"""What is printed: text that may stand in a file of somebody else cannot command the terminal."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

# Control characters but tab and line feed; marks that turn the direction of writing (Unicode TR36); and
# bytes of file names that are no UTF-8, which a strict terminal cannot be sent.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)


LIGHTNING = ("lightning.pytorch", "lightning.fabric")  # its loggers


def escaped(text: object) -> str:
    r"""Text with control characters spelled out: an escape sequence becomes ``\x1b[...``."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], str(text))


def say(text: object = "", file: TextIO | None = None) -> None:
    """Print lines, escaped, at once."""
    print(escaped(text), file=file, flush=True)


def columns(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell.

    Args:
        rows: As many cells each.
        left: Columns, from the first, that start at the same place; the others end there.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if number < left else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def typed(path: object) -> str:
    """A path as a shell takes it, for a command that is to be copied: quoted where that has to be."""
    return shlex.quote(str(path))


def complain(text: object) -> None:
    """Print ``error: ...`` as one line to stderr."""
    say(f"error: {' '.join(str(text).split())}", sys.stderr)


@contextlib.contextmanager
def quiet(*names: str, most: int = logging.WARNING) -> Iterator[None]:
    """Leave out what libraries log of themselves, by default Lightning of a run; warnings stay.

    Args:
        names: Of their loggers.
        most: The level from which on it is logged all the same.
    """
    loggers = [logging.getLogger(name) for name in names or LIGHTNING]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(most)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def silence() -> None:
    """Leave out what says nothing to the user: advertisements and warnings of our libraries' own."""
    escape_messages()
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # A resumed run goes on in its own directory.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # Checkpoints are written by callbacks that an evaluation has no use for.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not re.search("Tip:|Detected KeyboardInterrupt", record.getMessage())
    )


def escape_messages() -> None:
    """Let log records and warnings of a run, which name files and classes, be escaped as well."""
    for part in LIGHTNING:
        for name in (part, f"{part}.utilities.rank_zero"):
            logger = logging.getLogger(name)
            if _escape_record not in logger.filters:
                logger.addFilter(_escape_record)
    if not isinstance(warnings.formatwarning, _EscapedWarnings):
        warnings.formatwarning = _EscapedWarnings(warnings.formatwarning)


def _escape_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = escaped(record.getMessage()), ()
    return True


class _EscapedWarnings:
    def __init__(self, usual: Any) -> None:
        self.usual = usual

    def __call__(self, message: Any, *args: Any, **kwargs: Any) -> str:
        return escaped(self.usual(message, *args, **kwargs))
