"""``sweep``: one model at many r, on a tiny model of the digits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tome_lightning import fit
from tome_lightning.__main__ import main
from tome_lightning.commands.benchmark.rows import Row
from tome_lightning.commands.sweep import SweepRow, sweep
from tome_lightning.commands.sweep.prepared import PreparedSweep

FAST = ["--rounds", "1", "--batch-size", "2"]
CPU = ["--trainer.accelerator", "cpu"]
GREY = "--data.mean [0.5,0.5,0.5] --data.std [0.5,0.5,0.5]"
IMAGES = f"--data datamodules.ImageNet --data.root nowhere {GREY}"
KEYS = {
    "name", "checkpoint", "recipe", "r", "prop_attn", "tokens_in", "tokens_out", "macs",
    "mac_ratio", "metric", "value", "delta", "samples", "samples_per_s", "speedup", "device",
    "dtype", "batch",
}  # fmt: skip


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model of two blocks, trained for some steps: some digits it knows, at each r others."""
    options: dict[str, Any] = {
        "run_dir": str(tmp_path_factory.mktemp("run") / "a"), "model.vit.depth": 2,
        "model.vit.embed_dim": 24, "model.vit.num_heads": 2, "trainer.max_steps": 20,
        "trainer.accelerator": "cpu", "trainer.enable_progress_bar": False,
        "tome.compare_dense": 0, "model.warmup_epochs": 0, "trainer.limit_val_batches": 1,
    }  # fmt: skip
    return fit("quickstart", options).directory / "checkpoints" / "best.ckpt"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _sweep(ckpt: Path, *words: Any) -> int:
    return main(["sweep", "--ckpt_path", str(ckpt), *CPU, *FAST, *map(str, words)])


def test_each_value_is_what_validate_says(ckpt: Path, folder: Path):
    assert _sweep(ckpt, "--r", 24, "10:-1.0", "--limit", 2, "--json", "a.json") == 0
    rows = json.loads(Path("a.json").read_text())
    assert [row["r"] for row in rows] == [0, 24, {"r": 10, "inflection": -1.0}]
    for i, row in enumerate(rows[1:]):
        words = ["--ckpt_path", str(ckpt), *CPU, f"--model.r={json.dumps(row['r'])}"]
        words += ["--run_dir", f"v{i}", "--trainer.limit_val_batches", "2"]
        words += ["--trainer.enable_progress_bar", "false"]
        assert main(["validate", *words]) == 0
        summary = json.loads(Path(f"v{i}", "summary.json").read_text())
        assert row["metrics"] == summary["metrics"]
        assert (row["metric"], row["value"]) == ("top1", summary["metrics"]["top1"])
        assert row["delta"] == pytest.approx(row["value"] - rows[0]["value"])
        assert row["tokens_out"] == summary["tokens"][-1]
        assert row["macs"] == summary["macs"]["merged"]
        assert row["samples"] == 500
    assert len({row["value"] for row in rows}) > 1  # r matters, so that the same would be a mistake


def test_rows_table_picture_and_nothing_else(ckpt: Path, folder: Path, capsys: Any):
    files = ["--json", "a.json", "--plot", "a.png", "--limit", 1]
    assert _sweep(ckpt, "--r", 0, 4, 8, *files) == 0
    out = capsys.readouterr().out
    rows = json.loads(Path("a.json").read_text())
    assert all(row.keys() >= KEYS for row in rows)
    assert [row["r"] for row in rows] == [0, 4, 8]  # 0, once
    assert [row["tokens_out"] for row in rows] == [50, 42, 34]
    for row in rows:
        assert row["samples"] == 250
        assert (row["device"], row["dtype"], row["batch"]) == ("cpu", "float32", 2)
        assert row["speedup"] == pytest.approx(row["samples_per_s"] / rows[0]["samples_per_s"])
        assert row["realised"] == pytest.approx(row["speedup"] / row["mac_ratio"])
    assert "0 (dense)" in out
    assert "only the first 1 batches" in out
    assert out.splitlines()[-2:] == ["written: a.json", "written: a.png"]
    assert max(map(len, out.replace(str(ckpt), "").splitlines())) <= 100
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "a.png"]  # no runs/

    assert main(["sweep", "--add", "a.json", "--plot", "b.png"]) == 0  # drawn again, not measured
    assert Path("b.png").is_file()
    same = ["digits 2", *CPU, "--r", "6", "--limit", 1, "--add", "a.json"]
    assert _sweep(ckpt, "--name", *same) == 0
    out = capsys.readouterr().out
    assert "digits 2: " in out
    assert "a: " in out


