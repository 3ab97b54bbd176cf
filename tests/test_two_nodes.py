"""Two nodes: two torchrun agents that find each other, here on one machine."""

import json
import socket
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from .kill_and_resume import Job, by_rank, differences, process, write_data

pytestmark = pytest.mark.slow


def launch(job: Job, *words: str) -> list[str]:
    """Run a job on two nodes to its end; returns what each of them printed."""
    port = free_port()
    job.folder.mkdir(parents=True, exist_ok=True)
    number = len(list(job.folder.glob("*.log")))
    logs = [job.folder / f"{number + node}.log" for node in range(2)]
    fit = job.command("--trainer.num_nodes=2", "--trainer.strategy=ddp", *words)[1:]
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                process(
                    [
                        sys.executable, "-m", "torch.distributed.run", "--nnodes=2",
                        "--nproc_per_node=1", f"--node_rank={node}", "--rdzv_backend=c10d",
                        "--rdzv_id=test", f"--rdzv_endpoint=127.0.0.1:{port}", *fit,
                    ],
                    log,
                )
            )
            for node, log in enumerate(logs)
        ]  # fmt: skip
        codes = [node.wait(200) for node in nodes]
    printed = [log.read_text(errors="replace") for log in logs]
    assert codes == [0, 0], "\n".join(text[-3000:] for text in printed)
    return printed


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_two_nodes_are_one_run_and_go_on_as_one(tmp_path):
    data = write_data("quickstart", tmp_path)
    whole = Job("quickstart", data, tmp_path / "whole", accumulate=2)
    printed = launch(whole)
    # 8 a process x 2 processes x 2 accumulated
    assert "effective batch 32" in "".join(printed)
    assert len(list(whole.run_dir.glob("config*.yaml"))) == 1
    assert [path.name for path in tmp_path.rglob("summary.json")] == ["summary.json"]

    ranks = by_rank(whole)
    assert set(ranks) == {0, 1}
    for epoch in range(3):
        first, second = (ids_of(ranks[rank][0], epoch) for rank in (0, 1))
        assert len(first) == len(second) == 13 * 8
        assert first.isdisjoint(second)
    weights = {lines[-1]["weights"] for (lines,) in ranks.values()}
    assert len(weights) == 1

    stopped = replace(whole, folder=tmp_path / "stopped")
    launch(stopped, "--trainer.max_epochs=1")
    last = stopped.run_dir / "checkpoints" / "last.ckpt"
    assert last.is_file()
    launch(stopped, "--resume=auto", "--trainer.max_epochs=1")  # done: nothing to train
    summary = json.loads((stopped.run_dir / "summary.json").read_text())
    assert summary["metrics"]
    assert [path.name for path in Path(tmp_path, "stopped").glob("run*")] == ["run"]


def ids_of(lines: list[dict], epoch: int) -> set[int]:
    batches = [line for line in lines if line["phase"] == "train" and line["epoch"] == epoch]
    return {i for line in batches for i in line["ids"]}
