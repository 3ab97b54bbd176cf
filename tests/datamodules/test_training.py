"""The data modules in the hands of Lightning: command line, resume, prediction."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer

from datamodules import Digits, ImageNet


class Recorder(LightningModule):
    """Learns nothing of note and writes down the ids and pixel sums it is shown."""

    def __init__(self, save_at: int = 0, path: Path | None = None) -> None:
        super().__init__()
        self.save_at, self.path = save_at, path
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, list[int], float]] = []

    def training_step(self, batch: tuple[torch.Tensor, ...], index: int) -> torch.Tensor:
        x, _, ids = batch
        self.seen.append((self.current_epoch, ids.tolist(), float(x.double().sum())))
        return self.layer(x.mean().reshape(1)).sum()

    def on_train_batch_end(self, *unused: Any) -> None:
        if self.global_step == self.save_at and self.path is not None:
            self.trainer.save_checkpoint(self.path)

    def validation_step(self, batch: Any, index: int) -> None: ...

    def predict_step(self, batch: tuple[torch.Tensor, ...], index: int) -> torch.Tensor:
        return batch[2]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(folder: Path, **settings: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0, **settings,
    )  # fmt: skip


def data(root: Path, workers: int = 0) -> ImageNet:
    return ImageNet(str(root), batch_size=4, size=8, num_workers=workers)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(("workers", "stop"), [(0, 2), (2, 6), (0, 4)])
def test_a_resumed_run_sees_what_the_uninterrupted_one_saw(
    make_folder, tmp_path: Path, workers: int, stop: int
) -> None:
    """4 batches an epoch: stopped in epoch 0, in epoch 1, and after the last batch of epoch 0."""
    path = tmp_path / "stopped.ckpt"
    whole, rest = Recorder(save_at=stop, path=path), Recorder()
    root = make_folder()
    trainer(tmp_path, max_epochs=3).fit(whole, datamodule=data(root, workers))
    assert [epoch for epoch, _, _ in whole.seen] == [0] * 4 + [1] * 4 + [2] * 4
    # the strict loader of torch: nothing but plain values may be in the checkpoint
    saved = torch.load(path, weights_only=True)
    assert saved["ImageNet"]["class_names"] == ["ant", "bee", "cat"]
    trainer(tmp_path, max_epochs=3).fit(rest, datamodule=data(root, workers), ckpt_path=path)
    assert rest.seen == whole.seen[stop:]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_prediction_hands_out_every_id_once(make_folder, tmp_path: Path) -> None:
    module = data(make_folder())
    ids = trainer(tmp_path).predict(Recorder(), datamodule=module)
    assert ids is not None
    assert torch.cat(ids).tolist() == list(range(6))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [ImageNet, Digits])
def test_the_command_line_builds_it_from_plain_values(kind: type, tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "data")
    config = parser.parse_args([f"--data.root={tmp_path}", "--data.scale=[0.5, 1]"])
    again = parser.parse_string(parser.dump(config))  # what a saved config holds can be read
    module = parser.instantiate_classes(again).data
    assert isinstance(module, kind)
    assert module.root == str(tmp_path)
    assert module._train_transform.transforms[0].scale == (0.5, 1.0)


def test_every_argument_is_explained_in_the_help() -> None:
    for kind in (ImageNet, Digits):
        parser = ArgumentParser()
        parser.add_class_arguments(kind, "data")
        unexplained = [a.dest for a in parser._actions if a.dest != "help" and not a.help]
        assert unexplained == []


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, datamodules; print({'torch', 'lightning', 'timm'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
