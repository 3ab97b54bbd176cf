"""Processes as launchers describe them."""

import pytest

VARIABLES = (
    "RANK", "LOCAL_RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", "JSM_NAMESPACE_RANK",
    "OMPI_COMM_WORLD_RANK", "PMI_RANK",
)  # fmt: skip


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher has started this process."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
