"""The processes that a launcher has started are the trainer's, or one line says that they are not."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from tome_lightning.__main__ import main
from tome_lightning.arguments import UsageError
from tome_lightning.trainer.launch import Launch, check_launch, cluster_plugins, in_step, launched
from tome_lightning.trainer.peers import one_of_several
from tome_lightning.trainer.ranks import rank

JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
STEP = JOB | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "1",
}  # fmt: skip
SHELL = {"SLURM_JOB_NAME": "interactive"}
ALONE = Launch("", 1)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_", "OMPI_", "PMI_", "JSM_", "GROUP_")):
            monkeypatch.delenv(name)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def environment(monkeypatch):
    def given(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return given


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ALONE),
        ({"WORLD_SIZE": "2"}, ALONE),  # of machines: Lightning starts the processes on each
        (TORCHRUN, Launch("torchrun", 2, 1)),
        (STEP | TORCHRUN | {"WORLD_SIZE": "1"}, Launch("torchrun", 1, 1)),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "4"}, Launch("a launcher (WORLD_SIZE)", 4)),
        (STEP, Launch("srun", 2, 1)),
        (JOB, ALONE),  # the script that sbatch runs, without srun
        (JOB | {"SLURM_ARRAY_TASK_ID": "3"}, ALONE),
        (JOB | SHELL, ALONE),  # salloc
        (STEP | {"SLURM_JOB_NAME": "bash"}, ALONE),  # srun --pty bash
        (STEP | SHELL | {"SLURM_PROCID": "1"}, Launch("srun", 2, 1)),  # no shell is a second task
        ({"JSM_NAMESPACE_SIZE": "6"}, Launch("jsrun", 6)),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, Launch("mpirun", 2)),
        ({"PMI_SIZE": "2"}, Launch("mpirun", 2)),
    ],
)
def test_who_has_started_how_many_processes(environment, variables, expected):
    environment(variables)
    assert launched() == expected
    assert one_of_several() == (expected.processes > 1)


def trainer(devices: int = 1, nodes: int = 1, environment: Any = None) -> Any:
    """One device has no cluster environment, as Lightning's single-device strategy."""
    strategy = SimpleNamespace(cluster_environment=environment)
    return SimpleNamespace(num_devices=devices, num_nodes=nodes, strategy=strategy)


def slurm() -> SLURMEnvironment:
    (found,) = cluster_plugins([])
    assert isinstance(found, SLURMEnvironment)
    return found


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "cluster"),
    [
        ({}, 1, 1, None),
        ({}, 2, 1, LightningEnvironment),
        (TORCHRUN, 2, 1, TorchElasticEnvironment),
        (TORCHRUN, 1, 2, TorchElasticEnvironment),
        (TORCHRUN | {"WORLD_SIZE": "1"}, 1, 1, None),
        (STEP | {"SLURM_NTASKS_PER_NODE": "2"}, 2, 1, slurm),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, 1, 1, None),
        (JOB, 1, 1, None),
        (JOB, 2, 1, LightningEnvironment),
        (JOB | SHELL, 2, 1, LightningEnvironment),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 2, 1, LightningEnvironment),
        # one process a machine, which starts the others of it
        ({"RANK": "1", "WORLD_SIZE": "2"}, 8, 2, LightningEnvironment),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 8, 2, LightningEnvironment),
    ],
)
def test_processes_that_form_a_group_or_are_alone_may_start(
    environment, variables, devices, nodes, cluster
):
    environment(variables)
    check_launch(trainer(devices, nodes, cluster and cluster()))


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "cluster", "told"),
    [
        (TORCHRUN, 1, 1, None, "torchrun has started 2 .* for 1 .*--trainer.devices 2 --trainer.s"),
        (
            TORCHRUN | {"WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}, 2, 1, TorchElasticEnvironment,
            "started 4 .* for 2 .*--trainer.devices 2 --trainer.num_nodes 2",
        ),
        (STEP, 1, 1, None, "srun has started 2 .* each would train by itself"),
        (JOB | {"SLURM_STEPID": "0"}, 1, 1, None, "srun has started 2"),  # an older SLURM
        ({"JSM_NAMESPACE_SIZE": "6"}, 1, 1, None, "jsrun has started 6"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 1, 1, None, "mpirun has started 2 .*with torchrun or srun"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2, 1, LightningEnvironment, "with torchrun or srun"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 8, 1, LightningEnvironment, "started 2 processes"),
        (
            TORCHRUN | {"WORLD_SIZE": "1"}, 2, 1, TorchElasticEnvironment,
            "for 2 processes .*torchrun has started one: it would wait",
        ),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, 4, 1, slurm, "srun has started one"),
    ],
)  # fmt: skip
def test_processes_that_are_not_the_trainers_are_refused(
    environment, variables, devices, nodes, cluster, told
):
    environment(variables)
    with pytest.raises(UsageError, match=told):
        check_launch(trainer(devices, nodes, cluster and cluster()))


def test_the_second_task_of_a_shell_is_refused(environment):
    """The first one is taken for the shell, and goes on."""
    environment(STEP | SHELL)
    check_launch(trainer())
    environment({"SLURM_PROCID": "1"})
    with pytest.raises(UsageError, match="srun has started 2"):
        check_launch(trainer())


def test_on_slurm_lightning_does_not_requeue_by_itself(environment):
    assert cluster_plugins([]) == []
    environment(JOB | {"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"})
    assert slurm().auto_requeue is False
    assert cluster_plugins([SLURMEnvironment(auto_requeue=True)]) == []
    environment({"TORCHELASTIC_RUN_ID": "torchrun within a job"})
    assert cluster_plugins([]) == []


def test_a_batch_script_without_srun_starts_its_processes_itself(environment):
    environment(JOB)
    assert [type(plugin) for plugin in cluster_plugins([])] == [LightningEnvironment]
    assert not in_step()


def test_slurm_without_tasks_per_machine_is_told_how(environment):
    environment(STEP)
    with pytest.raises(UsageError, match=r"srun has started 2 tasks.*--ntasks-per-node M"):
        cluster_plugins([])


@pytest.mark.parametrize("verb", ["fit", "predict"])
def test_a_verb_does_not_run_in_several_processes_that_know_nothing_of_each_other(
    environment, verb, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    words = [verb, "--recipe=quickstart", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    errors = []
    for process in ("0", "1"):
        environment(TORCHRUN | {"RANK": process, "LOCAL_RANK": process})
        assert rank() == int(process)
        assert main(words) == 2
        errors += [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    (told,) = errors  # by the first to come: torchrun ends the other as soon as it has ended
    assert told.startswith("error: torchrun has started 2 processes, the trainer is for 1")
    assert not [path for path in Path("runs").rglob("*") if path.is_file() or path.name == "0"]
