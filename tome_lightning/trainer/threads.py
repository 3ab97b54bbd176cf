"""How the threads of a CPU's kernels wait for one another."""

from __future__ import annotations

from collections.abc import MutableMapping

# What says how OpenMP's threads wait: of all OpenMPs, of GNU's (torch's wheels for Linux), of LLVM's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")

# Rounds that a thread of GNU's OpenMP spins before it sleeps: some microseconds, not milliseconds. Not
# OMP_WAIT_POLICY=PASSIVE, which has none: that cost 8% of a step on an idle machine.
SPINS = "1000"


def wait_asleep(environ: MutableMapping[str, str]) -> None:
    """Let threads that wait for others sleep soon, unless the user has said how they wait.

    By default they spin for long. Where another process has the core of one of them, the others spin
    until its turn comes, and use up the very time that it needs.

    Args:
        environ: The environment, which OpenMP reads when torch is imported.
    """
    if not any(name in environ for name in WAITING):
        environ["GOMP_SPINCOUNT"] = SPINS
