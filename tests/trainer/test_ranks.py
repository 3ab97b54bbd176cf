"""Which process this one is, as launchers say it."""

import pytest

from tome_lightning.trainer.ranks import rank, started_by_first

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize(
    ("environment", "number", "started"),
    [
        ({}, 0, False),
        ({"LOCAL_RANK": "0"}, 0, False),
        ({"LOCAL_RANK": "1"}, 1, True),  # Lightning's own launcher sets no other
        ({"LOCAL_RANK": "1", "RANK": "9", "TORCHELASTIC_RUN_ID": "x"}, 9, False),
        ({"SLURM_PROCID": "3"}, 3, False),
        ({"JSM_NAMESPACE_RANK": "5"}, 5, False),
        ({"OMPI_COMM_WORLD_RANK": "2"}, 2, False),
        ({"RANK": "0", "LOCAL_RANK": "2"}, 2, False),  # RANK of a machine, which starts its own
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1, True),  # Lightning's, in a shell on SLURM
        (
            {"SLURM_PROCID": "1", "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "x"},
            0,
            False,
        ),
    ],
)
def test_which_process_this_is_and_who_started_it(monkeypatch, environment, number, started):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (rank(), started_by_first()) == (number, started)
