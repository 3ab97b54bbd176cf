"""A process that gives no sign of life any more is missed by its neighbours, and by nobody else."""

import pytest
from torch.distributed import HashStore

from tome_lightning.trainer.pulse import BEAT, SILENCE, Pulse

LOOKS = round(SILENCE / BEAT)


@pytest.fixture
def pulses() -> list[Pulse]:
    """Of four processes, each of which has given signs that the others have seen."""
    store = HashStore()
    found = [Pulse(rank, store) for rank in range(4)]
    for _ in range(2):
        assert [pulse.beat() for pulse in found] == [None] * 4
    return found


def test_who_gives_signs_is_never_missed(pulses):
    for _ in range(3 * LOOKS):
        assert [pulse.beat() for pulse in pulses] == [None] * 4


def test_who_gives_none_is_missed_by_both_neighbours_after_a_while(pulses):
    others = [pulse for pulse in pulses if pulse.rank != 2]
    pulses[1].beat()  # the third one's last sign came after it had looked
    for _ in range(LOOKS - 1):
        assert [pulse.beat() for pulse in others] == [None] * 3
    assert [pulse.beat() for pulse in others] == [None, 2, 2]


def test_of_a_whole_machine_that_is_gone_the_next_one_misses_the_last(pulses):
    for _ in range(LOOKS):
        assert [pulse.beat() for pulse in pulses[:2]] == [None] * 2
    assert [pulse.beat() for pulse in pulses[:2]] == [None, 2]


def test_a_sign_after_a_pause_counts(pulses):
    """A server of files that is replaced freezes who reads from it for a minute or more."""
    for _ in range(3):
        for _ in range(LOOKS - 1):
            assert pulses[0].beat() is None
        pulses[1].beat()
        assert pulses[0].beat() is None


def test_who_has_not_begun_or_is_done_is_not_missed():
    store = HashStore()
    first, second = Pulse(0, store), Pulse(1, store)
    for _ in range(2 * LOOKS):
        assert first.beat() is None  # the second one is still importing
    second.beat()
    first.beat()
    second.end()
    second.beat()  # of the thread that watches, which was about to
    for _ in range(2 * LOOKS):
        assert first.beat() is None
    again = Pulse(1, store)  # another fit of the same process
    again.beat()
    for _ in range(LOOKS):
        assert first.beat() is None
    assert first.beat() == 1
