"""A small file neither fills the memory nor takes for ever, and a malformed one is one line."""

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tome_lightning.__main__ import main
from tome_lightning.trainer.progress import Progress
from tome_lightning.trust import Untrusted, check_form

from .forging import BEST, VERBS, Change, cases, forge, model, ours, run, trainer

# Without bounds each of these goes on for hours or fills the memory: ended within a minute, whatever else
# the machine is doing.
pytestmark = pytest.mark.timeout(60)


def shared(depth: int = 40) -> list[Any]:
    """A list that stands twice in another, and so on: 2 to the power of 40 values, 1 kB in a file."""
    value: list[Any] = [0.5, 0.5]
    for _ in range(depth):
        value = [value, value]
    return value


def deep(depth: int = 100_000) -> str:
    return "[" * depth + "]" * depth


def itself() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["value"] = value
    return value


DIGITS = {"class_path": "datamodules.Digits"}


def callback(**states: Any) -> Change:
    return lambda saved: saved["callbacks"].update(states)


BOMBS = {
    "shared lists in r": model(r=shared()),
    "shared lists in data": ours("data", DIGITS | {"init_args": {"mean": shared()}}),
    "shared lists in names": ours("class_names", shared()),
    "shared lists in the trainer": trainer(devices=shared()),
    "shared lists in a callback": callback(RunRecord={"metrics": shared()}),
    "shared lists elsewhere": lambda saved: saved.update(notes=shared()),
    "a dictionary that holds itself": ours("data", itself()),
    "hyper-parameters that hold themselves": model(vit=itself()),
    "a model of a billion blocks": model(vit={"depth": 10**9, "embed_dim": 24, "num_heads": 2}),
    "a pickle of many megabytes": lambda saved: saved.update(notes=[f"{i:090}" for i in range(10**5)]),
}  # fmt: skip


@pytest.mark.parametrize(("form", "verb"), cases(BOMBS))
def test_a_bomb_in_a_checkpoint_is_refused(form, verb, stranger, capfd):
    forge(BOMBS[form])
    code, told = run(verb, capfd)
    harmless = ["compare", "fit with its recipe"]
    harmless += ["inspect"] if "blocks" in form else []  # which builds no model
    assert code == 2 or verb in harmless, told


@pytest.mark.parametrize(("form", "verb"), cases(["deflated"]))
def test_a_compressed_archive_is_refused(form, verb, stranger, capfd):
    for path in Path("theirs/checkpoints").glob("*.ckpt"):
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
    code, told = run(verb, capfd)
    if verb != "compare":
        assert code == 2, told
        assert "is compressed" in told or "no checkpoint to go on from" in told, told


@pytest.mark.parametrize("option", ["--init_from", "--model.checkpoint"])
@pytest.mark.parametrize("form", ["shared lists elsewhere", "a pickle of many megabytes"])
def test_nor_are_weights_to_start_from(form, option, stranger, capfd):
    forge(BOMBS[form])
    assert main([*VERBS["fit with its recipe"][:-1], option, BEST]) == 2
    assert "is refused: it" in capfd.readouterr().err


LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 40)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)
)


@pytest.mark.parametrize(
    "text", [LAUGHS, MERGES, f"data: {deep(20_000)}"], ids=["laughs", "merges", "deep"]
)
@pytest.mark.parametrize("verb", ["fit", "doctor", "test", "benchmark"])
def test_a_bomb_in_a_recipe_is_refused(verb, text, stranger, capfd):
    Path("bomb.yaml").write_text(text)
    assert main([verb, "--recipe", "bomb.yaml"]) == 2
    assert "bomb.yaml is not YAML" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "summary.json"])
def test_compare_reads_the_files_of_others_within_bounds(name, stranger, capfd):
    Path("theirs", name).write_text(LAUGHS if name.endswith("yaml") else deep())
    code, told = run("compare", capfd)
    assert code == (2 if name == "summary.json" else 0), told


MALFORMED: dict[str, Change] = {
    "hyper-parameters": lambda saved: saved.update(hyper_parameters=["r", 4]),
    "a hyper-parameter": model(layer_decay="0.75"),
    "an unknown one": model(mixing=True),
    "numbered ones": lambda saved: saved["hyper_parameters"].update({3: 4}),
    "what we say": lambda saved: saved.update(tome_lightning=5),
    "the data": ours("data", "digits"),
    "progress": ours("progress", {"epoch": "first"}),
    "class names": ours("class_names", [1, 2]),
    "versions": ours("versions", "all of them"),
    "the trainer": ours("trainer", ["max_epochs"]),
    "an epoch": lambda saved: saved.update(epoch="first"),
    "weights": lambda saved: saved["state_dict"].update({"model.vit.cls_token": "token"}),
    "all callbacks": lambda saved: saved.update(callbacks=[1]),
    "a callback": callback(SaveLast="over"),
    "the record": callback(RunRecord={"metrics": {"top1": "best"}, "counted": 1}),
    "best paths": lambda saved: [
        state.update(best_k_models=3, dirpath=4) for state in saved["callbacks"].values()
    ],
    "loops": lambda saved: saved.update(loops={"fit_loop": {}}),
    "the optimizer": lambda saved: saved.update(optimizer_states=["adam"]),
    "the schedule": lambda saved: saved.update(lr_schedulers=[{}]),
    "the data's state": lambda saved: saved.update(Digits="digits"),
    "the size": model(vit={"depth": 2, "embed_dim": 24, "num_heads": 2}),
}  # fmt: skip


