"""torch.export programs and ONNX files, run on batches that they have not seen."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tome_lightning.commands.export import ExportMismatchError, export, export_model
from tome_lightning.commands.export.program import ABOUT
from tome_lightning.commands.loaded import load_model
from tome_lightning.inputs import Clip

from .small import GREY, run_file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_file(tmp_path_factory.mktemp("run") / "best.ckpt", averaged=True)


@torch.no_grad()
def check_onnx(file: Path, model: Any, shape: tuple[int, ...], batches: tuple[int, ...]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in batches:
        x = torch.randn(batch, *shape)
        (logits,) = session.run(["logits"], {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_onnx_of_any_batch_size_without_scatter(run: Path, tmp_path: Path):
    r = [8]  # the second block attends to merged tokens
    onnx = pytest.importorskip("onnx")
    exported = export_model(tmp_path / "model.onnx", ckpt=run, r=r, batch_size=None, scatter=False)
    assert exported.difference.largest <= 1e-4
    assert exported.tokens == (50, 42)
    assert exported.averaged
    model = load_model(ckpt=run, r=r).model
    check_onnx(exported.file, model, GREY.shape, (1, 2, 5))
    saved = onnx.load(exported.file)
    operations = {node.op_type for node in saved.graph.node}
    assert "TopK" in operations
    assert not any("Scatter" in name for name in operations)
    assert not any(node.metadata_props for node in saved.graph.node)
    told = json.loads({prop.key: prop.value for prop in saved.metadata_props}["tome_lightning"])
    assert (told["r"], told["family"]) == (r, "tome")
    weights = sum(value.numel() for value in model.state_dict().values())
    stored = sum(len(value.raw_data) for value in saved.graph.initializer) / 4
    assert weights <= stored <= 1.1 * weights  # each is there once


@torch.no_grad()
def test_onnx_is_the_model(run: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    r = [8]  # the second block attends to merged tokens
    exported = export_model(tmp_path / "model.onnx", ckpt=run, r=r, batch_size=2)
    assert exported.difference.largest <= 1e-4
    assert exported.tokens == (50, 42)
    check_onnx(exported.file, load_model(ckpt=run, r=r).model, GREY.shape, (2,))


@pytest.mark.slow
@pytest.mark.parametrize("r", [0, 8])
def test_onnx_of_clips_with_scatter_and_one_batch_size(r: int, tmp_path: Path):
    clips = Clip(8, 32, 2, 8, "sinusoid", 1)
    run = run_file(tmp_path / "best.ckpt", clips)
    exported = export_model(tmp_path / "model.onnx", ckpt=run, r=r, batch_size=2, opset=18)
    check_onnx(exported.file, load_model(ckpt=run, r=r).model, clips.shape, (2,))


@pytest.mark.slow
def test_large_weights_go_to_a_second_file(run: Path, tmp_path: Path, monkeypatch: Any):
    pytest.importorskip("onnx")
    from tome_lightning.commands.export import onnx

    monkeypatch.setattr(onnx, "ONE_FILE", 1000)
    file = export_model(tmp_path / "model.onnx", ckpt=run).file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    check_onnx(file, load_model(ckpt=run).model, GREY.shape, (1,))


@torch.no_grad()
@pytest.mark.parametrize(
    ("r", "batch"), [(0, None), (8, 2), pytest.param(8, None, marks=pytest.mark.slow)]
)
def test_a_program_is_the_model(r: int, batch: int | None, run: Path, tmp_path: Path):
    exported = export_model(tmp_path / "model.pt2", ckpt=run, r=r, batch_size=batch)
    model = load_model(ckpt=run, r=r).model
    extra = {ABOUT: ""}
    program = torch.export.load(exported.file, extra_files=extra)
    assert json.loads(extra[ABOUT])["r"] == r
    module = program.module()
    for size in (batch,) if batch else (1, 4):
        x = torch.randn(size, *GREY.shape)
        torch.testing.assert_close(module(x), model(x), rtol=1e-5, atol=1e-5)
    assert set(program.state_dict) == set(model.state_dict())  # each weight once
    assert not any("stack_trace" in node.meta for node in program.graph.nodes)
    assert b"site-packages" not in exported.file.read_bytes()


def test_a_program_that_computes_something_else_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: Any
):
    def other(model: Any, shape: Any, batch: Any, about: Any, file: Path) -> None:
        wrong = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, 5))
        torch.export.save(torch.export.export(wrong, (torch.zeros(batch, *shape),)), file)

    monkeypatch.setattr(export, "write_program", other)
    file = tmp_path / "model.pt2"
    file.write_text("what was there")
    with pytest.raises(
        ExportMismatchError, match=r"up to \d\.\de.* what rounding .*\.pt2 was not written"
    ):
        export_model(file, ckpt=run, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert file.read_text() == "what was there"


def test_a_file_is_readable_by_all_and_new(run: Path, tmp_path: Path):
    start = time.time() - 1
    file = export_model(tmp_path / "model.safetensors", ckpt=run).file
    mask = os.umask(0)
    os.umask(mask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~mask
    assert file.stat().st_mtime >= start
