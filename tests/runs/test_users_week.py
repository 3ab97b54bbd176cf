"""A user's week with one run."""

import pytest

from .users_week import tell, week


@pytest.mark.slow
def test_a_week_of_commands_tells_one_story(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "35 steps in 7 epochs and 6 sittings" in tell(week(tmp_path))
