"""Two nodes: two torchrun agents that find each other, here on one machine."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from .kill_and_resume import Job, Session, by_rank, differences, write_data
from .processes import Child, free_port, process, run_forks

pytestmark = pytest.mark.slow
NODES = ("--trainer.num_nodes=2", "--trainer.strategy=ddp")


@contextmanager
def nodes(job: Job, *words: str) -> Iterator[list[Child]]:
    """Both agents of a job; gone at the end."""
    port = free_port()
    job.folder.mkdir(parents=True, exist_ok=True)
    number = len(list(job.folder.glob("*.log")))
    fit = job.command(*NODES, *words)[1:]
    with ExitStack() as stack:
        agents = []
        for node in range(2):
            torchrun = [
                sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
                f"--node_rank={node}", "--rdzv_backend=c10d", "--rdzv_id=test",
                f"--rdzv_endpoint=127.0.0.1:{port}",
            ]  # fmt: skip
            log = job.folder / f"{number + node}.log"
            agents.append(stack.enter_context(process([*torchrun, *fit], log)))
        yield agents


def printed(job: Job) -> str:
    """The end of what all agents printed."""
    return "\n".join(log.read_text(errors="replace")[-3000:] for log in job.folder.glob("*.log"))


def test_two_nodes_are_one_run_and_go_on_as_one(tmp_path):
    data = write_data("quickstart", tmp_path)
    whole = Job("quickstart", data, tmp_path / "whole", accumulate=2)
    whole.folder.mkdir()
    # without agents, which start the two others: these end as this one does, bit for bit
    run_forks(whole.command(*NODES), 2, whole.folder, nodes=2)
    assert "effective batch 32" in printed(whole)  # 8 a process x 2 processes x 2 accumulated
    assert len(list(whole.run_dir.glob("config*.yaml"))) == 1
    assert len(list(tmp_path.rglob("summary.json"))) == 1

    ranks = by_rank(whole)
    assert set(ranks) == {0, 1}
    for epoch in range(3):
        first, second = (ids_of(ranks[rank][0], epoch) for rank in (0, 1))
        assert len(first) == len(second) == 13 * 8
        assert first.isdisjoint(second)
    assert len({lines[-1]["weights"] for (lines,) in ranks.values()}) == 1

    killed = replace(whole, folder=tmp_path / "killed")
    with nodes(killed) as agents:
        assert Session(agents[0], killed).wait_for(20), printed(killed)
    with nodes(killed, "--resume=auto") as agents:
        assert [agent.wait(200) for agent in agents] == [0, 0], printed(killed)
    assert differences(whole, killed) == []
    configs = sorted(path.name for path in killed.run_dir.glob("config*.yaml"))
    assert configs == ["config.resume-1.yaml", "config.yaml"]
    assert len(list(killed.folder.rglob("summary.json"))) == 1


def ids_of(lines: list[dict], epoch: int) -> set[int]:
    batches = [line for line in lines if line["phase"] == "train" and line["epoch"] == epoch]
    return {i for line in batches for i in line["ids"]}