@pytest.mark.parametrize(("form", "verb"), cases(MALFORMED))
def test_what_is_malformed_is_one_line(form, verb, stranger, capfd):
    forge(MALFORMED[form])
    run(verb, capfd)


COUNTS = {  # of a run's progress
    "scheduled": [math.nan, math.inf, -1.0, 1e30, True, "8"],
    "epoch": [1.5, -1],
    "epoch_batches": [0],
    "accumulate": [0, -2],
    "first_batches": [0, 2.5],
    "first_accumulate": [0],
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_that_no_run_has_is_refused(name):
    whole = Progress(2, 3, 5, 1, 13, 4, 1, 4, False, 12.5, 5, 1).as_dict()
    saved: dict[str, Any] = {"state_dict": {}, "tome_lightning": {"progress": whole}}
    check_form(saved)
    for value in COUNTS[name]:
        saved["tome_lightning"] = {"progress": whole | {name: value}}
        with pytest.raises(Untrusted, match=r"its tome_lightning\.progress"):
            check_form(saved)


METADATA = {
    "deep": deep(),
    "cut": "{",
    "a string": '"text"',
    "a list": "[1]",
    "types": '{"class_names": 3, "r": "all", "mean": [1], "versions": [], "licence": {}}',
}


@pytest.mark.parametrize("form", METADATA)
@pytest.mark.parametrize("verb", ["inspect", "visualize", "export", "fit"])
def test_metadata_of_weights_is_one_line(verb, form, stranger, capfd):
    assert main(VERBS["export"]) == 0
    file = "theirs.safetensors"
    save_file(load_file("model.safetensors"), file, {"tome_lightning": METADATA[form]})
    model = ["--model=vit_tiny_patch16_224", f"--ckpt={file}"]
    words = {
        "inspect": ["inspect", file],
        "visualize": ["visualize", *model, "--input=digit.png", "--out=groups.png"],
        "export": ["export", "--recipe=quickstart", f"--ckpt={file}", "--out=again.safetensors"],
        "fit": [*VERBS["fit with its recipe"][:-1], f"--init_from={file}"],
    }
    capfd.readouterr()
    assert main(words[verb]) in (0, 2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "option"),
    [
        ("kinetics_vitb", "--data.exclude"),
        ("audioset_vitb", "--data.exclude"),
        ("audioset_vitb", "--data.train_list"),
    ],
)
def test_lists_of_others_may_be_as_deep_as_they_like(recipe, option, stranger, capfd):
    Path("deep.json").write_text(deep())
    Path("train.csv").write_text("path,labels\n")
    assert (
        main(["scan", f"--recipe={recipe}", "--data.root=.", f"{option}=deep.json", "--out=x"]) == 2
    )
    assert "Traceback" not in capfd.readouterr().err


COMMAND = "\x1b]0;owned\x07\x1b[2J\u202e"


@pytest.mark.parametrize(("form", "verb"), cases(["commands"]))
def test_control_characters_of_a_file_do_not_reach_the_terminal(form, verb, stranger, capfd):
    names = [f"{COMMAND}{i}" for i in range(10)]
    forge(ours("class_names", names))
    forge(ours("versions", {"torch": COMMAND, COMMAND: "1"}))
    forge(ours("recipe", COMMAND))
    forge(model(checkpoint=COMMAND))
    summary = json.loads(Path("theirs/summary.json").read_text())
    summary |= {"recipe": COMMAND, "metrics": {COMMAND: 0.5}, "measured_on": COMMAND}
    Path("theirs/summary.json").write_text(json.dumps(summary))
    told = run(verb, capfd)[1]
    assert not set(COMMAND) & set(told) & set("\x1b\x07\u202e"), told


def test_a_name_that_commands_the_terminal_is_escaped_in_the_error(stranger, capfd):
    torch.save({}, f"{COMMAND[:4]}.ckpt")
    assert main(["test", f"--ckpt_path={COMMAND[:4]}.ckpt"]) == 2
    told = capfd.readouterr().err
    assert "\x1b" not in told
    assert r"\x1b]0;.ckpt" in told
