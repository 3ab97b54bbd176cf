"""A file from a stranger is read and never run, whichever way it comes in."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tome_lightning.__main__ import main

from .kill_and_resume import write_some_digits

QUICK = (
    "--recipe=quickstart --model.vit.depth=1 --model.vit.embed_dim=24 --model.vit.num_heads=2 "
    "--trainer.max_steps=1 --trainer.limit_val_batches=1 --data.batch_size=4 "
    "--trainer.enable_progress_bar=false --trainer.accelerator=cpu --tome.compare_dense=0"
).split()
VERBS = ("fit", "validate", "test", "predict")


class Payload:
    """Makes a folder when it is unpickled: what a virus would do, but harmless."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        import os

        return (os.mkdir, (str(self.target),))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The run directory of one step."""
    folder = tmp_path_factory.mktemp("trained")
    write_some_digits(folder / "digits", {"train": 1, "val": 1})
    words = ["fit", *QUICK, f"--data.root={folder / 'digits'}", f"--run_dir={folder / 'run'}"]
    assert main(words) == 0
    return folder / "run"


@pytest.fixture
def stranger(tmp_path, monkeypatch, trained):
    """A working folder with data, and where the payload would leave its mark."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.parent / "digits", "digits")
    return tmp_path


def write_evil(path: Path, kind: str, target: Path, trained: Path) -> None:
    """A checkpoint with a payload inside, of one of the forms that unpickling readers know."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    payload = Payload(target)
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"model": payload}))
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, weights=np.array([payload], dtype=object))
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.array([payload], dtype=object))
    else:  # in a real checkpoint, where Lightning and its callbacks would find it
        whole["callbacks"]["SaveLast"] = whole["optimizer_states"][0]["state"]["x"] = payload
        whole["state_dict"]["model.vit.cls_token"] = payload
        torch.save(whole, path, _use_new_zipfile_serialization=kind == "zip")
    assert b"mkdir" in path.read_bytes()


def refused(words: list[str], capfd: pytest.CaptureFixture, *parts: str) -> None:
    """A command ends with 2 and one line that says why."""
    capfd.readouterr()
    assert main(words) == 2
    err = capfd.readouterr().err
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, err
    assert all(part in told[0] for part in parts), told[0]
    assert "Traceback" not in err


KINDS = ["zip", "legacy", "pickle"]


@pytest.mark.parametrize("option", ["--ckpt_path", "--model.checkpoint"])
@pytest.mark.parametrize(
    ("verb", "kind"), [*((verb, "zip") for verb in VERBS), ("fit", "legacy"), ("test", "pickle")]
)
def test_no_verb_runs_a_checkpoint(verb, option, kind, stranger, trained, capfd):
    write_evil(Path("evil.ckpt"), kind, stranger / "owned", trained)
    refused([verb, *QUICK, "--data.root=digits", option, "evil.ckpt"], capfd, "evil.ckpt")
    assert not Path("owned").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["--init-from", "--resume"])
def test_neither_weights_nor_a_run_to_go_on_from_is_run(option, kind, stranger, trained, capfd):
    write_evil(Path("evil.ckpt"), kind, stranger / "owned", trained)
    refused(["fit", *QUICK, "--data.root=digits", option, "evil.ckpt"], capfd, "evil.ckpt")
    assert not Path("owned").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_directory_to_go_on_from_is_not_run(kind, stranger, trained, capfd):
    for name in ("last", "best"):
        write_evil(Path(f"theirs/checkpoints/{name}.ckpt"), kind, stranger / "owned", trained)
    refused(["fit", *QUICK, "--data.root=digits", "--resume=theirs"], capfd, "theirs")
    assert not Path("owned").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["theirs", "runs/quickstart/0"])
def test_resume_auto_passes_it_over_with_a_word(
    place, kind, stranger, trained, capfd, caplog, recwarn
):
    for name in ("last", "best"):
        write_evil(Path(f"{place}/checkpoints/{name}.ckpt"), kind, stranger / "owned", trained)
    words = ["fit", *QUICK, "--data.root=digits", "--resume=auto"]
    words += ["--run_dir=theirs"] if place == "theirs" else []
    code = main(words)
    captured = capfd.readouterr()
    warned = "".join(str(warning.message) for warning in recwarn)
    told = captured.out + captured.err + caplog.text + warned
    assert "last.ckpt" in told
    assert code == 0, told  # it starts afresh
    assert "Traceback" not in told
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((f"evil{ending}", "zip") for ending in (".pth", ".pt", ".pyth", ".bin", ".npz")),
        ("evil.safetensors", "zip"),
        ("evil.safetensors", "pickle"),
        ("evil.npy", "pickle"),
        ("evil.npz", "npz"),
        ("evil.npy", "npy"),
    ],
)
def test_a_file_s_name_makes_no_difference(name, kind, stranger, trained, capfd):
    write_evil(Path(name), kind, stranger / "owned", trained)
    for option in ("--init_from", "--resume"):
        refused(["fit", *QUICK, "--data.root=digits", option, name], capfd, name)
    assert not Path("owned").exists()


def test_no_environment_variable_changes_that(stranger, trained, capfd, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    write_evil(Path("evil.ckpt"), "zip", stranger / "owned", trained)
    for option in ("--init_from", "--resume", "--ckpt_path"):
        refused(["fit", *QUICK, "--data.root=digits", option, "evil.ckpt"], capfd, "evil.ckpt")
    assert not Path("owned").exists()


@pytest.mark.parametrize("option", ["--resume", "--ckpt_path", "--init_from"])
def test_a_folder_of_torch_s_own_shares_is_not_run(option, stranger, trained, capfd):
    """torch.distributed.checkpoint's folders have a pickle in them, which its reader runs."""
    for name in (".metadata", "meta.pt", "__0_0.distcp"):
        write_evil(Path("evil.ckpt", name), "pickle", stranger / "owned", trained)
    refused(["fit", *QUICK, "--data.root=digits", option, "evil.ckpt"], capfd, "evil.ckpt")
    assert not Path("owned").exists()


