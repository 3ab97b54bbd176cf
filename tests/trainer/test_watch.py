"""A process that leaves tells the others, whose threads leave whatever their main threads do."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed import TCPStore

from tome_lightning.trainer import pulse, watch
from tome_lightning.trainer.pulse import Pulse
from tome_lightning.trainer.watch import Notice, Watch, because, publish, published

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
    assert published(mine) is None
    publish(other, CAUSE)
    publish(mine, Notice(0, 0, 1, "lost process 1"))
    assert published(mine) == CAUSE


def test_where_there_is_no_store_there_is_nothing_to_tell(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert watch.connect() is None
    publish(None, CAUSE)
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
    publish(watch.connect(), Notice(1, 1, code, "no such folder"))
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
    assert published(other) == CAUSE


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_leaves_when_the_one_with_the_store_is_gone(capfd):
    store: Any = SimpleNamespace(check=broken)
    assert forked(lambda: Watch(1, store)) == 1
    assert "is gone" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_stop_is_noted_where_the_main_thread_hangs(server, tmp_path):
    def hang() -> None:
        noted = (tmp_path / "noted").write_text
        Watch(0, watch.connect(), ask=lambda signum: None, noted=lambda signum: noted(str(signum)))

    publish(watch.connect(), Notice(1, 0, 138, "stopped by SIGUSR1"))
    assert forked(hang) == 138
    assert (tmp_path / "noted").read_text() == "10"


@pytest.fixture
def short(monkeypatch) -> None:
    """Signs of life five times a second, missed after one."""
    monkeypatch.setattr(watch, "BEAT", 0.2)
    monkeypatch.setattr(pulse, "BEAT", 0.2)
    monkeypatch.setattr(pulse, "SILENCE", 1.0)


@pytest.mark.usefixtures("short")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_is_gone_without_a_word_is_missed(server, capfd):
    """Its machine has lost its power: no socket says so."""
    gone = watch.connect()
    assert gone is not None
    Pulse(1, gone).beat()
    assert forked(lambda: Watch(0, watch.connect())) == 1
    err = capfd.readouterr().err
    assert err == "error: process 0 stops, because process 1 has left: no sign of life for 120 s\n"
    assert published(gone) == Notice(1, -1, 1, "no sign of life for 120 s")  # others need not wait


@pytest.mark.usefixtures("short")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_are_busy_or_done_are_not_missed(server):
    def busy() -> None:
        first, second, third = (Watch(rank, watch.connect()) for rank in range(3))
        watch.time.sleep(0.6)
        third.end()
        watch.time.sleep(1.8)
        os._exit(7 if first.notice is second.notice is None else 8)

    assert forked(busy) == 7


def broken(keys: list[str]) -> bool:
    raise RuntimeError("failed to recv, got 0 bytes")


@pytest.mark.parametrize("saves", [True, False])
def test_ranks_of_a_killed_torchrun_agent_are_asked_to_stop(saves, monkeypatch, capfd):
    """They are all there, and can still save; one that does not get to it ends all the same."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(watch, "OWN_GRACE", 0.3)
    asked: list[int] = []
    ended: list[int] = []
    monkeypatch.setattr(watch, "exit_now", ended.append)

    def ask(signum: int) -> None:
        asked.append(signum)
        if saves:
            looking.leaving = Notice(1, 0, 143, "stopped by SIGTERM")

    looking = Watch(1, None, ask=ask)
    looking._orphaned()
    looking.end()
    assert (asked, ended) == ([15], [] if saves else [1])
    assert capfd.readouterr().err == "error: process 1 stops: torchrun's agent is gone\n"


def test_a_stop_of_another_process_is_asked_of_this_one_too(server):
    asked: list[int] = []
    looking = Watch(0, watch.connect(), ask=asked.append)
    looking.end()  # its own thread has nothing to do
    looking._follow(Notice(1, 0, 138, "stopped by SIGUSR1"))
    assert asked == [10]
