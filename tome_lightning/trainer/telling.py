"""Messages that all processes of a launch would print are printed once on each machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

from tome_lightning.screen import complain

DAY = 24 * 60 * 60  # seconds
RANKS = (
    "RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "JSM_NAMESPACE_RANK", "LOCAL_RANK",
)  # fmt: skip


def complain_once(text: object) -> None:
    """Print an error as one line, unless another process of this launch has on this machine.

    A mistake in the options is one of all processes, which know nothing of one another yet.
    """
    if first_to_tell(str(text)):
        complain(text)


def first_to_tell(text: str) -> bool:
    """Whether no other process of the same launch has printed this text. From now on this one has.

    Processes of a launch are children of one (torchrun's agent, SLURM's step daemon, the first process),
    with other ranks. An empty file in the folder for temporary files is the sign; where none can be made
    each process prints.
    """
    who = " ".join(f"{name}={os.environ[name]}" for name in RANKS if name in os.environ)
    if not who:
        return True
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    words = f"{_leader()} {attempt} {text}".encode(errors="surrogateescape")
    user = os.getuid() if hasattr(os, "getuid") else 0
    name = f"tome_lightning-told-{user}-{hashlib.sha256(words).hexdigest()[:32]}"
    sign = Path(tempfile.gettempdir(), name)
    _remove_old(sign.parent, f"tome_lightning-told-{user}-*")
    try:
        with sign.open("x") as file:
            file.write(who)
        return True
    except FileExistsError:
        with contextlib.suppress(OSError):
            # the same rank once more is another attempt, of a script that tries twice
            return sign.lstat().st_uid != user or sign.read_text() == who
        return True
    except OSError:
        return True


def _leader() -> str:
    """The process that has started this one and the others of the machine, and since when it runs."""
    started_them = os.environ.get("LOCAL_RANK") == "0" and "RANK" not in os.environ
    leader = os.getpid() if started_them else os.getppid()
    with contextlib.suppress(OSError):  # a number is given to another process later on
        return f"{leader} {Path(f'/proc/{leader}/stat').read_text().rpartition(')')[2].split()[19]}"
    return str(leader)


def _remove_old(folder: Path, names: str) -> None:
    for file in folder.glob(names):
        with contextlib.suppress(OSError):
            if time.time() - file.lstat().st_mtime > DAY:
                file.unlink()
