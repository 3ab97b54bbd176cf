"""Runs that begin as forks of a process that has imported torch and Lightning, which takes seconds.

What is about the start or the end of a process itself starts one with `kill_and_resume.process`: a fork
ends without the interpreter's own last steps, and all forks share the seed of Python's hashes.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Fork:
    """`python -m tome_lightning WORDS` in a group of its own; what tests use of a `subprocess.Popen`.

    Args:
        words: The command line after the program's name.
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
    sys.argv = ["tome_lightning", *words]
    runpy.run_module("tome_lightning", run_name="__main__", alter_sys=True)


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
