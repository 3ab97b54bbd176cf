"""A checkpoint or a run folder of a stranger chooses no place that is written to or removed."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tome_lightning.__main__ import main
from tome_lightning.run.environment import environment

from .forging import VERBS, Change, cases, data, forge, ours, run, trainer

LOGGER = {
    "class_path": "lightning.pytorch.loggers.CSVLogger",
    "init_args": {"save_dir": "../outside"},
}


def outside(work: Path) -> dict[str, Any]:
    """What lies beside the working folder."""
    found = {path for path in work.parent.rglob("*") if not path.is_relative_to(work)}
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(found)}


@pytest.fixture
def victim(stranger) -> Path:
    """Somebody's folder with a checkpoint beside the working folder."""
    folder = stranger.parent / "victim"
    folder.mkdir()
    (folder / "precious.ckpt").write_text("precious")
    return folder


PLACES = {
    "recipe": ours("recipe", "../../outside"),
    "an absolute recipe": ours("recipe", "{work}/../outside"),
    "a recipe of dots": ours("recipe", ".."),
    "root": data(root="../outside/digits"),
    "an absolute root": data(root="{work}/../outside"),
    "save_dir": trainer(logger=LOGGER),
    "default_root_dir": trainer(default_root_dir="../outside"),
    "a registry": trainer(model_registry="somebody/theirs"),
}


@pytest.mark.parametrize(("form", "verb"), cases(PLACES))
def test_no_place_to_write_to_is_taken_from_a_checkpoint(form, verb, stranger, capfd):
    before = outside(stranger)
    forge(PLACES[form])
    forge(lambda saved: _fill_in(saved, stranger))
    run(verb, capfd)
    assert outside(stranger) == before
    made = {path.name for path in stranger.iterdir()}
    assert made <= {
        "digits", "theirs", "evil.py", "digit.png", "runs", "groups.png", "model.safetensors",
        "__pycache__",
    }  # fmt: skip


def _fill_in(saved: dict[str, Any], work: Path) -> None:
    ours = saved["tome_lightning"]
    ours["recipe"] = str(ours["recipe"]).replace("{work}", str(work))
    arguments = ours["data"]["init_args"]
    arguments["root"] = str(arguments["root"]).replace("{work}", str(work))


def paths(**of_state: Any) -> Change:
    """Sets paths that a callback has noted; its best score is one that the next validation beats."""

    def change(saved: dict[str, Any]) -> None:
        state = next(v for k, v in saved["callbacks"].items() if k.startswith("BestCheckpoint"))
        worst = torch.tensor(-1.0)
        given = {name: path for name, path in of_state.items() if name != "target"}
        target = of_state.get("target") or next(iter(given.values()))
        state.update(best_model_score=worst, kth_value=worst, current_score=worst)
        state.update(best_k_models={target: worst}, kth_best_model_path=target, **given)

    return change


REMOVED = {
    "best_k_models": {"target": "{theirs}/checkpoints/../../../victim/precious.ckpt"},
    "an absolute path": {"target": "{victim}/precious.ckpt"},
    "a folder": {"target": "{victim}"},
    "best_model_path": {"best_model_path": "{victim}/precious.ckpt"},
    "its own folder": {"dirpath": "{victim}", "target": "{victim}/precious.ckpt"},
    "a folder of the same name": {
        "dirpath": "{victim}/checkpoints",
        "target": "{victim}/checkpoints/../precious.ckpt",
    },
    "a link": {"target": "{theirs}/checkpoints/link.ckpt/precious.ckpt"},
    "last_model_path": {"last_model_path": "{victim}/precious.ckpt"},
}


