"""Which checkpoint a run goes on from."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tome_lightning.arguments import UsageError, read_arguments
from tome_lightning.run.resume import (
    check_left_out,
    checkpoint_config,
    describe_choice,
    find_checkpoint,
    newest_checkpoint,
    run_dir_of,
)

DATA = {"class_path": "datamodules.ImageNet", "init_args": {"root": "DIR"}}
NOW = {"torch": "2.14.1", "timm": "1.0.31"}


def write(path: Path, steps: int, due: bool = False, **ours: Any) -> Path:
    """A checkpoint of a run, as far as resuming looks at it before it is loaded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    progress = {
        "epoch": 0, "batches": steps, "epoch_batches": 100, "accumulate": 1, "steps": steps,
        "batch": 8, "processes": 1, "effective": 8, "validation_due": due,
    }  # fmt: skip
    ours = {"recipe": "quickstart", "progress": progress, "data": DATA} | ours
    saved = {
        "state_dict": {}, "optimizer_states": [], "hyper_parameters": {"r": 4}, "tome_lightning": ours,
    }  # fmt: skip
    torch.save(saved, path)
    return path


@pytest.fixture
def run_dir(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/quickstart/0")
    write(folder / "checkpoints/last.ckpt", 30)
    write(folder / "checkpoints/best.ckpt", 20)
    (folder / "config.yaml").write_text("model: {}\n")
    return folder


def test_the_checkpoint_that_came_furthest_is_gone_on_from(run_dir):
    last, best = run_dir / "checkpoints/last.ckpt", run_dir / "checkpoints/best.ckpt"
    os.utime(best)  # the newest file, not the furthest run
    assert newest_checkpoint(run_dir) == last
    write(last, 20, due=True)  # saved before the validation that best.ckpt was saved after:
    assert newest_checkpoint(run_dir) == last  # what callbacks do at an epoch's end is to come
    last.unlink()
    assert newest_checkpoint(run_dir) == best


def test_auto_looks_in_the_newest_run_of_the_recipe_by_number(run_dir):
    for number in (2, 10):
        write(Path(f"runs/quickstart/{number}/checkpoints/last.ckpt"), number)
    write(Path("runs/imagenet_vitb/11/checkpoints/last.ckpt"), 99)
    found = find_checkpoint("auto", None, "quickstart")
    assert found == Path("runs/quickstart/10/checkpoints/last.ckpt")
    assert find_checkpoint("auto", run_dir, "quickstart") == run_dir / "checkpoints/last.ckpt"


def test_auto_starts_anew_where_there_is_nothing(run_dir):
    assert find_checkpoint("auto", None, "kinetics_vitl") is None
    assert find_checkpoint("auto", Path("elsewhere"), None) is None


def test_auto_passes_over_newer_runs_without_a_checkpoint_and_says_so(run_dir):
    for number in (1, 2):  # killed before they saved
        Path(f"runs/quickstart/{number}/checkpoints").mkdir(parents=True)
    Path("runs/quickstart/test/0").mkdir(parents=True)
    found = find_checkpoint("auto", None, "quickstart")
    assert found == run_dir / "checkpoints/last.ckpt"
    told = describe_choice(found, None)
    assert told.startswith(
        f"--resume auto goes on with {found}, the newest run with a checkpoint: 1, 2"
    )
    assert describe_choice(found, run_dir) == f"--resume auto goes on with {found}"


def test_damaged_and_foreign_files_are_passed_over_with_a_word(run_dir):
    last = run_dir / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:-40])
    (run_dir / "checkpoints/notes.ckpt").write_text("no checkpoint")
    torch.save({"model": {}}, run_dir / "checkpoints/weights.ckpt")
    write(run_dir / "checkpoints/light.ckpt", 50)
    saved = torch.load(run_dir / "checkpoints/light.ckpt", weights_only=True)
    torch.save(
        {k: v for k, v in saved.items() if k != "optimizer_states"}, last.with_name("light.ckpt")
    )
    with pytest.warns(UserWarning, match="passed over") as told:
        assert newest_checkpoint(run_dir) == run_dir / "checkpoints/best.ckpt"
    lines = sorted(str(warning.message) for warning in told)
    assert [line.split(" is passed over: ")[0].rpartition("/")[2] for line in lines] == [
        "last.ckpt", "light.ckpt", "notes.ckpt", "weights.ckpt",
    ]  # fmt: skip
    assert "truncated" in lines[0]
    assert "does not hold its optimizer" in lines[1]
    assert "does not hold where" in lines[3]


