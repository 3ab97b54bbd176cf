"""What is left of a run when one of its processes is gone."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

from tome_lightning.arguments import UsageError
from tome_lightning.trainer import peers, watch
from tome_lightning.trainer.agreement import Agreement
from tome_lightning.trainer.peers import LOST, Peers, lost_peer
from tome_lightning.trainer.saving import STOPPED, SaveLast
from tome_lightning.trainer.signals import RunStopped
from tome_lightning.trainer.watch import Notice, published

pytestmark = pytest.mark.usefixtures("alone")


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


LOST_ONE = RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer")


@pytest.fixture
def second(monkeypatch) -> TCPStore:
    """This process is the second of two that torchrun has started; the store of its agent."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    given = {
        "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "2",
        "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(peers, "_watches", [])
    monkeypatch.setattr(watch, "OWN_GRACE", 600.0)  # this process is the tests' own
    return store


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (RuntimeError("as it\nwas told"), 1, "RuntimeError: as it was told"),
        (UsageError("no such folder"), 2, "no such folder"),
        (RunStopped(signal.SIGUSR1), 138, "stopped by SIGUSR1"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT"),
        (LOST_ONE, 0, None),  # the one that is lost has told, or has had no time to
    ],
)
def test_a_process_that_fails_says_why_where_all_can_read_it(second, error, code, reason):
    """Also before it has come to its group: the store is there from the start."""
    ours = Peers(lambda error: error if isinstance(error, UsageError) else None)
    assert ours.watch is not None
    trainer: Any = SimpleNamespace(strategy=None)
    ours.on_exception(trainer, SimpleNamespace(), error)
    store = watch.connect()
    assert store is not None
    assert published(store) == (None if reason is None else Notice(1, 0, code, reason))
    ours.teardown(trainer, SimpleNamespace(), "fit")


def test_who_has_lost_one_that_was_stopped_notes_the_stop_for_a_scheduler(second, tmp_path, capfd):
    """The other one stopped in a validation, and this one waited for its part of a metric."""
    ours, save = Peers(), SaveLast()
    save.folder = tmp_path / "checkpoints"
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(checkpoint_io=None), callbacks=[save], is_global_zero=True,
        global_step=7, state=SimpleNamespace(fn="fit"), world_size=2,
    )  # fmt: skip
    ours.setup(trainer, SimpleNamespace(), "fit")
    ours.on_exception(trainer, SimpleNamespace(), LOST_ONE)
    assert not (tmp_path / STOPPED).exists()  # not stopped: killed
    watch.publish(watch.connect(), Notice(0, 0, 138, "stopped by SIGUSR1"))
    ours.on_exception(trainer, SimpleNamespace(), LOST_ONE)
    assert (tmp_path / STOPPED).read_text() == "Stopped by SIGUSR1 at step 7\n"
    assert peers.follow(LOST_ONE) == 138
    assert "error" not in capfd.readouterr().err
    assert ours.watch is not None
    assert ours.watch.noted is not None
    (tmp_path / STOPPED).unlink()
    ours.watch.noted(signal.SIGUSR1)  # by the thread, where the main one hangs
    assert (tmp_path / STOPPED).exists()


def test_who_has_lost_another_one_leaves_with_its_code(second, capfd):
    assert peers.follow(ValueError("of its own")) is None
    Peers()
    watch.publish(watch.connect(), Notice(0, 1, 2, "no such folder"))
    assert peers.follow(LOST_ONE) == 2
    assert capfd.readouterr().err == ""  # the first one of its machine says it
    os.environ["LOCAL_RANK"] = "0"
    assert peers.follow(LOST_ONE) == 2
    said = "error: process 1 stops, because process 0 has left: no such folder\n"
    assert capfd.readouterr().err == said


def test_who_has_lost_one_that_said_nothing_tells_that(second, capfd):
    Peers()
    assert peers.follow(LOST_ONE) == 1
    assert "process 1 stops, because another one is gone, without a word" in capfd.readouterr().err
    store = watch.connect()
    assert store is not None
    notice = published(store)
    assert notice is not None
    assert (notice.rank, notice.code) == (1, 1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("code", [0, 2])
def test_a_process_that_could_not_start_tells_and_waits_for_nobody(second, code):
    """It had no trainer yet; what would run at its exit could wait for a group of which it is part."""
    pid = os.fork()
    if not pid:
        returned = peers.leave(code)
        os._exit(90 + returned)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (code or 90)
    store = watch.connect()
    assert store is not None
    assert published(store) == (Notice(1, 0, 2, "it could not start, see there") if code else None)


def test_one_process_agrees_with_itself():
    agreement = Agreement()
    assert agreement.exchange(torch.tensor([0, 3])) == [0.0, 3.0]
    assert agreement.exchange(torch.tensor([True]), wait=True) == [1.0]
    assert agreement.finish() == []


@pytest.mark.gpu
def test_on_cuda_an_answer_comes_one_step_later():
    agreement = Agreement()
    assert agreement.exchange(torch.tensor([1.0], device="cuda")) == [0.0]
    assert agreement.exchange(torch.tensor([2.0], device="cuda")) == [1.0]
    assert agreement.exchange(torch.tensor([5.0], device="cuda"), wait=True) == [5.0]
    assert agreement.finish() == [2.0]
