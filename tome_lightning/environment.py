"""What a run ran on: versions, machine, code revision, as plain values."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tome_lightning import __version__

PACKAGES = (
    "torch", "torchvision", "torchaudio", "lightning", "timm", "torchmetrics",
    "decord", "av", "soundfile", "numpy",
)  # fmt: skip
# Only what is named here is recorded: other variables may hold passwords.
VARIABLES = re.compile(
    r"(OMP|MKL)_NUM_THREADS|CUDA_VISIBLE_DEVICES|CUDA_LAUNCH_BLOCKING|CUBLAS_WORKSPACE_CONFIG"
    r"|PYTORCH_(CUDA_)?ALLOC_CONF|PYTHONHASHSEED|(TORCH_)?NCCL_\w+|GLOO_SOCKET_IFNAME"
    r"|(LOCAL_)?WORLD_SIZE|SLURM_(JOB_ID|JOB_NAME|JOB_PARTITION|NNODES|NTASKS|CPUS_PER_TASK)"
    r"|SLURM_(GPUS_ON_NODE|RESTART_COUNT)|TOME_LIGHTNING_(CACHE|RUN_DIR)"
)
GIT_TIMEOUT = 2.0  # seconds; a repository on a network file system can take minutes


def environment() -> dict[str, Any]:
    """Plain values that JSON takes, gathered in well under a second; what is not known is None.

    GPUs are described in full only if CUDA is in use: asking would start it, which takes seconds and
    keeps processes forked later from using it.
    """
    root = Path(__file__).parents[1]
    repository = _repository(Path.cwd())
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "cpu": {"model": cpu_model(), "cores": cores(), "memory_gib": _memory_gib()},
        "gpus": _gpus(),
        "cuda": {
            "driver": _driver(),
            "version": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": _nccl_version(),
        },
        "code": _revision(root) if _is_ours(root) else None,
        "folder_code": _revision(repository) if repository not in (None, root) else None,
        "command": list(sys.argv),
        "variables": {k: v for k, v in sorted(os.environ.items()) if VARIABLES.fullmatch(k)},
    }


def versions() -> dict[str, str]:
    """The versions of what is installed and decides results; nothing is imported for it."""
    found = {"tome_lightning": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def other_versions(saved: dict[str, str], now: dict[str, str]) -> str | None:
    """One line on the packages that a checkpoint was written with in another version.

    What the checkpoint does not name is left out: it may be older than the list.
    """
    differing = [
        f"{name} {there} there, {now.get(name, 'not installed')} here"
        for name, there in saved.items()
        if now.get(name) != there
    ]
    return "; ".join(differing) or None


def cpu_model() -> str | None:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine() or None


def cores() -> int | None:
    """Those this process may run on: a SLURM job or a container often has a few of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gib() -> float | None:
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None


def _gpus() -> list[dict[str, Any]]:
    if torch.cuda.is_initialized():
        found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        return [
            {
                "name": gpu.name,
                "memory_gib": round(gpu.total_memory / 2**30, 1),
                "capability": f"{gpu.major}.{gpu.minor}",
            }
            for gpu in found
        ]
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            names += re.findall(r"^Model:\s*(.+)$", file.read_text(), re.M)
    return [{"name": name.strip()} for name in names]


def _driver() -> str | None:
    with contextlib.suppress(OSError):
        found = re.search(
            r"\b\d{3,}\.\d+(\.\d+)?\b", Path("/proc/driver/nvidia/version").read_text()
        )
        return found[0] if found else None
    return None


def _nccl_version() -> str | None:
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))


def _is_ours(root: Path) -> bool:
    """Whether the package was imported from a checkout of this project, not installed or copied."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError):
        return False
    return project == "tome_lightning" and (root / ".git").exists()


def _repository(folder: Path) -> Path | None:
    """The git repository that a folder is in."""
    return next(
        (parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), None
    )


def _revision(repository: Path | None) -> dict[str, Any] | None:
    """Commit and whether tracked files differ from it (None where git takes too long to tell)."""
    if repository is None:
        return None
    dirty: bool | None = None
    status = _git(repository, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    if status is not None:
        lines = status.splitlines()
        dirty = any(not line.startswith("#") for line in lines)
        commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), "")
    else:
        commit = (_git(repository, "rev-parse", "HEAD") or "").strip()
    if not re.fullmatch("[0-9a-f]{40,64}", commit):  # no commit yet, no git
        return None
    return {"folder": str(repository), "commit": commit, "dirty": dirty}


def _git(repository: Path, *command: str) -> str | None:
    # GIT_DIR and the like, set where git runs a hook, name another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}  # looking changes nothing
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), "-c", "core.fsmonitor=false", *command],
            env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GIT_TIMEOUT,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
