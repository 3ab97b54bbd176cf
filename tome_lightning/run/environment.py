"""What a run ran on: versions, machine, code revision, as plain values."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from datamodules.workers import usable_cores
from tome_lightning.version import __version__

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
    root = Path(__file__).parents[2]
    repository = _repository(Path.cwd())
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "cpu": {"model": cpu_model(), "cores": len(usable_cores()), "memory_gib": _memory_gib()},
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
    """Commit and whether tracked files differ from it (None where git takes too long).

    The repository may be of somebody else, whose configuration names programs that git runs (filters,
    hooks, monitors): it is never read. HEAD is read as the file it is.
    """
    if repository is None:
        return None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        own = _git_folder(repository)
        common = own / _text(own / "commondir") if (own / "commondir").is_file() else own
        commit = _head(own, common)
        if commit is not None:
            dirty = _is_dirty(repository, own, common, commit)
            return {"folder": str(repository), "commit": commit, "dirty": dirty}
    return None  # no commit yet, or a format that is not known here


def _git_folder(repository: Path) -> Path:
    """Of a work tree or a submodule ``.git`` is a file that names it."""
    git = repository / ".git"
    return repository / _text(git).removeprefix("gitdir: ") if git.is_file() else git


def _head(own: Path, common: Path) -> str | None:
    """The commit that HEAD stands for."""
    name = _text(own / "HEAD")
    if name.startswith("ref: "):
        name = name.removeprefix("ref: ")
        if not re.fullmatch(r"refs/(?!.*\.\.)[^\0\s]+", name):
            return None
        loose = [folder / name for folder in (own, common) if (folder / name).is_file()]
        packed = common / "packed-refs"
        if loose:
            name = _text(loose[0])
        elif packed.is_file():
            found = re.search(rf"^([0-9a-f]{{40,64}}) {re.escape(name)}$", packed.read_text(), re.M)
            name = found[1] if found else ""
    return name if re.fullmatch("[0-9a-f]{40,64}", name) else None


def _text(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(4096).strip()


def _is_dirty(repository: Path, own: Path, common: Path, commit: str) -> bool | None:
    """Whether tracked files differ from a commit, by git on a folder that has none of its settings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "objects" / "info").mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "objects" / "info" / "alternates").write_text(
            f"{(common / 'objects').absolute()}\n"
        )
        hashes = "[extensions]\nobjectFormat = sha256\n" if len(commit) == 64 else ""
        version = int(bool(hashes))
        settings = f"[core]\nrepositoryformatversion = {version}\nbare = false\n{hashes}"
        (folder / "config").write_text(settings)
        (folder / "HEAD").write_text(f"{commit}\n")
        if (own / "index").is_file():
            shutil.copy(own / "index", folder / "index")
        status = _git(
            f"--git-dir={folder}", f"--work-tree={repository}",
            "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all",
        )  # fmt: skip
    return None if status is None else bool(status.strip())


def _git(*command: str) -> str | None:
    # GIT_DIR and the like, set where git runs a hook, name another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}  # looking changes nothing
    try:
        done = subprocess.run(
            ["git", *command], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=GIT_TIMEOUT,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
