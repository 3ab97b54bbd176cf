"""Checkpoint files that survive kills, full disks and their own contents."""

import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tome_lightning.trainer.checkpoint_file import (
    AtomicCheckpointIO,
    CheckpointFileError,
    read_header,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def content(number: float = 0.0, numel: int = 1000) -> dict[str, Any]:
    return {
        "state_dict": {"a": torch.full((numel,), number), "b": torch.arange(7, dtype=torch.int16)},
        "epoch": 3,
        "hyper_parameters": {"r": [1, 2], "nested": {"betas": (0.9, 0.999), "checkpoint": None}},
    }


def own_mib() -> int:
    """Memory of this process that no file stands for."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) // 1024


@linux
def test_a_checkpoint_is_mapped_not_copied_and_outlives_its_replacement(tmp_path: Path) -> None:
    """Processes of one machine then share its pages."""
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"state_dict": {"a": torch.ones(2**24)}}, path)  # 64 MiB
    before = own_mib()
    loaded = io.load_checkpoint(path)["state_dict"]["a"]
    assert loaded.sum() == 2**24
    assert own_mib() - before < 16
    io.save_checkpoint({"state_dict": {"a": torch.zeros(3)}}, path)
    loaded[:5] = 7  # private to this process: an optimizer's state on the CPU is the mapping itself
    assert loaded.sum() == 2**24 + 30
    assert io.load_checkpoint(path)["state_dict"]["a"].tolist() == [0, 0, 0]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(1.5), path)
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    torch.testing.assert_close(loaded, content(1.5), rtol=0, atol=0)
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_two_names_in_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    for number in range(3):
        io.save_checkpoint(content(number), tmp_path / "last.ckpt")
        io.save_checkpoint(content(-number), tmp_path / "best.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "last.ckpt"]
    for name, value in (("last", 2), ("best", -2)):
        loaded = io.load_checkpoint(tmp_path / f"{name}.ckpt")
        assert (loaded["state_dict"]["a"] == value).all()


def big(number: int) -> dict[str, Any]:
    return {f"w{i}": torch.full((100_000,), float(number)) for i in range(20)}


@linux
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """Ten children save without pause, each killed a little later than the one before."""
    io, path, cut = AtomicCheckpointIO(), tmp_path / "last.ckpt", 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked child has none of the others, and would wait for them
    io.save_checkpoint(big(0), path)
    for child in range(10):
        pid = os.fork()
        if not pid:
            save_without_pause(path)
        temporary = f".{pid}.tmp"
        time.sleep(0.05 + child * 0.013)
        until = time.monotonic() + 20
        while child % 2 and time.monotonic() < until:  # every other one for certain in a write
            if any(name.endswith(temporary) for name in os.listdir(tmp_path)):
                break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        cut += any(name.endswith(temporary) for name in os.listdir(tmp_path))
        weights = io.load_checkpoint(path)
        assert len({value for w in weights.values() for value in w.unique().tolist()}) == 1
    io.save_checkpoint(big(0), path)
    torch.set_num_threads(threads)
    assert cut > 0  # at least one was in the middle of a write
    assert os.listdir(tmp_path) == ["last.ckpt"]  # and what it left was cleaned up


def save_without_pause(path: Path) -> NoReturn:
    io, number = AtomicCheckpointIO(), 0
    try:
        while True:
            number += 1
            io.save_checkpoint(big(number), path)
    finally:
        os._exit(1)


@contextmanager
def no_file_above(limit: int) -> Iterator[None]:
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@linux
def test_a_file_that_may_not_grow_leaves_the_old_one_and_the_run(tmp_path: Path) -> None:
    """The limit is met in the first record, in a later one, and by a buffer flushed at the end."""
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"w": torch.ones(10)}, path)
    before = path.read_bytes()
    for limit in (0, 100, 10_000, 2_000_000, 8_002_000):
        with pytest.warns(UserWarning, match="CHECKPOINT NOT SAVED"), no_file_above(limit):
            io.save_checkpoint(big(1), path)
        assert path.read_bytes() == before
        assert io.failures.pop(path) == "File too large"
        assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    try:
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("needs the right to mount a tmpfs")
    except FileNotFoundError:
        pytest.skip("needs mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(small_disk: Path) -> None:
    io, path = AtomicCheckpointIO(), small_disk / "last.ckpt"
    io.save_checkpoint(content(1.0), path)
    before = path.read_bytes()
    told = (
        r"CHECKPOINT NOT SAVED: .*last.ckpt could not be written \(No space left on device, "
        r"1 MiB free there\). The previous one, of .*, is as it was; training goes on, .*Free some"
    )
    with pytest.warns(UserWarning, match=told):
        io.save_checkpoint(content(2.0, numel=1_000_000), path)
    assert path.read_bytes() == before
    assert os.listdir(small_disk) == ["last.ckpt"]
    assert io.failures == {path: os.strerror(errno.ENOSPC)}
    io.save_checkpoint(content(3.0), path)  # a later success clears it
    assert io.failures == {}
    assert io.load_checkpoint(path)["state_dict"]["a"][0] == 3


def test_contents_that_cannot_be_saved_leave_the_old_checkpoint(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint(content(), path)
    before = path.read_bytes()
    with pytest.warns(UserWarning, match="NOT SAVED.*Error: .*pickle"):
        io.save_checkpoint(content() | {"callback": lambda: None}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    io, path = AtomicCheckpointIO(), tmp_path / "file" / "last.ckpt"
    with pytest.warns(UserWarning, match=r"File exists.*There is no earlier one"):
        io.save_checkpoint(content(), path)
    assert list(io.failures) == [path]


def test_contents_that_safe_loading_refuses_are_told_at_the_first_save(tmp_path: Path) -> None:
    """torch's own version looks like a string and is none."""
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    with pytest.warns(UserWarning, match=r"cannot be loaded again: .*\(torch.*TorchVersion\)"):
        io.save_checkpoint(content() | {"version": torch.__version__}, path)
    assert io.failures == {}
    assert path.exists()  # for who must have the weights


class Interrupting:
    """Pickling it is when the user presses Ctrl-C."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


def test_an_interrupt_passes_through_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint(content(), path)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"a": Interrupting()}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_an_interrupt_that_torch_hides_passes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a write torch raises a RuntimeError of its own."""

    def save(*_: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected pos")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint(content(), tmp_path / "last.ckpt")
    assert os.listdir(tmp_path) == []


def test_a_failure_while_an_interrupt_is_handled_is_only_a_failure(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    (tmp_path / "file").touch()
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.warns(UserWarning, match="File exists"):
            io.save_checkpoint(content(), tmp_path / "file" / "last.ckpt")


def test_only_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = socket.gethostname()
    stays = {
        f".best.ckpt.{host}.{os.getppid()}.tmp",  # it runs
        f".last.ckpt.elsewhere.{ended.pid}.tmp",  # it may run there
        ".mine.tmp", f"last.ckpt.{host}.{ended.pid}.tmp", "notes.txt",  # not ours
    }  # fmt: skip
    goes = {f".last.ckpt.{host}.{ended.pid}.tmp", ".last.ckpt.elsewhere.7.tmp"}
    for name in stays | goes:
        (tmp_path / name).touch()
    old = time.time() - 2 * 24 * 60 * 60
    os.utime(tmp_path / ".last.ckpt.elsewhere.7.tmp", (old, old))
    AtomicCheckpointIO().save_checkpoint(content(), tmp_path / "last.ckpt")
    assert set(os.listdir(tmp_path)) == stays | {"last.ckpt"}


class Tiny(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters())


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*GPU available")
def test_the_trainer_saves_and_resumes_through_it(tmp_path: Path) -> None:
    def trainer(epochs: int) -> Trainer:
        return Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, plugins=[AtomicCheckpointIO()],
        )  # fmt: skip

    loader = DataLoader(list(torch.ones(4, 2)))
    first, module, path = trainer(1), Tiny(), tmp_path / "last.ckpt"
    first.fit(module, loader)
    first.save_checkpoint(path)
    second = trainer(2)
    second.fit(module, loader, ckpt_path=path)
    assert second.global_step == 8


def test_unsafe_loading_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(), path)
    with pytest.raises(ValueError, match="any program"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert AtomicCheckpointIO().load_checkpoint(path, weights_only=None)["epoch"] == 3


def test_the_header_has_the_values_and_shapes_without_data(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(), path)
    header = read_header(path)
    assert header["hyper_parameters"] == content()["hyper_parameters"]
    assert header["state_dict"]["a"].is_meta
    assert header["state_dict"]["a"].shape == (1000,)


def refusals(path: Path) -> list[str]:
    """Why each way to load refuses a file."""
    reasons = []
    for load in (read_header, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(CheckpointFileError) as caught:
            load(path)
        assert "\n" not in str(caught.value)
        reasons.append(str(caught.value))
    assert reasons[1] == f"{path} cannot be loaded: {reasons[0]}."
    return reasons


def test_a_checkpoint_cut_anywhere_is_called_truncated(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(), path)
    whole = path.read_bytes()
    start = time.monotonic()
    for length in [1, 3, *range(4, len(whole), len(whole) // 20), len(whole) - 22, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert refusals(path)[0] == "it is truncated"
    path.write_bytes(b"")
    assert refusals(path)[0] == "it is empty"
    assert time.monotonic() - start < 10  # it takes 0.1 s


class Payload:
    """Runs a program when it is unpickled the usual way."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f'echo ran > "{self.proof}"',)


def write_foreign(kind: str, path: Path, proof: Path) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("weights\n")
    elif kind == "html":
        path.write_text("<!DOCTYPE html><title>Sign in</title>" * 100)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Payload(proof)}))
    elif kind == "old format":
        torch.save({"a": Payload(proof)}, path, _use_new_zipfile_serialization=False)
    elif kind == "payload":
        torch.save(content() | {"callbacks": Payload(proof)}, path)
    elif kind == "module":
        torch.save({"model": nn.Linear(2, 2)}, path)
    elif kind == "tensor":
        torch.save(torch.ones(2), path)
    elif kind == "safetensors":
        save_file({"a": torch.ones(2)}, path)
    elif kind in ("zip", "empty zip"):
        with zipfile.ZipFile(path, "w") as archive:
            if kind == "zip":
                archive.writestr("folder/a.txt", "hello")
    elif kind == "damaged":
        torch.save(content(), path)
        whole = bytearray(path.read_bytes())
        place = whole.index(b"data.pkl") + 80
        whole[place : place + 60] = b"\xff" * 60
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "it cannot be read (No such file or directory)"),
        ("folder", "it is a folder"),
        ("text", "it is no PyTorch checkpoint (it starts with b'weights"),
        ("html", "it is no PyTorch checkpoint (it starts with b'<!DOCTYPE html>"),
        ("pickle", "it is no PyTorch checkpoint"),
        ("old format", "it is no PyTorch checkpoint"),
        ("payload", "it holds objects that safe loading refuses (posix.system)"),
        ("module", "it holds objects that safe loading refuses (torch.nn.modules.linear.Linear)"),
        ("tensor", "it holds a Tensor, not a checkpoint"),
        ("safetensors", "it is no PyTorch checkpoint"),
        ("zip", "it is damaged, or a zip file that is no checkpoint"),
        ("empty zip", "it is no PyTorch checkpoint"),
        ("damaged", "it is damaged"),
    ],
)
def test_a_foreign_file_is_refused_in_one_line_and_nothing_of_it_runs(
    tmp_path: Path, kind: str, reason: str
) -> None:
    path, proof = tmp_path / "last.ckpt", tmp_path / "ran"
    write_foreign(kind, path, proof)
    if os.name == "nt":
        reason = reason.replace("posix", "nt")
    assert refusals(path)[0].startswith(reason)
    assert not proof.exists()


@linux
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    os.mkfifo(path)
    assert refusals(path)[0] == "it is no regular file"
