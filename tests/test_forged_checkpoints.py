"""A checkpoint or a run folder of a stranger makes no class, runs no command and writes nowhere.

Every form is tried on every verb that reads such files. `evil.py` lies in the working folder and leaves a
mark when it is imported; `touch` leaves the same one.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tome_lightning.__main__ import main

from .kill_and_resume import write_some_digits

QUICK = (
    "--recipe=quickstart --model.vit.depth=1 --model.vit.embed_dim=24 --model.vit.num_heads=2 "
    "--trainer.max_steps=1 --trainer.limit_val_batches=1 --data.batch_size=4 "
    "--trainer.enable_progress_bar=false --trainer.accelerator=cpu --tome.compare_dense=0"
).split()
EVIL = """\
import pathlib
from lightning.pytorch import Callback, LightningDataModule
pathlib.Path(__file__).with_name("owned").touch()
class Evil(Callback, LightningDataModule):
    def __init__(self, *args, **kwargs):
        pass
"""
TOUCH = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "owned"]}}
HERE = {"class_path": "evil.Evil"}
BEST = "theirs/checkpoints/best.ckpt"
VERBS = {
    "fit": ["fit", "--resume=theirs"],
    "fit with its recipe": ["fit", *QUICK, "--data.root=digits", "--resume=theirs"],
    "test": ["test", f"--ckpt_path={BEST}"],
    "validate": ["validate", f"--ckpt_path={BEST}"],
    "predict": ["predict", f"--ckpt_path={BEST}"],
    "sweep": ["sweep", f"--ckpt_path={BEST}", "--r", "0", "--rounds=1", "--limit=1"],
    "visualize": ["visualize", "--ckpt", BEST, "--input", "digit.png", "--out", "groups.png"],
    "export": ["export", "--ckpt", BEST, "--out", "model.safetensors"],
    "inspect": ["inspect", BEST],
    "compare": ["compare", "theirs", "theirs"],
    "benchmark": ["benchmark", "--end-to-end", *QUICK, "--data.root=digits", f"--ckpt_path={BEST}"],
}
ALL = [
    pytest.param(verb, marks=[] if verb in ("fit", "inspect") else pytest.mark.slow)
    for verb in VERBS
]


def ours(section: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Replaces a part of what a run of ours says of itself."""
    return lambda saved: saved["tome_lightning"].update({section: value})


def trainer(**options: Any) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved["tome_lightning"]["trainer"].update(options)


def data(**arguments: Any) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved["tome_lightning"]["data"]["init_args"].update(arguments)


def model(**options: Any) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved["hyper_parameters"].update(options)


