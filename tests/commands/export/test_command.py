"""``export``: what is told and what is refused."""

import re
import sys
from pathlib import Path

import lightning
import pytest
import torch

from tome_lightning.__main__ import main as command_line
from tome_lightning.commands.export import ExportMismatchError, export
from tome_lightning.finetune import FineTune
from tome_lightning.inputs import Image
from tome_lightning.tasks import SingleLabel


def main(words: list[str]) -> int:
    return command_line(["export", *words])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's checkpoint, never trained."""
    vit = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    module = FineTune(Image(28, 4, 1), SingleLabel(5), vit=vit, r=8, prop_attn=True)
    saved = {
        "epoch": 0, "global_step": 1, "pytorch-lightning_version": lightning.__version__,
        "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams),
    }  # fmt: skip
    module.on_save_checkpoint(saved)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.save(saved, path)
    return path


def test_weights_are_written_and_the_way_to_load_them_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "model.safetensors"
    assert main(["--ckpt", str(run), "--out", str(out), "--r", "6:-1.0"]) == 0
    told = capsys.readouterr().out
    assert f"Wrote {out}: 0.1 MiB" in told
    assert "50 -> 38 tokens" in told
    assert "largest difference 0.0e+00" in told
    assert "vit = VisionTransformer(img_size=28, patch_size=4" in told
    assert "load_file(" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--out model.bin", r"model\.bin says by its suffix no format .* \.onnx \(onnx\)"),
        ("--out model.onnx --format onxn", r"no format 'onxn'. Nearest: onnx\."),
        ("--out model.onnx --format torch", r"is onnx by its suffix, not torch.*\.pt2"),
        ("--out model --format torch", r"Name model\.pt2"),
        ("--out model.pt2 --no-scatter", "--no-scatter is for ONNX"),
        ("--out model.safetensors --opset 18", "--opset is for ONNX"),
        ("--out model.onnx --opset 99", "--opset is 18 to 23, got 99"),
        ("--out model.safetensors --dynamic-batch", "no batch size"),
        ("--out model.pt2 --batch-size 0", "1 or more, got 0"),
        ("--out model.pt2 --batch-size 2 --dynamic-batch", "exclude each other"),
        ("--out nowhere/model.pt2", "there is no folder nowhere"),
        ("--out there.pt2", r"there\.pt2 is there already.*--force"),
        ("--out model.pt2 --r 25", "a block can merge at most 24"),
        ("--out model.pt2 --r many", "--r is tokens merged per block"),
        ("--out model.pt2 --img-size 32", "--img-size is for --model"),
        ("--out model.pt2 --random-weights", "--random-weights goes with"),
        ("--outt model.pt2", r"Unknown option|required"),
        ("", "--out"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    words: str,
    told: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    Path("there.pt2").write_text("there")
    assert main(["--ckpt", str(run), *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(told, err), err
    assert [path.name for path in tmp_path.iterdir()] == ["there.pt2"]


def test_missing_packages_are_named_with_the_command_that_installs_them(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    for name in ("onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["--ckpt", str(run), "--out", str(tmp_path / "model.onnx")]) == 2
    err = capsys.readouterr().err
    assert 'needs onnxscript, onnxruntime, not installed here: pip install "tome_lightning[' in err
    assert not list(tmp_path.iterdir())


def test_a_mismatch_is_one_line_and_ours(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def differs(*_: object) -> None:
        raise ExportMismatchError("The file's logits differ by 3.")

    monkeypatch.setattr(export, "check_weights", differs)
    out = tmp_path / "model.safetensors"
    assert main(["--ckpt", str(run), "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert err == f"error: The file's logits differ by 3. {out} was not written.\n"
    assert not list(tmp_path.iterdir())


def test_neither_a_folder_nor_a_foreign_file_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = tmp_path / "notes.ckpt"
    text.write_text("no checkpoint")
    for name in (str(tmp_path), str(text), "missing.ckpt"):
        assert main(["--ckpt", name, "--out", str(tmp_path / "model.pt2")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "model.pt2").exists()
