"""What a run records of the machine and the code it ran on."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch

import tome_lightning
from tome_lightning.run import environment as module
from tome_lightning.run.environment import environment, other_versions, versions

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *command],
        check=True, capture_output=True, text=True, env=env,
    ).stdout.strip()  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "train.py").write_text("print()\n")
    git(folder, "add", "train.py")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_the_facts_are_plain_and_quickly_gathered() -> None:
    start = time.monotonic()
    facts = environment()
    assert time.monotonic() - start < 5  # two calls of git that may not take longer than 2 s each
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["torch"] == metadata.version("torch")
    assert facts["versions"]["python"] == platform.python_version()
    assert facts["versions"]["tome_lightning"] == tome_lightning.__version__
    assert facts["command"] == sys.argv
    assert 1 <= facts["cpu"]["cores"] <= (os.cpu_count() or 1)
    assert facts["cpu"]["model"]


def test_asking_does_not_start_cuda() -> None:
    before = torch.cuda.is_initialized()
    environment()
    assert torch.cuda.is_initialized() == before


@pytest.mark.gpu
def test_gpus_in_use_are_described() -> None:
    torch.zeros(1, device="cuda")
    facts = environment()
    assert facts["gpus"][0]["name"] == torch.cuda.get_device_name(0)
    assert facts["gpus"][0]["memory_gib"] > 0
    assert facts["cuda"]["version"] == torch.version.cuda


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package"))
    assert set(versions()) == {"tome_lightning", "python", "torch"}


def test_only_named_variables_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = {
        "CUDA_VISIBLE_DEVICES": "1", "NCCL_DEBUG": "INFO", "SLURM_JOB_ID": "7", "WORLD_SIZE": "2",
    }  # fmt: skip
    hidden = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SLURM_JWT", "MY_WORLD_SIZE")
    for name, value in {**recorded, **dict.fromkeys(hidden, "secret")}.items():
        monkeypatch.setenv(name, value)
    facts = environment()
    assert recorded.items() <= facts["variables"].items()
    assert "secret" not in json.dumps(facts)


@needs_git
def test_the_users_own_repository_is_recorded(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository / "deep")
    clean = {
        "folder": str(repository), "commit": git(repository, "rev-parse", "HEAD"), "dirty": False,
    }  # fmt: skip
    assert environment()["folder_code"] == clean
    (repository / "runs.txt").touch()  # results lie beside the code
    assert environment()["folder_code"] == clean
    (repository / "train.py").write_text("print(1)\n")
    assert environment()["folder_code"] == clean | {"dirty": True}


@needs_git
def test_a_hook_of_another_repository_does_not_confuse(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    facts = environment()["folder_code"]
    assert facts["commit"] == git(repository, "rev-parse", "HEAD")


@needs_git
def test_a_repository_without_commits_has_no_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q")
    monkeypatch.chdir(tmp_path)
    assert environment()["folder_code"] is None


def imported_from(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "__file__", str(root / "tome_lightning" / "run" / "environment.py"))


@needs_git
def test_our_own_checkout_is_told_once(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "pyproject.toml").write_text('[project]\nname = "tome_lightning"\n')
    imported_from(repository, monkeypatch)
    monkeypatch.chdir(repository)
    facts = environment()
    assert facts["code"]["commit"] == git(repository, "rev-parse", "HEAD")
    assert facts["folder_code"] is None


@needs_git
def test_an_installed_package_does_not_claim_the_users_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment often lies inside the user's repository, or the package is copied there."""
    (repository / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    monkeypatch.chdir(repository)
    for root in (repository / ".venv" / "lib" / "site-packages", repository):
        imported_from(root, monkeypatch)
        assert environment()["code"] is None


def test_no_git_and_no_repository_are_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    assert environment()["folder_code"] is None  # not what git calls a repository
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["folder_code"] is None


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for git")
def test_a_git_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "GIT_TIMEOUT", 0.1)
    start = time.monotonic()
    assert environment()["folder_code"] is None
    assert time.monotonic() - start < 10


def test_versions_that_differ_are_named_with_both() -> None:
    now = {"torch": "2.14.1", "timm": "1.0.31", "av": "18.1"}
    assert other_versions(now, now) is None
    assert other_versions({}, now) is None
    saved = {"torch": "2.14.1", "timm": "1.0.30", "decord": "0.6"}
    assert other_versions(saved, now) == (
        "timm 1.0.30 there, 1.0.31 here; decord 0.6 there, not installed here"
    )