CLASSES = {
    # a class-typed field as text
    "data as YAML": ours("data", "class_path: evil.Evil\ninit_args: {}"),
    "data as YAML of a command": ours("data", f"{TOUCH}"),
    "data as YAML of a class in ours": ours(
        "data", "{class_path: datamodules.Digits, init_args: {root: {class_path: evil.Evil}}}"
    ),
    "data as a name": ours("data", "evil.Evil"),
    "input as YAML": model(input="{class_path: evil.Evil}"),
    "task as a name": model(task="evil.Evil"),
    "schedule as YAML": ours("tome", {"schedule": "{class_path: evil.Evil}"}),
    # within what is ours
    "a class in a data module's argument": data(root=TOUCH),
    "a class in a list of its arguments": data(mean=[HERE]),
    "a class in the ViT's arguments": model(vit={"depth": 1, "block_fn": HERE}),
    "a class in r": model(r=HERE),
    # names that reach further than they look
    "dotted keys": trainer(**{"strategy.class_path": "evil.Evil"}),
    "dotted keys of a callback": trainer(**{"callbacks.class_path": "evil.Evil", "callbacks": {}}),
    "a dotted hyper-parameter": model(**{"input.class_path": "evil.Evil"}),
    "a dotted section of data": ours(
        "data", {"class_path": "datamodules.Digits", "init_args.root": HERE}
    ),
    # tuples
    "a tuple of callbacks": trainer(callbacks=(HERE,)),
    "a tuple of loggers": trainer(logger=(HERE,)),
    "data as a tuple": ours("data", ("evil.Evil",)),
    "a tuple of plugins": trainer(plugins=("evil.Evil",)),
    # strings with a file of that name beside
    "strategy": trainer(strategy="evil.Evil"),
    "accelerator": trainer(accelerator="evil.Evil"),
    "profiler": trainer(profiler="evil.Evil"),
    "callbacks": trainer(callbacks=["evil.Evil"]),
    "plugins": trainer(plugins="evil.Evil"),
    # under a prefix that is trusted
    "a re-export of ours": ours(
        "data", {**TOUCH, "class_path": "tome_lightning.environment.subprocess.Popen"}
    ),
    "a re-export of the data's": ours(
        "data", {**TOUCH, "class_path": "datamodules.cache.os.system"}
    ),
    "a class of ours that is no data": ours("data", {"class_path": "tome_lightning.peers.Peers"}),
    "a private one": model(
        input={"class_path": "tome_lightning.inputs.partial", "init_args": HERE}
    ),
    # Lightning's that take functions
    "a callback of functions": trainer(
        callbacks=[
            {
                "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                "init_args": {"on_fit_start": "evil.Evil"},
            }
        ]
    ),
    "a strategy of objects": trainer(
        strategy={
            "class_path": "lightning.pytorch.strategies.DDPStrategy",
            "init_args": {"x": HERE},
        }
    ),
    "weight averaging of functions": trainer(
        callbacks=[
            {
                "class_path": "lightning.pytorch.callbacks.WeightAveraging",
                "init_args": {"avg_fn": "evil.Evil"},
            }
        ]
    ),
    # Lightning's own ways to make a module
    "an instantiator": model(_instantiator="evil.Evil"),
    "a class to make": model(_class_path="evil.Evil"),
    "another name of the hyper-parameters": lambda saved: saved.update(hparams_name="vit"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with digits and the run directory of one step."""
    folder = tmp_path_factory.mktemp("trained")
    write_some_digits(folder / "digits", {"train": 1, "val": 1})
    words = ["fit", *QUICK, f"--data.root={folder / 'digits'}", f"--run_dir={folder / 'run'}"]
    assert main(words) == 0
    return folder


@pytest.fixture
def stranger(tmp_path, monkeypatch, trained, capfd) -> Path:
    """A working folder with data, a run of somebody else in `theirs`, and what would leave a mark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    shutil.copytree(trained / "digits", "digits")
    shutil.copytree(trained / "run", "theirs")
    Path("evil.py").write_text(EVIL)
    Image.new("L", (28, 28), 90).save("digit.png")
    capfd.readouterr()
    return tmp_path


def forge(change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the checkpoints of the run say."""
    for name in ("best", "last"):
        path = Path(f"theirs/checkpoints/{name}.ckpt")
        saved = torch.load(path, weights_only=True)
        change(saved)
        torch.save(saved, path)


def run(verb: str, capfd: pytest.CaptureFixture) -> tuple[int, str]:
    """The exit code of a verb and what it has said, which is no traceback."""
    code = main(VERBS[verb])
    captured = capfd.readouterr()
    told = captured.out + captured.err
    assert code in (0, 1, 2), told
    assert "Traceback" not in told
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == (code == 2), told
    return code, told


@pytest.mark.parametrize("verb", ALL)
@pytest.mark.parametrize("form", CLASSES)
def test_no_class_is_made_because_a_checkpoint_names_it(form, verb, stranger, capfd):
    forge(CLASSES[form])
    run(verb, capfd)
    assert not Path("owned").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_an_honest_run_is_read_by_all_of_them(verb, stranger, capfd):
    """Else the others would say nothing."""
    assert run(verb, capfd)[0] == 0


def test_the_marks_would_be_left(stranger):
    import subprocess

    assert not Path("owned").exists()
    subprocess.run(TOUCH["init_args"]["args"], check=True)
    assert Path("owned").exists()
    Path("owned").unlink()
    __import__("evil")
    assert Path("owned").exists()
