"""Which of a run's processes this one is, read off the environment: nothing heavy is imported."""

from __future__ import annotations

import os


def rank() -> int:
    """The number of this process, 0 the first, before any strategy is set up."""
    if os.environ.get("RANK", "").isdigit():  # torchrun, which may itself run under SLURM
        names = ["RANK"]
    else:
        names = ["SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"]
    # no process has a larger number on its machine than over all machines
    numbers = [os.environ.get(name, "") for name in (*names, "LOCAL_RANK")]
    return max([0, *(int(number) for number in numbers if number.isdigit())])


def started_by_first() -> bool:
    """Whether the first process has started this one, and neither torchrun nor SLURM nor a user did.

    The first one is killed within seconds once such a process ends with anything but 0.
    """
    elsewhere = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "RANK"))
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 and not elsewhere