@pytest.mark.parametrize("form", REMOVED)
def test_nothing_outside_the_run_is_removed_when_it_goes_on(form, stranger, victim, capfd):
    places = {"theirs": str(stranger / "theirs"), "victim": str(victim)}
    (stranger / "theirs" / "checkpoints" / "link.ckpt").symlink_to(victim)
    before = outside(stranger)
    forge(paths(dirpath=str(stranger / "theirs/checkpoints"), target="x"))
    forge(paths(**{name: text.format(**places) for name, text in REMOVED[form].items()}))
    assert main([*VERBS["fit"], "--trainer.max_steps=2"]) == 0
    capfd.readouterr()
    assert outside(stranger) == before
    assert Path("theirs/checkpoints/best.ckpt").is_file()


LINKS = {  # name in the run folder: whether what it names is there
    "summary.json": True, "config.resume-1.yaml": False, "environment.resume-1.json": False,
    "hparams.yaml": False, "checkpoints/best.ckpt": True, "config.yaml": True,
}  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_a_run_folder_is_not_written_through(name, stranger, victim, capfd):
    there, target = LINKS[name], victim / "file"
    if there:
        target.write_bytes(Path("theirs", name).read_bytes())
    before = outside(stranger)
    Path("theirs", name).unlink(missing_ok=True)
    Path("theirs", name).symlink_to(target)
    assert main([*VERBS["fit"], "--trainer.max_steps=2"]) == 0
    capfd.readouterr()
    assert outside(stranger) == before
    assert Path("theirs/config.resume-1.yaml").exists() or name == "config.resume-1.yaml"


def test_a_folder_of_checkpoints_that_leads_elsewhere_is_refused(stranger, victim, capfd):
    Path("theirs/checkpoints").rename(victim / "checkpoints")
    Path("theirs/checkpoints").symlink_to(victim / "checkpoints")
    before = outside(stranger)
    code, told = run("fit", capfd)
    assert (code, "is a link" in told) == (2, True), told
    assert outside(stranger) == before


def _repository(folder: Path, config: str) -> None:
    """A repository of somebody else whose settings name programs, with a file that has changed."""

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)

    folder.mkdir()
    git("init", "-q")
    (folder / ".gitattributes").write_text("* filter=theirs\n")
    (folder / "file").write_text("one")
    git("add", ".")
    git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x")
    with (folder / ".git" / "config").open("a") as file:
        file.write(config)
    (folder / "file").write_text("two")
    os.utime(folder / "file", (1, 1))


OWNED = "touch {mark}; cat"
SETTINGS = {
    "a filter": f'[filter "theirs"]\n\tclean = "{OWNED}"\n\tprocess = "{OWNED}"\n',
    "a monitor": f'[core]\n\tfsmonitor = "{OWNED}"\n',
    "hooks": "[core]\n\thooksPath = {hooks}\n",
    "a pager and an alias": f'[core]\n\tpager = "{OWNED}"\n[alias]\n\tstatus = "!{OWNED}"\n',
}


@pytest.mark.parametrize("form", SETTINGS)
def test_the_programs_that_a_repository_names_are_not_run(form, tmp_path, monkeypatch):
    mark, hooks = tmp_path / "owned", tmp_path / "hooks"
    hooks.mkdir()
    for hook in ("post-index-change", "fsmonitor-watchman", "query-watchman"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (hooks / hook).chmod(0o755)
    _repository(tmp_path / "theirs", SETTINGS[form].format(mark=mark, hooks=hooks))
    monkeypatch.chdir(tmp_path / "theirs")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    mark.unlink(missing_ok=True)
    code = environment()["folder_code"]
    assert (code["commit"], code["dirty"]) == (head.stdout.strip(), True)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"data": {"class_path": "evil.Evil"}}, True),
        ({"trainer": {"callbacks": [{"class_path": "evil.Evil"}]}}, True),
        ({"trainer": {"logger": False}}, False),
    ],
)
def test_doctor_says_which_classes_of_others_it_makes(config, named, stranger, capfd):
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    main(["doctor", "--recipe", "quickstart", "--config=mine.yaml", "--data.root=digits"])
    told = capfd.readouterr().out
    assert ("classes of others, which are imported and made: evil.Evil" in told) == named
