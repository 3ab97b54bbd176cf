import json
import os
import pathlib
import pickle

import pytest
import torch
from safetensors.torch import save_file

from checkpoints import CheckpointError, load, state_dict_of

WEIGHTS = {"a": torch.arange(3.0), "b": torch.ones(2)}


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def refusal(path):
    with pytest.raises(CheckpointError) as refused:
        state_dict_of(path)
    line = str(refused.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def assert_weights(got):
    assert list(got) == list(WEIGHTS)
    assert all(torch.equal(got[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, zipped):
    flag, path = tmp_path / "ran", tmp_path / "bad.pth"
    content = {"model": WEIGHTS, "extra": Payload(flag)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert f"asks for {os.system.__module__}.system," in refusal(path)
    assert not flag.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, protocol):
    flag, path = tmp_path / "ran", tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps(Payload(flag), protocol=protocol))
    refusal(path)
    assert not flag.exists()


def test_a_pickled_module_is_refused_by_its_class(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    assert "torch.nn.modules.linear.Linear" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_truncated_file_is_called_truncated(tmp_path, name):
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(WEIGHTS, path)
    else:
        save_file(WEIGHTS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 8])
    assert "truncated" in refusal(path)


def test_each_thing_that_is_no_checkpoint_gets_its_own_line(tmp_path):
    (tmp_path / "empty.pth").touch()
    (tmp_path / "page.pth").write_text("<html>Quota exceeded</html>")
    torch.save({"model": {"epoch": 3}}, tmp_path / "bare.pth")
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    assert "0 bytes" in refusal(tmp_path / "empty.pth")
    assert "<html>" in refusal(tmp_path / "page.pth")
    assert "no weights, only epoch" in refusal(tmp_path / "bare.pth")
    assert "holds a Tensor" in refusal(tmp_path / "tensor.pth")
    assert "is a directory" in refusal(tmp_path)
    assert "no file" in refusal(tmp_path / "absent.pth")


def test_a_file_that_may_not_be_opened_says_so(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    torch.save(WEIGHTS, tmp_path / "model.pth")
    monkeypatch.setattr(pathlib.Path, "open", denied)
    assert "cannot be opened" in refusal(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"model": w, "epoch": 3},
        lambda w: {"model_state": w, "cfg": "TRAIN: ..."},
        lambda w: {"module": w},
        lambda w: {"state_dict": w},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {f"module.{name}": value for name, value in w.items()},
        lambda w: {f"_orig_mod.{name}": value for name, value in w.items()},
        lambda w: {"state_dict": {f"model.vit.{name}": value for name, value in w.items()}},
        lambda w: {"state_dict": {f"model._orig_mod.vit.{n}": value for n, value in w.items()}},
    ],
)
def test_wrappers_come_off(tmp_path, wrap):
    torch.save(wrap(WEIGHTS), tmp_path / "model.pth")
    assert_weights(state_dict_of(tmp_path / "model.pth"))


def test_a_container_that_holds_itself_is_refused(tmp_path):
    content = {"a": torch.ones(1)}
    content["model"] = content
    torch.save(content, tmp_path / "loop.pth")
    with pytest.raises(CheckpointError, match="in themselves"):
        state_dict_of(tmp_path / "loop.pth")


def test_old_torch_files_are_read(tmp_path):
    torch.save(WEIGHTS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_weights(state_dict_of(tmp_path / "old.pth"))


@pytest.mark.parametrize("path", [pathlib.PurePosixPath("/a/b"), pathlib.PureWindowsPath("c:/b")])
def test_paths_of_any_system_are_no_obstacle(tmp_path, path):
    torch.save({"model": WEIGHTS, "out": path}, tmp_path / "model.pth")
    assert_weights(state_dict_of(tmp_path / "model.pth"))


@pytest.mark.parametrize("name", ["last.ckpt", "export.safetensors"])
def test_a_checkpoint_of_ours_says_its_family(official, build, tmp_path, name):
    weights, path = official("fine-tuned"), tmp_path / name
    ours = {"family": "tome"}
    if name.endswith("ckpt"):
        state = {f"model.vit.{key}": value for key, value in weights.items()}
        state["loss.weight"] = torch.ones(1)
        torch.save({"state_dict": state, "tome_lightning": ours}, path)
    else:
        save_file(weights, path, metadata={"tome_lightning": json.dumps(ours)})
    vit = build()
    assert load(vit, path).family == "tome"
    assert torch.equal(vit.head.weight, weights["head.weight"])


def test_a_family_nobody_knows_is_refused(official, build, tmp_path):
    content = {"state_dict": official("encoder"), "tome_lightning": {"family": "gpt"}}
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="'gpt'"):
        load(build(), tmp_path / "last.ckpt")
