"""Forged checkpoints of a run, and the verbs that read them.

`evil.py` lies in the working folder and leaves a mark when it is imported; `touch` leaves the same one.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from tome_lightning.__main__ import main

Change = Callable[[dict[str, Any]], None]
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
TOUCH = {"class_path": "subprocess.Popen", "init_args": {"args": "touch owned", "shell": True}}
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
QUICKEST = ("fit", "inspect")  # the others are among the slow tests
# Read a checkpoint as `test` or `fit` do, or not at all.
ALIKE = ("validate", "predict", "compare", "benchmark")


def cases(forms: Iterable[str]) -> list[Any]:
    """Every form on every verb; on those that are like another one every sixth."""
    return [
        pytest.param(form, verb, marks=[] if verb in QUICKEST else pytest.mark.slow)
        for number, form in enumerate(forms)
        for verb in VERBS
        if verb not in ALIKE or number % 6 == 0
    ]


def ours(section: str, value: Any) -> Change:
    """Replaces a part of what a run of ours says of itself."""
    return lambda saved: saved["tome_lightning"].update({section: value})


def trainer(**options: Any) -> Change:
    return lambda saved: saved["tome_lightning"]["trainer"].update(options)


def data(**arguments: Any) -> Change:
    return lambda saved: saved["tome_lightning"]["data"]["init_args"].update(arguments)


def model(**options: Any) -> Change:
    return lambda saved: saved["hyper_parameters"].update(options)


def forge(change: Change) -> None:
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
