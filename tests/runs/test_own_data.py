"""A data set from outside: a class in a user's own module, which his recipe names."""

import json
from pathlib import Path

import numpy as np
import pytest

from tome_lightning.__main__ import main

MODULE = '''
from functools import partial
from pathlib import Path

import numpy as np
import torch

from datamodules.base import LabelledData
from datamodules.filelist import FileList
from datamodules.samples import Samples


def read(path):
    return torch.from_numpy(np.load(path))


def with_noise(x, amount):
    return x + amount * torch.randn_like(x)


class Shades(LabelledData):
    """Squares of two shades, a file each: root/<split>/<shade>-<number>.npy."""

    class_names = ["dark", "light"]

    def __init__(self, root: str, batch_size: int = 4, num_workers: int = 0) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        self.root = root

    def check(self, stage=None):
        """Nothing is looked at before the files are listed."""

    def build(self, split):
        folder = "train" if split == "train" else "val"
        names = sorted(path.name for path in Path(self.root, folder).iterdir())
        files = FileList([f"{folder}/{name}" for name in names], ["light" in name for name in names])
        train = split == "train"
        transform = partial(with_noise, amount=0.1) if train else lambda x: x[None]
        return Samples(split, self.root, files, read, transform, seed=self.seed, evaluation=not train)
'''
RECIPE = """
model:
  input: {class_path: tome_lightning.inputs.Image, init_args: {size: 16, patch: 4, channels: 1}}
  task: {class_path: tome_lightning.tasks.SingleLabel, init_args: {num_classes: 2}}
  vit: {depth: 2, embed_dim: 16, num_heads: 2}
  r: 2
  lr: 1.0e-2
data: {class_path: own_shades.Shades, init_args: {root: shades}}
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false, num_sanity_val_steps: 0}
"""


@pytest.fixture
def shades(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own_shades.py").write_text(MODULE)
    Path("shades.yaml").write_text(RECIPE)
    for split, count in (("train", 12), ("val", 3)):
        Path("shades", split).mkdir(parents=True)
        for number in range(count):
            for name, shade in (("dark", -1.0), ("light", 1.0)):
                square = np.full((1, 16, 16), shade, dtype=np.float32)
                np.save(f"shades/{split}/{name}-{number}.npy", square)
    return tmp_path


def test_it_trains_goes_on_and_is_measured_like_ours(shades, capsys):
    assert main("fit --recipe shades.yaml --run_dir run".split()) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["metrics"]["top1"] == 1.0
    assert main("fit --recipe shades.yaml --resume run --trainer.max_epochs 3".split()) == 0
    line = "--recipe shades.yaml --ckpt_path run/checkpoints/last.ckpt"
    assert main(f"test {line}".split()) == 0
    assert main(f"sweep {line} --r 2 --json sweep.json".split()) == 0
    assert [row["r"] for row in json.loads(Path("sweep.json").read_text())] == [0, 2]


def test_a_checkpoint_does_not_import_it_unless_the_user_names_it(shades, capsys):
    assert main("fit --recipe shades.yaml --run_dir run --trainer.max_epochs 1".split()) == 0
    assert main("test --ckpt_path run/checkpoints/last.ckpt".split()) == 2
    assert "own_shades.Shades" in capsys.readouterr().err
