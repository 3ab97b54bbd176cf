"""What `.ci/gpu` starts, tried with a `python` that only writes down how it was called."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tome_lightning.commands.benchmark.command import _parser

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "gpu"
LIMIT = 600  # seconds a part may take, whatever it is cut off by
LACKING = (
    "av",
    "decord",
    "soundfile",
    "xdist",
    "pytest_timeout",
    "hatchling",
    "mlxtend",
    "onnx",
    "shtab",
)
CALLED = """#!/bin/sh
echo "$TORCHINDUCTOR_CACHE_DIR $*" >>"$CALLS"
exit ${STATUS:-0}
"""


@pytest.fixture
def stub(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine whose python, nvidia-smi and timeout only note their arguments."""
    tools = tmp_path / "tools"
    tools.mkdir()
    timeout = '#!/bin/sh\necho "limit $2 $3" >>"$CALLS"\nshift 3\nexec "$@"\n'
    for name, text in (("python", CALLED), ("nvidia-smi", "#!/bin/sh\n"), ("timeout", timeout)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHON": "python", "CALLS": str(tmp_path / "calls")}


def _run(env: dict[str, str], *words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *words], env=env, cwd=cwd, capture_output=True, text=True
    )


def _calls(env: dict[str, str]) -> tuple[list[int], list[str]]:
    """Seconds that each call and its killing may take, and the calls."""
    lines = Path(env["CALLS"]).read_text().splitlines()
    limits = [sum(map(int, line.split()[1:])) for line in lines if line.startswith("limit ")]
    return limits, [line for line in lines if not line.startswith("limit ")]


def test_every_part_ends_in_time_and_its_options_are_the_verbs(stub, tmp_path):
    parts = _run(stub, "list").stdout.split()
    assert len(parts) == 2 + 5 * 2 + 2
    for part in parts:
        Path(stub["CALLS"]).unlink(missing_ok=True)
        assert _run(stub, part, "out", cwd=tmp_path).returncode == 0
        limits, calls = _calls(stub)
        assert sum(limits) < LIMIT, part
        assert len(limits) == len(calls) == (1 if part == "tests" else 2)
        for call in calls:
            cache, *words = call.split()
            assert cache == str(tmp_path / "out" / "inductor")  # compiled once, whoever cuts it off
            if "benchmark" not in words:
                continue
            options, _ = _parser().parse_own(words[3:])
            assert options.compile == part.endswith("-compiled")
            assert bool(options.prop_attn) == ("-prop" in part)
            assert options.json == tmp_path / "out" / f"{part}-{options.mode}.json"


def test_a_mode_alone_has_the_time_of_both(stub, tmp_path):
    assert _run(stub, "vith518-compiled", str(tmp_path), "train").returncode == 0
    (limit,), (call,) = _calls(stub)
    assert "--mode train" in call
    assert 500 < limit < LIMIT


def test_a_failure_is_told_and_ends_in_1_after_the_others(stub, tmp_path):
    done = _run(stub | {"STATUS": "3"}, "video", str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "FAILED: video forward (exit 3)",
        "FAILED: video train (exit 3)",
    ]
    late = _run(stub | {"STATUS": "124"}, "video", str(tmp_path), "train")
    assert "FAILED: video train was cut off after" in late.stdout


@pytest.mark.parametrize("words", [["eager"], ["video-fast"], ["video", "out", "both"]])
def test_an_unknown_part_starts_nothing(stub, tmp_path, words):
    done = _run(stub, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert not Path(stub["CALLS"]).exists()
    assert not (tmp_path / "out").exists()


def test_the_tests_part_reads_all_files_with_gpu_tests(stub, tmp_path):
    assert _run(stub, "tests", str(tmp_path)).returncode == 0
    (call,) = _calls(stub)[1]
    marked = re.compile(r"^@?.*pytest\.mark\.gp[u]\b", re.M)
    files = [p for p in (ROOT / "tests").rglob("test_*.py") if marked.search(p.read_text())]
    assert set(call.split()[6:]) == {str(p.relative_to(ROOT)) for p in files}
    assert files


BARE = f"""
import sys
for name in {LACKING!r}:
    sys.modules[name] = None
"""


def _collect(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """pytest in this environment less what a machine lent for its GPU lacks."""
    (tmp_path / "bare.py").write_text(BARE)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    lacking = ["-p", "no:xdist", "-p", "no:xdist.looponfail", "-p", "no:timeout", "-p", "bare"]
    quick = ["-q", "-p", "no:cacheprovider", "--collect-only"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *lacking, *quick, *words],
        env={**os.environ, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_pytest_starts_without_its_plugins(tmp_path):
    done = _collect(tmp_path, "tests/test_imports.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/test_imports.py::" in done.stdout


def test_no_test_needs_what_may_be_missing_to_be_read():
    """``pytest.importorskip`` leaves its file out; an import would end the whole run."""
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            else:
                names = {(getattr(node, "module", None) or "").split(".")[0]}
            assert not names & set(LACKING), f"{file}:{node.lineno}"


@pytest.mark.slow
def test_the_whole_suite_collects_without_decoders_and_plugins(tmp_path):
    done = _collect(tmp_path, "-m", "gp" + "u")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b\d+/\d+ tests collected", done.stdout)
    assert "error" not in done.stdout.lower().splitlines()[-1]
