"""A process that leaves tells the others, whose threads leave whatever their main threads do."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed import TCPStore

from tome_lightning import watch
from tome_lightning.watch import Notice, Watch, because, tell, told

CAUSE = Notice(1, 0, 2, "no such folder")


@pytest.fixture
def server(monkeypatch) -> Iterator[TCPStore]:
    """The store of a run, as its first process or torchrun has it."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


def test_the_first_to_leave_has_the_last_word(server):
    mine, other = watch.connect(), watch.connect()
    assert mine is not None
    assert other is not None
    assert told(mine) is None
    tell(other, CAUSE)
    tell(mine, Notice(0, 0, 1, "lost process 1"))
    assert told(mine) == CAUSE


def test_where_there_is_no_store_there_is_nothing_to_tell(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert watch.connect() is None
    tell(None, CAUSE)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert watch.connect(0.1) is None


def test_a_reason_is_told_once_a_machine(monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "0")
    assert because(0, CAUSE) == "process 0 stops, because process 1 has left, which has told why"
    monkeypatch.setenv("GROUP_RANK", "1")
    assert because(2, CAUSE) == "process 2 stops, because process 1 has left: no such folder"
    assert (CAUSE.signum, Notice(1, 0, 143, "").signum) == (0, 15)


def forked(body) -> int:
    """The exit code of a process that does it and then hangs, as in a collective."""
    pid = os.fork()
    if not pid:
        try:
            watch.GRACE = watch.OWN_GRACE = watch.LOOK = 0.2
            body()
            watch.time.sleep(60)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("code", [2, 143])
def test_a_process_that_hangs_leaves_with_the_one_that_has_told(server, code, capfd):
    tell(watch.connect(), Notice(1, 1, code, "no such folder"))
    assert forked(lambda: Watch(0, watch.connect())) == code
    err = capfd.readouterr().err
    assert err == "error: process 0 stops, because process 1 has left: no such folder\n"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_failed_process_leaves_though_its_own_tear_down_hangs(server, capfd):
    def fail() -> None:
        Watch(1, watch.connect()).leave(CAUSE, lambda: watch.complain(CAUSE.reason))

    assert forked(fail) == 2
    assert capfd.readouterr().err == "error: no such folder\n"
    other = watch.connect()
    assert other is not None
    assert told(other) == CAUSE


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_leaves_when_the_one_with_the_store_is_gone(capfd):
    store: Any = SimpleNamespace(check=broken)
    assert forked(lambda: Watch(1, store)) == 1
    assert "is gone" in capfd.readouterr().err


def broken(keys: list[str]) -> bool:
    raise RuntimeError("failed to recv, got 0 bytes")


def test_a_stop_of_another_process_is_asked_of_this_one_too(server):
    asked: list[int] = []
    looking = Watch(0, watch.connect(), ask=asked.append)
    looking.end()  # its own thread has nothing to do
    looking._follow(Notice(1, 0, 138, "stopped by SIGUSR1"))
    assert asked == [10]
