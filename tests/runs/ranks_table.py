"""Several processes meet trouble: how long after its cause all are gone, with which codes and words.

``python -m tests.runs.ranks_table`` runs every case on one node of two and four ranks, on one node under
torchrun, and on two nodes (two torchrun agents on this machine), with gloo, and prints the table of
``recipes/LONG_RUNS.md`` after them. It exits with 1 if a case is against expectation. ``--launch`` and
``--case`` choose some of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tome_lightning.trainer.saving import STOPPED

from .kill_and_resume import Job, Session, write_data
from .processes import descendants, process
from .recorder import RAISE

BOUND = 30.0  # seconds after its cause
# A torchrun agent that got a signal itself ends its ranks, then now and then aborts at its own exit.
SIGNALLED = (1, -signal.SIGABRT)
START = 240.0  # seconds until a run trains


class Launch(NamedTuple):
    """How the processes are started."""

    nodes: int
    per_node: int
    torchrun: bool

    @property
    def ranks(self) -> int:
        return self.nodes * self.per_node

    def __str__(self) -> str:
        nodes = f"{self.nodes} node{'s' * (self.nodes > 1)}, {self.ranks} ranks"
        return f"{nodes}, {'torchrun' if self.torchrun else 'Lightning'}"


LAUNCHES = {
    "two": Launch(1, 2, False),
    "four": Launch(1, 4, False),
    "agent": Launch(1, 2, True),
    "nodes": Launch(2, 1, True),
    "nodes4": Launch(2, 2, True),
}


@dataclass(frozen=True)
class Case:
    """A trouble.

    Attributes:
        words: Options of the run.
        variables: For `tests.runs.recorder.Recorder`.
        phase: What the last rank has to have recorded before its cause comes.
        cause: Brings it about; None where the run has it in itself.
        codes: What the run may exit with.
        said: What it has to print.
        torchrun: The same under torchrun, whose agents exit with 1 whatever ended their ranks.
        stopped: Whether the run leaves its file for a scheduler's script.
    """

    words: Sequence[str] = ()
    variables: Sequence[tuple[str, str]] = ()
    phase: str = "train"
    cause: Callable[[Running], None] | None = None
    codes: tuple[int, ...] = (0,)
    said: str = ""
    torchrun: tuple[int, ...] = (1,)
    stopped: bool = False


class Running:
    """The processes of a case; those of a node have one log."""

    def __init__(self, job: Job, launch: Launch, children: list[subprocess.Popen[bytes]]) -> None:
        self.job, self.launch, self.children = job, launch, children

    def recorded(self, phase: str) -> bool:
        """Whether every rank has come to a phase."""
        files = self.job.files()
        texts = [file.read_text() for file in files]
        return len(files) == self.launch.ranks and all(f'"phase": "{phase}"' in t for t in texts)

    def pid(self, rank: int) -> int:
        return Session(self.children[0], self.job).pid(rank)

    def stop_one(self) -> None:
        """SIGUSR1 to the last rank alone."""
        os.kill(self.pid(self.launch.ranks - 1), signal.SIGUSR1)

    def kill_one(self) -> None:
        """SIGKILL to the last rank, as where memory has run out."""
        os.kill(self.pid(self.launch.ranks - 1), signal.SIGKILL)

    def stop_all(self) -> None:
        """SIGTERM to what the user or the scheduler has started."""
        for child in self.children:
            child.send_signal(signal.SIGTERM)

    def announce(self) -> None:
        """SIGUSR1 to what the scheduler has started, as SLURM before the time is up."""
        for child in self.children:
            child.send_signal(signal.SIGUSR1)

    def kill_agents(self) -> None:
        """SIGKILL to torchrun, or to the first process."""
        for child in self.children:
            child.kill()

    def family(self) -> list[int]:
        """All processes, loader processes too."""
        own = [child.pid for child in self.children]
        return [*own, *(pid for one in own for pid in descendants(one))]

    def printed(self) -> str:
        return "\n".join(log.read_text(errors="replace") for log in self.job.folder.glob("*.log"))


LONG = ("--trainer.max_epochs=500",)
SLOW = ("--trainer.max_epochs=500", "--data.eval_batch_size=1", "--trainer.num_sanity_val_steps=0")
CASES = {
    "fit to its end": Case(("--trainer.max_epochs=1",), phase="", said="top1"),
    "SIGTERM to all in training": Case(
        LONG, cause=Running.stop_all, codes=(143,), torchrun=SIGNALLED, said="Saved", stopped=True
    ),
    "SIGUSR1 to torchrun, or the first process": Case(
        LONG,
        cause=Running.announce,
        codes=(138,),
        torchrun=SIGNALLED,
        said="Stopped by SIGUSR1",
        stopped=True,
    ),
    "SIGUSR1 to one rank in training": Case(
        LONG, cause=Running.stop_one, codes=(138,), said="Saved", stopped=True
    ),
    "SIGUSR1 to one rank in validation": Case(
        SLOW, phase="val", cause=Running.stop_one, codes=(138,), said="Saved", stopped=True
    ),
    "a rank raises in training": Case(
        LONG,
        ((RAISE, "last:train:5"),),
        cause=None,
        codes=(1,),
        said="RuntimeError: as it was told",
    ),
    "a rank raises, and its sockets stay open": Case(
        LONG, ((RAISE, "last:hang:5"),), codes=(1,), said="RuntimeError: as it was told"
    ),
    "a rank is killed": Case(LONG, cause=Running.kill_one, codes=(1, -9, 137)),
    "torchrun, or the first process, is killed": Case(
        LONG, cause=Running.kill_agents, codes=(-9,), torchrun=(-9,), said="is gone"
    ),
    "uneven lists": Case(LONG, phase="", codes=(2,), said="files"),
}


class Row(NamedTuple):
    """What a case has come to."""

    case: str
    launch: Launch
    seconds: float  # from its cause to the end of all processes
    codes: tuple[int | None, ...]
    words: str
    fine: bool

    @property
    def ends(self) -> str:
        return ", ".join("none" if code is None else str(code) for code in self.codes)

    def __str__(self) -> str:
        words = self.words.replace("|", "\\|")
        return f"| {self.case} | {self.launch} | {self.seconds:.0f} | {self.ends} | {words} |"


def table(rows: Sequence[Row]) -> str:
    """A row a case, a column a launch, in them seconds and exit codes."""
    launches = list(dict.fromkeys(row.launch for row in rows))
    lines = [f"| case | {' | '.join(map(str, launches))} |", "|---" * (len(launches) + 1) + "|"]
    for case in dict.fromkeys(row.case for row in rows):
        cells = {row.launch: f"{row.seconds:.0f} s: {row.ends}" for row in rows if row.case == case}
        lines.append(f"| {case} | {' | '.join(cells.get(one, '') for one in launches)} |")
    return "\n".join(lines)


def try_case(name: str, launch: Launch, data: Path, folder: Path) -> Row:
    """Run a case; nothing of it is left."""
    case = CASES[name]
    job = Job("quickstart", data, folder, workers=1, every=1000, extra=tuple(case.words))
    if not launch.torchrun:
        job = replace(job, devices=launch.ranks)
    job.folder.mkdir(parents=True)
    second = data
    if name == "uneven lists":
        second = folder / "second"
        shutil.copytree(data, second)
        next(second.rglob("train/*/*.png")).unlink()
    with contextlib.ExitStack() as stack:
        commands = commands_of(job, launch, second)
        children = [
            stack.enter_context(process(words, folder / f"{n}.log", **dict(case.variables)))
            for n, words in enumerate(commands)
        ]
        running = Running(job, launch, children)
        started = time.monotonic()
        while case.phase and not running.recorded(case.phase):
            ended = all(child.poll() is not None for child in children)
            if ended or time.monotonic() - started > START:
                return Row(name, launch, 0, codes_of(children), "never came to its cause", False)
            time.sleep(0.05)
        if case.cause is not None:
            time.sleep(0.3)
        family = running.family()
        if case.cause is not None:
            case.cause(running)
        limit = BOUND + 30 if case.phase else START
        seconds = wait_for_all(family, limit, (job.folder / "cause").exists, running)
        return judge(name, case, running, seconds)


def commands_of(job: Job, launch: Launch, second: Path) -> list[list[str]]:
    """What starts each node; those after the first one read the second folder of data."""
    if not launch.torchrun:
        return [job.command()]
    port = 20000 + os.getpid() % 20000 + launch.ranks
    commands = []
    for number in range(launch.nodes):
        own = replace(job, data=job.data if number == 0 else second)
        fit = own.command(
            f"--trainer.num_nodes={launch.nodes}", f"--trainer.devices={launch.per_node}",
            "--trainer.strategy=ddp",
        )[1:]  # fmt: skip
        commands.append([
            sys.executable, "-m", "torch.distributed.run", f"--nnodes={launch.nodes}",
            f"--nproc_per_node={launch.per_node}", f"--node_rank={number}", "--rdzv_backend=c10d",
            "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "--rdzv_id=ranks",
            f"--rdzv_endpoint=127.0.0.1:{port}", *fit,
        ])  # fmt: skip
    return commands


def wait_for_all(
    family: list[int], limit: float, happened: Callable[[], bool], running: Running
) -> float:
    """Wait until all processes are gone; returns the seconds since the cause, which may come late."""
    cause = time.monotonic()
    while time.monotonic() - cause < limit:
        if not any(alive(pid) for pid in {*family, *running.family()}):
            break
        time.sleep(0.1)
    seconds = time.monotonic() - cause
    if happened():  # the rank that raises has noted when
        seconds = time.time() - float((running.job.folder / "cause").read_text())
    return seconds


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def codes_of(children: list[subprocess.Popen[bytes]]) -> tuple[int | None, ...]:
    codes: list[int | None] = []
    for child in children:
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # its other threads end after the first
            child.wait(3)
        codes.append(child.poll())
    return tuple(codes)


def judge(name: str, case: Case, running: Running, seconds: float) -> Row:
    codes, printed = codes_of(running.children), running.printed()
    good = case.codes if not running.launch.torchrun else case.torchrun
    if case.codes == (0,):
        good, seconds = (0,), 0.0
    fine = all(code in good for code in codes) and case.said in printed and seconds <= BOUND
    fine &= (running.job.run_dir / STOPPED).exists() == case.stopped or case.said == "is gone"
    pattern = re.compile(
        r"^(error: .*|Stopped by .*|RuntimeError: .*|.*terminated with code.*)$", re.M
    )
    lines = [line.replace(str(running.job.folder), "RUNS") for line in pattern.findall(printed)]
    return Row(name, running.launch, seconds, codes, "; ".join(dict.fromkeys(lines)), fine)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launch", action="append", choices=list(LAUNCHES))
    parser.add_argument("--case", action="append", choices=list(CASES))
    options = parser.parse_args(argv)
    rows: list[Row] = []
    print("| case | processes | seconds | exit codes | said |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        data = write_data("quickstart", Path(place))
        for key in options.launch or LAUNCHES:
            for number, name in enumerate(options.case or CASES):
                if name == "uneven lists" and LAUNCHES[key].nodes == 1:
                    continue
                folder = Path(place, f"{key}{number}")
                row = try_case(name, LAUNCHES[key], data, folder)
                print(row, "" if row.fine else "NOT AS EXPECTED", flush=True)
                rows.append(row)
                if not row.fine:
                    printed = [log.read_text(errors="replace") for log in folder.glob("*.log")]
                    print(*(text[-3000:] for text in printed), sep="\n---\n", file=sys.stderr)
    print(f"\n{table(rows)}")
    return int(not all(row.fine for row in rows))


if __name__ == "__main__":
    sys.exit(main())
