"""What is left of a run when one of its processes is gone."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from tome_lightning.trainer.agreement import Agreement
from tome_lightning.trainer.peers import LOST, lost_peer

VARIABLES = (
    "RANK", "LOCAL_RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", "JSM_NAMESPACE_RANK",
    "OMPI_COMM_WORLD_RANK", "PMI_RANK",
)  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[../gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:3271"
        ),
        RuntimeError("[pair.cc] Read error [::1]:2: Connection reset by peer"),
        torch.distributed.DistBackendError(
            "ncclRemoteError: A call failed possibly due to a network error or a remote process exited"
        ),
        torch.distributed.DistNetworkError("failed to recv, got 0 bytes"),
    ],
)
def test_an_error_that_only_says_that_another_process_is_gone_is_known(error):
    wrapped = ValueError("in a callback")
    wrapped.__cause__ = error
    assert lost_peer(error)
    assert lost_peer(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape '[2]' is invalid"),
        ValueError("Connection closed by peer"),
        # of a bucket that a data set reads from, not of a process
        ConnectionResetError("[Errno 104] Connection reset by peer"),
        RuntimeError("S3: Connection reset by peer"),
        # said by gloo and NCCL, of what this run does wrong
        RuntimeError("[enforce fail at ../gloo/allreduce.cc:21] op.preamble.length <= op.nbytes"),
        torch.distributed.DistBackendError("NCCL error: invalid usage, Duplicate GPU detected"),
        torch.distributed.DistError("collective operation timed out"),
        None,
    ],
)
def test_other_errors_are_not_taken_for_it(error):
    assert not lost_peer(error)
    assert not LOST.search("the disk is gone")


@pytest.mark.parametrize(
    ("text", "lost"), [("mixed torch.Tensor and DTensor", False), ("Broken pipe", True)]
)
def test_what_torch_distributed_raises_is_known_by_its_words(text, lost):
    file = Path(torch.distributed.__file__).parent / "tensor" / "_dispatch.py"
    raises = compile(f"raise RuntimeError({text!r})", str(file), "exec")
    with pytest.raises(RuntimeError) as caught:
        exec(raises)
    assert lost_peer(caught.value) == lost


def test_a_started_process_ends_when_the_first_one_was_killed(tmp_path):
    """The parent starts a child that waits for ever, and is killed."""
    told = tmp_path / "told"
    child = """
        import sys, time
        from types import SimpleNamespace
        from tome_lightning.trainer.peers import Peers
        Peers().setup(SimpleNamespace(), None, "fit")
        print("ready", flush=True)
        time.sleep(300)
    """
    parent = f"""
        import os, subprocess, sys, time
        with open({str(told)!r}, "w") as err:
            child = subprocess.Popen([sys.executable, "-c", {textwrap.dedent(child)!r}],
                env=os.environ | {{"LOCAL_RANK": "1"}}, stdout=subprocess.PIPE, stderr=err, text=True)
            child.stdout.readline()
            print(child.pid, flush=True)
            os.kill(os.getpid(), 9)
    """
    first = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(parent)], capture_output=True, text=True, timeout=120
    )
    pid = int(first.stdout)
    until = time.monotonic() + 60
    while not told.read_text() and time.monotonic() < until:
        time.sleep(0.2)
    assert told.read_text() == "error: process 1 stops: the first process of the run is gone\n"
    assert first.returncode == -9
    assert pid > 0


def test_one_process_agrees_with_itself():
    agreement = Agreement()
    assert agreement.exchange(torch.tensor([0, 3])) == [0.0, 3.0]
    assert agreement.exchange(torch.tensor([True]), wait=True) == [1.0]
    assert agreement.settle() == []


@pytest.mark.gpu
def test_on_cuda_an_answer_comes_one_step_later():
    agreement = Agreement()
    assert agreement.exchange(torch.tensor([1.0], device="cuda")) == [0.0]
    assert agreement.exchange(torch.tensor([2.0], device="cuda")) == [1.0]
    assert agreement.exchange(torch.tensor([5.0], device="cuda"), wait=True) == [5.0]
    assert agreement.settle() == [2.0]
