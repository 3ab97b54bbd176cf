"""What a file says is spelled out where it is printed, logged or warned of, and commands no terminal."""

import io
import logging
import warnings
from collections.abc import Iterator

import pytest

from tome_lightning import screen

EVIL = "a\x1b]0;owned\x07\u202eb\n"
PLAIN = r"a\x1b]0;owned\x07\u202eb"
LOGGERS = (
    "lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric",
    "lightning.fabric.utilities.rank_zero",
)  # fmt: skip


@pytest.fixture
def escaping(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a run; loggers and warnings are given back."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    filters = [list(logger.filters) for logger in loggers]
    for logger in loggers:
        logger.filters.clear()
    screen.escape_messages()
    yield
    for logger, before in zip(loggers, filters, strict=True):
        logger.filters[:] = before


def test_what_is_printed_is_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    screen.say(EVIL)
    screen.complain(EVIL)
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{PLAIN}\n\n", f"error: {PLAIN}\n")


@pytest.mark.usefixtures("escaping")
@pytest.mark.parametrize("name", LOGGERS)
def test_log_records_are_spelled_out(name: str) -> None:
    stream = io.StringIO()
    handler, logger = logging.StreamHandler(stream), logging.getLogger(name)
    logger.addHandler(handler)
    try:
        logger.warning("class %s", EVIL)
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue().strip() == f"class {PLAIN}"


@pytest.mark.usefixtures("escaping")
def test_warnings_are_spelled_out() -> None:
    told = warnings.formatwarning(EVIL, UserWarning, f"/x/{EVIL}.py", 1, line="")
    assert "\x1b" not in told
    assert PLAIN in told