def test_a_named_folder_or_file_must_be_there(run_dir):
    assert find_checkpoint(str(run_dir), None, None) == run_dir / "checkpoints/last.ckpt"
    best = run_dir / "checkpoints/best.ckpt"
    assert find_checkpoint(str(best), None, None) == best
    for wrong, told in (("gone", "no file"), ("runs", "no checkpoint to go on from")):
        with pytest.raises(UsageError, match=told):
            find_checkpoint(wrong, None, None)


def test_a_run_goes_on_in_its_own_directory_only_from_its_newest_checkpoint(run_dir, tmp_path):
    assert run_dir_of(run_dir / "checkpoints/last.ckpt") == run_dir
    assert run_dir_of(run_dir / "checkpoints/best.ckpt") is None  # would write over what came later
    assert run_dir_of(write(tmp_path / "copied.ckpt", 30)) is None
    assert run_dir_of(Path.cwd() / run_dir / "checkpoints/last.ckpt") == run_dir
    os.chdir(run_dir / "checkpoints")
    assert run_dir_of(Path("last.ckpt")) == Path("..")


def test_other_versions_are_told_with_both(run_dir):
    path = write(run_dir / "checkpoints/last.ckpt", 30, versions={**NOW, "timm": "1.0.20"})
    with pytest.warns(UserWarning, match=r"timm 1\.0\.20 there, 1\.0\.31 here"):
        saved = checkpoint_config(path, "fit", True, NOW)
    assert (saved.logged_steps, saved.recipe) == (30, "quickstart")
    assert saved.config["data"] == DATA


@pytest.mark.filterwarnings("error")
def test_the_same_versions_are_not_worth_a_word(run_dir):
    checkpoint_config(write(run_dir / "checkpoints/last.ckpt", 30, versions=NOW), "fit", True, NOW)


@pytest.mark.parametrize(
    "words",
    [
        ["--resume", "auto", "--init-from", "x.pth"],
        ["--init_from=x.pth", "--resume=auto"],
        ["--init-from", "x.pth", "--ckpt_path", "null"],
        ["--resume", "auto", "--ckpt-path=null"],
    ],
)
def test_to_go_on_and_to_start_anew_exclude_each_other(words):
    with pytest.raises(UsageError, match="exclude each other"):
        read_arguments(words, "fit")


@pytest.mark.parametrize("option", ["--resume", "--init-from"])
def test_other_verbs_are_told_what_they_have_instead(option):
    with pytest.raises(UsageError, match="is for fit; for test use --"):
        read_arguments([option, "auto"], "test")


def test_init_from_is_short_for_the_models_checkpoint():
    read = read_arguments(["--recipe", "quickstart", "--init-from", "mae.pth", "--run-dir=out"])
    assert "--model.checkpoint=mae.pth" in read.argv
    assert (read.run_dir, read.resume) == (Path("out"), None)
    assert read_arguments(["--resume=auto"]).resume == "auto"


def test_one_of_two_callbacks_of_a_class_is_missed_as_well():
    two = [{"class_path": "a.Mine"}, {"class_path": "b.Mine"}]
    assert check_left_out({"callbacks": two}, {"callbacks": two}, [], Path("x.ckpt")) is None
    with pytest.raises(UsageError, match=r"had trainer\.callbacks b\.Mine, and"):
        check_left_out({"callbacks": two}, {"callbacks": two[:1]}, [], Path("x.ckpt"))