def test_a_published_file_that_somebody_changed_is_not_run(stranger, trained, capfd, monkeypatch):
    monkeypatch.setenv("TOME_LIGHTNING_CACHE", str(stranger))
    name = "audiomae_vit_base"
    for ending in (".pth", ".ckpt"):
        write_evil(Path("weights", name + ending), "zip", stranger / "owned", trained)
    words = ["fit", *QUICK, "--data.root=digits", f"--model.checkpoint={name}"]
    refused(words, capfd, name)
    assert not Path("owned").exists()


def test_timm_is_given_no_file_to_load(stranger, trained, capfd):
    write_evil(Path("evil.pth"), "zip", stranger / "owned", trained)
    words = ["fit", "--recipe=quickstart", "--data.root=digits", "--model.vit={}"]
    words += [
        "--model.input.timm_model=vit_tiny_patch16_224",
        "--model.vit.checkpoint_path=evil.pth",
    ]
    refused(words, capfd)
    assert not Path("owned").exists()


YAML = "model: !!python/object/apply:os.mkdir [owned]\n"


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--recipe=evil.yaml"],
        ["fit", "-c", "evil.yaml"],
        ["fit", "--config=evil.yaml"],
        ["fit", "--recipe=quickstart", "--recipe=evil.yaml"],
        ["fit", "--recipe=quickstart", "--model=evil.yaml"],
        ["fit", "--recipe=quickstart", "--data=evil.yaml"],
        ["fit", "--recipe=quickstart", "--trainer=evil.yaml"],
        ["fit", "--recipe=quickstart", "--model.r=!!python/object/apply:os.mkdir [owned]"],
        ["fit", "--recipe=quickstart", "--model.vit=!!python/object/apply:os.mkdir [owned]"],
        ["scan", "--recipe=evil.yaml"],
        ["scan", "--recipe=kinetics_vitb", "--data.root=!!python/object/apply:os.mkdir [owned]"],
    ],
    ids=" ".join,
)
def test_yaml_makes_no_objects(words, stranger, capfd):
    Path("evil.yaml").write_text(YAML)
    refused(words, capfd)
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("recipe", "option"),
    [
        ("kinetics_vitb", "data.exclude"),
        ("kinetics_vitb", "data.class_list"),
        ("kinetics_vitb", "data.train_list"),
        ("audioset_vitb", "data.exclude"),
        ("audioset_vitb", "data.label_csv"),
        ("audioset_vitb", "data.train_list"),
        ("imagenet_vitb", "data.train_list"),
        ("imagenet_vitb", "data.class_list"),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "scan"])
def test_lists_are_text(verb, recipe, option, stranger, trained, capfd):
    if verb == "scan" and recipe == "imagenet_vitb":
        pytest.skip("scan has videos and audio")
    evil = Path("evil").absolute()
    write_evil(evil, "pickle", stranger / "owned", trained)
    words = [verb, f"--recipe={recipe}", f"--{option}={evil}", "--data.root=digits"]
    small = "--model.vit.depth=1 --model.vit.embed_dim=24 --model.vit.num_heads=2".split()
    words += (
        ["--model.checkpoint=null", "--trainer.accelerator=cpu", *small] if verb == "fit" else []
    )
    refused(words, capfd)
    assert not Path("owned").exists()


def test_a_run_s_config_is_text(stranger, trained, capfd):
    """The config of a run to go on in is not looked at, or safely."""
    shutil.copytree(trained, "run")
    Path("run/config.yaml").write_text(YAML)
    for name in ("summary.json", "bad_files.json", "non_finite.json"):
        Path("run", name).write_bytes(pickle.dumps(Payload(stranger / "owned")))
    main(["fit", *QUICK, "--data.root=digits", "--resume=run", "--trainer.max_steps=2"])
    capfd.readouterr()
    assert not Path("owned").exists()


def test_the_payload_would_run(stranger, trained):
    """Else none of the above would say anything."""
    for number, kind in enumerate((*KINDS, "npz")):
        target, path = stranger / f"owned{number}", Path(f"evil{number}.npz")
        write_evil(path, kind, target, trained)
        if kind == "npz":
            np.load(path, allow_pickle=True)["weights"]
        elif kind == "pickle":
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        assert target.is_dir()
