"""Processes of tests, of which none is left; some are forks of one that has imported torch and Lightning.

A fork begins without the seconds of these imports. What is about the start or the end of a process itself
takes none: it ends without the interpreter's own last steps, and all share the seed of Python's hashes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Fork:
    """`python WORDS` in a group of its own; what tests use of a `subprocess.Popen`.

    Args:
        words: `-m`, a module's name and its words, or a script's path and its words.
        log: Where its output goes; it works in that file's folder.
        env: All of its environment variables.
    """

    def __init__(self, words: list[str], log: Path, env: dict[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tome_lightning.cli", "tome_lightning.finetune"])
        self._process = context.Process(target=_become, args=(words, log, env))
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(ROOT))  # the fork gets a copy, and imports this module
            self._process.start()
        while self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.001)  # who has it may kill its group

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """The exit code, as `subprocess.Popen.wait` gives it."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, seconds or 0)
        return code


def _become(words: list[str], log: Path, env: dict[str, str]) -> None:
    multiprocessing.set_start_method(None, force=True)  # of its loaders: the system's own
    os.setsid()
    os.chdir(log.parent)
    os.environ.clear()
    os.environ.update(env)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    if module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


Child = subprocess.Popen[bytes] | Fork


@contextlib.contextmanager
def process(
    command: list[str], log: Path, forked: bool = False, **variables: str
) -> Iterator[Child]:
    """A process in a group of its own; whatever happens, none that it has started is left.

    Args:
        command: The interpreter and its arguments.
        log: Where its output goes; it works in that file's folder.
        forked: Whether it is a `Fork`.
        variables: For its environment.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # One thread: sums of several depend on who comes first.
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "TOME_LIGHTNING_RUN_DIR", "LOCAL_RANK"):
        if name not in variables:
            env.pop(name, None)
    child = Fork(command[1:], log, env) if forked else _started(command, log, env)
    try:
        yield child
    finally:
        kill_family(child)


def _started(command: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=log.parent,
            start_new_session=True,
        )  # fmt: skip


def kill_family(child: Child) -> None:
    """SIGKILL to a process, its group, and what it has started in other groups, as torchrun does."""
    family = descendants(child.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    child.wait()


def descendants(pid: int) -> list[int]:
    """The processes that a living process has started, and those that they have."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it is gone
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for one in found:
        found += children.get(one, [])
    return found


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def torchrun_variables(rank: int, processes: int, port: int, nodes: int = 1) -> dict[str, str]:
    """What torchrun tells each process that it starts."""
    local = processes // nodes
    return {
        "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank % local),
        "LOCAL_WORLD_SIZE": str(local), "GROUP_RANK": str(rank // local), "GROUP_WORLD_SIZE": str(nodes),
    }  # fmt: skip


def run_forks(command: list[str], count: int, folder: Path, nodes: int = 1) -> None:
    """Run a command to its end, as forks that torchrun would have started on one or more nodes.

    Raises:
        AssertionError: One does not end with 0.
    """
    port = free_port()
    with contextlib.ExitStack() as stack:
        logs = [folder / f"{count}.{rank}.log" for rank in range(count)]
        given = [torchrun_variables(rank, count, port, nodes) for rank in range(count)]
        ranks = [
            stack.enter_context(process(command, log, forked=True, **variables))
            for log, variables in zip(logs, given, strict=True)
        ]
        for rank, log in zip(ranks, logs, strict=True):
            assert rank.wait(200) == 0, log.read_text()[-4000:]
