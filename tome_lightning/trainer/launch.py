"""Whether the processes that a launcher has started are those that the trainer expects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from tome_lightning.errors import UsageError

STEP = ("SLURM_STEP_ID", "SLURM_STEPID")  # srun sets them for its tasks; a batch script has none
SHELLS = ("bash", "interactive")  # names that SLURM gives jobs which are a user's shell


class Launch(NamedTuple):
    """How this process was started.

    Attributes:
        by: The launcher; empty for a user, a batch script, or a launcher that is not known.
        processes: How many it has started, over all machines.
        nodes: On how many machines; 0 if that is not known.
    """

    by: str
    processes: int
    nodes: int = 0


def launched() -> Launch:
    """What the environment says of this process's launcher, looked for in Lightning's order."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun, which may itself run under SLURM
        return Launch("torchrun", _number("WORLD_SIZE"), _number("GROUP_WORLD_SIZE", 0))
    ranked = "RANK" in os.environ or "LOCAL_RANK" in os.environ
    if ranked and _number("WORLD_SIZE") > 1:
        return Launch("a launcher (WORLD_SIZE)", _number("WORLD_SIZE"))
    if in_step():
        tasks = _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS"))
        return Launch("srun", tasks, _number("SLURM_STEP_NUM_NODES", _number("SLURM_NNODES", 0)))
    for name, by in (
        ("JSM_NAMESPACE_SIZE", "jsrun"),
        ("OMPI_COMM_WORLD_SIZE", "mpirun"),
        ("PMI_SIZE", "mpirun"),
    ):
        if _number(name) > 1:
            return Launch(by, _number(name))
    return Launch("", 1)


def in_step() -> bool:
    """Whether srun has started this process, and not as a user's shell.

    The script that sbatch runs and the shell of salloc are one process each, however many tasks the job
    is for (SLURM_NTASKS). Of a shell's tasks only the first one has the user.
    """
    shell = os.environ.get("SLURM_JOB_NAME") in SHELLS and not _number("SLURM_PROCID", 0)
    return any(name in os.environ for name in STEP) and not shell


def cluster_plugins(given: Sequence[Any]) -> list[Any]:
    """The cluster environment that Lightning is to have, where it would choose another by itself.

    On SLURM without requeueing, which saves from within a signal's handler, wherever the step is
    (`SaveLast` waits for its end); and in a batch script without srun, where Lightning would wait for
    tasks that nobody starts, the one that starts its processes itself.

    Args:
        given: The user's plugins.

    Raises:
        UsageError: SLURM is not told how many tasks a machine has.
    """
    chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in given)
    if chosen or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    if not in_step():
        return [LightningEnvironment()]
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:
        raise UsageError(
            f"srun has started {_number('SLURM_NTASKS')} tasks, and SLURM does not say how many on each "
            "machine. Give sbatch (or srun) --nodes N --ntasks-per-node M in place of --ntasks, and the "
            "run --trainer.num_nodes N --trainer.devices M."
        ) from error


def check_launch(trainer: Any) -> None:
    """Compare the processes that a launcher has started with those that the trainer expects.

    Args:
        trainer: As Lightning has made it.

    Raises:
        UsageError: Each process would train by itself, in the same directory; or the run would wait
            for processes that nobody starts.
    """
    launch, wanted = launched(), trainer.num_devices * trainer.num_nodes
    environment = getattr(trainer.strategy, "cluster_environment", None)
    joins = environment is not None and environment.creates_processes_externally
    how = f"trainer.devices {trainer.num_devices} x trainer.num_nodes {trainer.num_nodes}"
    if launch.processes > 1:
        # one process a machine, each of which starts the others of it, is a group as well
        apart = launch.processes != wanted if joins else trainer.num_nodes == 1
        if apart:
            raise UsageError(
                f"{launch.by} has started {launch.processes} processes, the trainer is for {wanted} "
                f"({how}): each would train by itself and write over the others. For one run of all, "
                f"{_as_one(launch, joins or environment is None)}; else start one process."
            )
    elif wanted > 1 and joins and not isinstance(environment, LightningEnvironment):
        raise UsageError(
            f"The trainer is for {wanted} processes ({how}), {launch.by or 'the launcher'} has started "
            "one: it would wait for the others for ever. Have it start as many (torchrun "
            "--nproc_per_node, srun --ntasks-per-node), or --trainer.devices 1 --trainer.num_nodes 1."
        )


def _as_one(launch: Launch, joins: bool) -> str:
    """What makes one run of a launcher's processes."""
    if launch.by == "mpirun" or not joins:
        return "start them with torchrun or srun (Lightning knows mpirun's with mpi4py installed)"
    nodes = launch.nodes or 1
    devices = f"--trainer.devices {launch.processes // nodes}"
    several = f" --trainer.num_nodes {nodes}" if nodes > 1 else ""
    return f"{devices}{several} --trainer.strategy ddp"


def _number(name: str, default: int = 1) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default
