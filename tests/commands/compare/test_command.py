"""``compare``: runs side by side."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tome_lightning.__main__ import main as command_line
from tome_lightning.commands.compare.runs import compare

MERGED: dict[str, Any] = {
    "recipe": "imagenet_vitl", "metrics": {"top1": 0.8509}, "measured_on": "50000 samples", "r": 8,
    "plan": [8] * 23 + [6], "tokens": [197, 7], "macs": {"dense": 61.6e9, "merged": 31e9},
    "step_ms": 100.0, "peak_mem_mib": 20_000.0, "effective_batch": 1024, "device": "NVIDIA H100",
    "speed_by_r": [
        {"steps": 1, "samples_per_s": 7.0}, {"steps": 9, "samples_per_s": 2000.0},
    ],
}  # fmt: skip
DENSE = MERGED | {
    "metrics": {"top1": 0.8566}, "r": 0, "plan": [0] * 24, "tokens": [197, 197],
    "macs": {"dense": 61.6e9, "merged": 61.6e9}, "step_ms": 190.0, "peak_mem_mib": 40_000.0,
    "speed_by_r": [{"steps": 9, "samples_per_s": 1000.0}],
}  # fmt: skip


def main(words: list[str]) -> int:
    return command_line(["compare", *words])


def write(folder: Path, summary: dict[str, Any], config: dict[str, Any] | None = None) -> str:
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    config = {"model": {"r": 8, "task": {"init_args": {"mixup": 0.8}}}, "seed_everything": 0}
    other = {"model": {"r": 0, "task": {"init_args": {"mixup": 0.8}}}, "seed_everything": 1}
    return write(tmp_path / "merged", MERGED, config), write(tmp_path / "dense", DENSE, other)


def test_the_dense_control_is_what_others_are_measured_against(runs: tuple[str, str]):
    found = compare(*runs)
    assert found["runs"] == [runs[1], runs[0]]
    assert found["against"] == {
        "top1": ["+0.00 points", "-0.57 points"],
        "MACs": ["1.00x", "0.50x"],
        "step ms": ["1.00x", "0.53x"],
        "samples/s": ["1.00x", "2.00x"],  # of the r trained at most
        "peak MiB": ["1.00x", "0.50x"],
    }
    assert found["differing"] == {"model.r": [0, 8], "seed_everything": [1, 0]}
    assert found["warnings"] == []


def test_without_one_dense_run_the_first_is(runs: tuple[str, str], tmp_path: Path):
    third = write(tmp_path / "third", DENSE)
    assert compare(*runs, third)["runs"][0] == runs[0]
    assert compare(f"{third}/summary.json", runs[1])["runs"][0] == f"{third}/summary.json"


def test_unlike_runs_are_told(runs: tuple[str, str], tmp_path: Path):
    other = MERGED | {"device": "CPU", "effective_batch": 32, "lists": {"val": "abc"}}
    other = write(tmp_path / "other", other)
    words = " ".join(compare(runs[1], other)["warnings"])
    assert "different devices" in words
    assert "batches differ" in words
    assert "config.yaml" in words
    listed = write(tmp_path / "listed", MERGED | {"lists": {"val": "xyz"}})
    assert any("other samples" in words for words in compare(other, listed)["warnings"])


def test_the_screen_and_the_json(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    assert main(list(runs)) == 0
    told = capsys.readouterr().out
    rows = dict(line.split("  ", 1) for line in told.splitlines() if "  " in line.strip())
    assert rows["tokens out"].split() == ["197", "7"]
    assert rows["tokens merged"].split() == ["0", "190"]
    assert "85.66%" in told
    assert "61.6 G" in told
    assert "-0.57 points" in told
    assert main([*runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == compare(*runs)


def test_columns_fit_the_screen_and_line_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    names = [f"a_run_with_quite_a_long_name_{i}" for i in range(4)]
    for i, name in enumerate(names):
        summary = MERGED | {"checkpoint": f"/folder/of/runs/{name}/checkpoints/best.ckpt"}
        write(tmp_path / name, summary, {"a_section": {"with_quite_a_long_name_of_a_setting": i}})
    assert main(names) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    head, setting = lines[0], next(line for line in lines if "of_a_setting" in line)
    assert [head.index(f".._long_name_{i}") for i in range(4)] == [
        setting.index(f" {i}") + 1 for i in range(4)
    ]
    assert all(f"name_{i}" in head for i in range(4))  # where long names differ is kept


def test_the_hardware_of_an_older_run_is_in_its_environment(tmp_path: Path):
    older = {key: value for key, value in MERGED.items() if key != "device"}
    paths = [write(tmp_path / name, older) for name in ("gpu", "cpu")]
    hardware = (
        {"gpus": [{"name": "NVIDIA H100"}], "cpu": {}, "versions": {"torch": "2.14.1"}},
        {"gpus": [], "cpu": {"model": "EPYC", "cores": 2}, "versions": {"torch": "2.12.0"}},
    )
    for path, facts in zip(paths, hardware, strict=True):
        Path(path, "environment.json").write_text(json.dumps(facts))
    found = compare(*paths)
    assert found["rows"]["device"] == ["NVIDIA H100", "CPU (EPYC, 2 cores)"]
    assert any("different devices" in words for words in found["warnings"])
    assert any("torch was not of the same version" in words for words in found["warnings"])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["merged"], "two runs or more"),
        (["merged", "nowhere"], "no such run"),
        (["merged", "begun"], "has not ended"),
        (["merged", "merged/config.json"], "cannot be read"),
        (["merged", "foreign.json"], "no summary of a run"),
        (["merged", "broken.json"], "no JSON"),
        (["merged", "merged", "--jsn"], "Nearest: --json"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_mistakes_are_one_line(
    names: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "foreign.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    assert main(names) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_a_run_that_evaluates_dense_and_trains_merged_is_no_control(
    runs: tuple[str, str], tmp_path: Path
):
    mixed = write(tmp_path / "mixed", DENSE | {"train_plan": [8] * 24})
    assert compare(runs[0], mixed)["runs"][0] == runs[0]


def test_only_the_list_that_was_measured_counts(runs: tuple[str, str], tmp_path: Path):
    fitted = write(tmp_path / "fitted", MERGED | {"lists": {"train": "t", "val": "v"}})
    tested = write(tmp_path / "tested", MERGED | {"lists": {"test": "v"}})
    other = write(tmp_path / "other", MERGED | {"lists": {"test": "w"}})
    assert not any("other samples" in words for words in compare(fitted, tested)["warnings"])
    assert any("other samples" in words for words in compare(fitted, other)["warnings"])


def test_a_run_that_did_not_finish_is_told(runs: tuple[str, str], tmp_path: Path):
    failed = write(tmp_path / "failed", MERGED | {"ended": "ValueError", "steps": 7})
    told = compare(runs[1], failed)["warnings"]
    assert any("did not finish: ValueError after 7 steps" in words for words in told)


def test_a_resumed_run_counts_with_what_it_was_resumed_with(runs: tuple[str, str]):
    for number, rate in (("2", 2e-3), ("10", 1e-2)):
        config = {"model": {"r": 8, "lr": rate}}
        (Path(runs[0]) / f"config.resume-{number}.yaml").write_text(yaml.safe_dump(config))
    assert compare(*runs)["differing"]["model.lr"] == [None, 1e-2]
