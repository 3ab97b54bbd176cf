"""What may be done with weights, as far as it is known."""

from pathlib import Path

import torch

from checkpoints.licence import licence_of
from checkpoints.reading import read
from tome_lightning.commands.export.export import export_model
from tome_lightning.commands.loaded import load_model

from ..tome.tiny import tiny_vit
from .export.small import run_file


def test_a_licence_follows_the_weights_through_runs_and_files(tmp_path: Path):
    source = tmp_path / "mae_pretrain_vit_base.pth"
    vit = tiny_vit(num_classes=0)
    torch.save({"model": vit.state_dict()}, source)
    first = run_file(tmp_path / "first.ckpt", checkpoint=str(source))
    second = run_file(tmp_path / "second.ckpt", checkpoint=str(first))
    assert "CC-BY-NC" in str(load_model(ckpt=second).licence)
    exported = export_model(tmp_path / "second.safetensors", ckpt=second)
    assert "licence: weights of mae_pretrain_vit_base" in "\n".join(exported.lines())
    assert licence_of(exported.file) == exported.licence
    own = run_file(tmp_path / "own.ckpt")
    assert load_model(ckpt=own).licence is None
    own_lines = export_model(tmp_path / "own.safetensors", ckpt=own).lines()
    assert not any(line.startswith("  licence:") for line in own_lines)


def test_averaged_weights_are_told(tmp_path: Path):
    assert not load_model(ckpt=run_file(tmp_path / "last.ckpt")).averaged
    averaged = run_file(tmp_path / "averaged.ckpt", averaged=True)
    assert load_model(ckpt=averaged).averaged
    lines = export_model(tmp_path / "averaged.safetensors", ckpt=averaged).lines()
    assert any("averaged weights" in line for line in lines)
    assert read(tmp_path / "averaged.safetensors").averaged
