"""The SLURM script of LONG_RUNS.md, with a srun and a scontrol that only note what they are asked."""

import os
import re
import subprocess
from pathlib import Path

import pytest

DOC = Path(__file__).parents[1] / "recipes" / "LONG_RUNS.md"


@pytest.mark.parametrize(
    ("does", "code", "asked"),
    [
        ("mkdir -p runs/k400; touch runs/k400/stopped; exit 138", 138, ["requeue 7"]),
        ("mkdir -p runs/k400; touch runs/k400/stopped; exit 1", 1, ["requeue 7"]),  # torchrun
        ("exit 143", 143, []),  # ended before it could save, or by scancel
        ("exit 2", 2, []),
        ("exit 0", 0, []),
    ],
)
@pytest.mark.parametrize("left", [False, True])
def test_a_job_goes_back_to_the_queue_if_its_run_was_stopped(tmp_path, does, code, asked, left):
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", DOC.read_text(), re.DOTALL)
    if left:  # by a run that was killed as it began to go on
        (tmp_path / "runs" / "k400").mkdir(parents=True)
        (tmp_path / "runs" / "k400" / "stopped").touch()
    for name, body in (
        ("srun", f'echo "$@" > srun; {does}'), ("scontrol", 'echo "$@" >> asked')
    ):  # fmt: skip
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(0o755)
    env = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "12",
    }  # fmt: skip
    run = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, timeout=60)
    assert run.returncode == code
    # it takes neither over from sbatch: one core a task, and tasks that wait for one that has failed
    given = (tmp_path / "srun").read_text().split()
    assert {"--cpus-per-task=12", "--kill-on-bad-exit=1", "--resume"} <= set(given)
    notes = tmp_path / "asked"
    assert (notes.read_text().splitlines() if notes.exists() else []) == asked