def test_weights_without_a_run_need_their_recipe(ckpt: Path, folder: Path):
    overrides = {
        "model.vit.depth": 2, "model.vit.embed_dim": 24, "model.vit.num_heads": 2,
        "model.checkpoint": str(ckpt), "trainer.accelerator": "cpu",
    }  # fmt: skip
    settings: dict[str, Any] = {"limit": 1, "rounds": 1, "batch_size": 2, "stage": "test"}
    of_recipe = sweep([8], recipe="quickstart", overrides=overrides, **settings)
    of_run = sweep([8], ckpt_path=ckpt, overrides={"trainer.accelerator": "cpu"}, **settings)
    assert [row.value for row in of_recipe] == [row.value for row in of_run]
    assert [(row.name, row.stage) for row in of_recipe] == [("quickstart", "test")] * 2


def test_rows_are_written_as_they_come(ckpt: Path, folder: Path, monkeypatch: Any, capsys: Any):
    evaluate: Callable[..., Any] = PreparedSweep.evaluate
    seen: list[list[dict[str, Any]]] = []

    def interrupted(prepared: PreparedSweep, r: Any) -> Any:
        if Path("a.json").is_file():
            seen.append(json.loads(Path("a.json").read_text()))
        if r == 6:
            raise KeyboardInterrupt
        return evaluate(prepared, r)

    monkeypatch.setattr(PreparedSweep, "evaluate", interrupted)
    files = ["--json", "a.json", "--plot", "a.png", "--limit", 1]
    assert _sweep(ckpt, "--r", 4, 6, 8, *files) == 130
    assert [row["value"] is not None for row in seen[-1]] == [True, True, False, False]
    assert all(row["samples_per_s"] for row in seen[-1])  # the speed of all is known by then
    assert json.loads(Path("a.json").read_text()) == seen[-1]
    told = capsys.readouterr()
    assert "interrupted" in told.err
    assert "0 (dense)" in told.out
    assert Path("a.png").is_file()


def test_from_python_rows_come_one_after_the_other(ckpt: Path, folder: Path):
    lengths: list[int] = []
    rows = sweep(
        [3], ckpt_path=ckpt, overrides={"trainer.accelerator": "cpu"}, limit=1, rounds=1,
        batch_size=1, name="a", after=lambda rows: lengths.append(len(rows)),
    )  # fmt: skip
    assert lengths == [1, 2, 2]  # dense, the speed of both, r=3
    assert all(isinstance(row, SweepRow) for row in rows)
    assert [row.label for row in rows] == ["dense", "r=3"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "needs a model"),
        ("--r 4", "needs a model"),
        ("--ckpt_path CKPT --r 4 --sage val", "sage"),
        ("--ckpt_path CKPT", "needs some r"),
        ("--ckpt_path CKPT --r", "--r"),
        ("--ckpt_path CKPT --r 4 25", "at most 24"),
        ("--ckpt_path CKPT --r many", "16:-1.0"),
        ("--ckpt_path CKPT --r -4", "0 or more, got -4"),
        ("--ckpt_path CKPT --r 8,8,8", "2 blocks"),
        ("--ckpt_path nowhere.ckpt --r 4", "nowhere.ckpt is no file"),
        ("--ckpt_path CKPT --r 4 --model.r 2", "--r"),
        ("--ckpt_path CKPT --r 4 --run_dir x", "--json"),
        ("--ckpt_path CKPT --r 4 --stage train", "val or test"),
        ("--ckpt_path CKPT --r 4 --limit 0", "1 or more"),
        ("--ckpt_path CKPT --r 4 --within -1", "--within"),
        ("--ckpt_path CKPT --r 4 --data.rot x", "rot"),
        ("--ckpt_path CKPT --r 4 --json no/a.json", "no folder"),
        ("--ckpt_path CKPT --r 4 --plot a.bmp", ".png"),
        ("--ckpt_path CKPT --r 4 --plot there.png", "--force"),
        ("--ckpt_path CKPT --r 4 --add no.json", "no.json"),
        (f"--ckpt_path CKPT --r 4 {IMAGES}", "root nowhere is not a folder"),
        ("--recipe quickstart --r 4", "these are random"),
        ("--recipe quickstat --r 4", "quickstart"),
        ("--recipe quickstart --model.checkpoint no.pth --r 4", "no.pth"),
        ("--add there.json", "no JSON"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(
    words: str, told: str, ckpt: Path, folder: Path, capsys: Any, monkeypatch: Any
):
    def never(*args: Any) -> list[Row]:
        raise AssertionError("measured")

    monkeypatch.setattr("tome_lightning.commands.sweep.measure.measure", never)
    for name in ("there.png", "there.json"):
        Path(name).touch()
    before = sorted(folder.iterdir())
    capsys.readouterr()
    assert main(["sweep", *words.replace("CKPT", str(ckpt)).split()]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "measuring" not in line]
    assert errors[-1].startswith("error: ")
    assert told in errors[-1]
    assert sorted(folder.iterdir()) == before


def test_help_answers(capsys: Any):
    assert main(["sweep", "--help"]) == 0
    assert "--ckpt_path" in capsys.readouterr().out
