"""Trouble of one of several processes ends all of them: some cases of the table of ``LONG_RUNS.md``."""

import pytest

from .kill_and_resume import write_data
from .ranks_table import LAUNCHES, try_case

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("launch", "name"),
    [
        ("agent", "SIGUSR1 to torchrun, or the first process"),
        ("agent", "torchrun, or the first process, is killed"),
        ("two", "SIGUSR1 to one rank in validation"),
        ("two", "a rank raises, and its sockets stay open"),
        ("nodes", "a rank raises in training"),
    ],
)
def test_all_processes_are_gone_within_30_seconds_with_the_words_of_one(launch, name, tmp_path):
    row = try_case(name, LAUNCHES[launch], write_data("quickstart", tmp_path), tmp_path / "job")
    assert row.fine, row
