"""One line of a check-up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from checkpoints.errors import first_line


class Status(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what came of it.

    Attributes:
        status: Whether it works.
        what: What was looked at, in a word or two.
        words: What was found.
        remedy: What to do about it, where it is not ok.
        needed_by: ``video`` or ``audio`` where only such runs need it; empty for all.
    """

    status: Status
    what: str
    words: str
    remedy: str = ""
    needed_by: str = ""

    def __str__(self) -> str:
        line = f"{self.status.value:<8} {self.what:<12} {self.words}"
        return f"{line}\n{'':<21} -> {self.remedy}" if self.remedy else line


def ok(what: str, words: str) -> Finding:
    return Finding(Status.OK, what, words)


def warning(what: str, words: str, remedy: str, needed_by: str = "") -> Finding:
    return Finding(Status.WARNING, what, words, remedy, needed_by)


def broken(what: str, words: str, remedy: str, needed_by: str = "") -> Finding:
    return Finding(Status.BROKEN, what, words, remedy, needed_by)


def survive(what: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check, or that it failed itself: a broken package raises anything."""
    try:
        return list(check())
    except Exception as error:
        words = f"could not be checked: {type(error).__name__}: {first_line(error)}"
        return [broken(what, words, "see the lines above; if they are fine, report this")]


def format_findings(findings: Iterable[Finding]) -> str:
    """Lines for the screen, and how many of each kind."""
    findings = list(findings)
    counts = [
        f"{sum(f.status is status for f in findings)} {status.value}"
        for status in Status
        if any(f.status is status for f in findings)
    ]
    return "\n".join([*map(str, findings), ", ".join(counts)])


tell = format_findings  # its name in earlier versions
