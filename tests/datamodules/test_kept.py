"""Long lists are made once a machine, and never stand for a tree that has changed."""

import json
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from datamodules import kept, witness
from datamodules.cache import cache_folder
from datamodules.filelist import FileList
from datamodules.kept import Listing, folder_listed_once, list_read_once, listed_once
from datamodules.witness import Witness, file_system

LABELS = {"ant": 0, "bee": 1}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures, whose list is worth keeping, with a cache of their own."""
    monkeypatch.setenv("TOME_LIGHTNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "WORTH", 1)
    monkeypatch.setattr(witness, "SETTLED", 0)
    for name in ("ant/1.png", "ant/deep/2.png", "bee/3.png", "bee/notes.txt"):
        file = tmp_path / "data/train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    time.sleep(0.02)  # a tick of the clock of files
    return tmp_path / "data"


def listed(root: Path, asked: float | None = None) -> tuple[list[str], str]:
    files, told = folder_listed_once(root, "train", LABELS, (".png",), asked or time.time())
    return [files.path(row) for row in range(len(files))], told


def is_read_anew(root: Path, monkeypatch: pytest.MonkeyPatch, asked: float | None = None) -> bool:
    calls: list[object] = []
    real = kept.scan_folder

    def scan(*words: object) -> FileList:
        calls.append(words)
        return real(*words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(kept, "scan_folder", scan)
        listed(root, asked)
    return bool(calls)


needs_proof = pytest.mark.skipif(
    file_system("/tmp") not in witness.LOCAL,
    reason="needs a file system whose times prove something",
)


@needs_proof
def test_a_later_start_reads_no_folder_and_has_the_same_list(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = listed(root)
    assert first[0] == ["train/ant/1.png", "train/ant/deep/2.png", "train/bee/3.png"]
    assert first[1] == "left out: 1 files with other endings (.txt 1)"
    assert not is_read_anew(root, monkeypatch)
    assert listed(root) == first


def add(folder: Path) -> None:
    (folder / "new.png").touch()


def remove(folder: Path) -> None:
    next(folder.glob("*.png")).unlink()


def rename(folder: Path) -> None:
    next(folder.glob("*.png")).rename(folder / "other.png")


def replace(folder: Path) -> None:
    folder.rename(folder.with_name("before"))
    folder.mkdir()
    (folder / "2.png").touch()


@needs_proof
@pytest.mark.parametrize("change", [add, remove, rename, replace])
@pytest.mark.parametrize("folder", ["train/ant/deep", "train/bee"])
def test_whatever_changes_a_tree_is_seen_even_with_its_times_put_back(
    root: Path, change: Callable[[Path], None], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(root)
    before = {path: path.stat() for path in (root / folder, root / folder / "..")}
    change(root / folder)
    for path, was in before.items():  # as tar and rsync do
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    monkeypatch.setenv("TOME_LIGHTNING_CACHE", str(root / "empty"))
    fresh = listed(root)
    monkeypatch.undo()
    monkeypatch.setattr(kept, "WORTH", 1)
    monkeypatch.setattr(witness, "SETTLED", 0)
    monkeypatch.setenv("TOME_LIGHTNING_CACHE", str(root.parent / "cache"))
    assert listed(root) == fresh


@pytest.mark.parametrize("why", ["link", "network", "moment"])
def test_where_nothing_is_proved_files_are_listed_anew_and_that_is_said(
    root: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(kept, "rank_zero_info", told.append)
    if why == "link":
        (root / "train/ant/4.png").symlink_to(root / "elsewhere.png")
    elif why == "network":
        monkeypatch.setattr(witness, "file_system", lambda path: "nfs4")
    else:
        monkeypatch.setattr(witness, "SETTLED", 1e6)
    listed(root)
    expected = {"link": "links to files", "network": "on nfs4", "moment": "a moment ago"}[why]
    assert expected in told[0]
    assert is_read_anew(root, monkeypatch)


def test_ranks_of_one_start_share_a_list_on_any_file_system(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "file_system", lambda path: "nfs4")
    asked = time.time()
    listed(root)
    about = next(cache_folder("lists").glob("*/about.json"))
    written = json.loads(about.read_text())
    about.write_text(json.dumps({**written, "process": written["process"] + 1}))
    assert not is_read_anew(root, monkeypatch, asked)  # another rank's, begun after we asked
    about.write_text(json.dumps({**written, "process": written["process"] + 1}))
    assert is_read_anew(root, monkeypatch, time.time())  # of an earlier start


@needs_proof
def test_of_many_at_once_one_lists(root: Path) -> None:
    made: list[Witness] = []

    def make(seen: Witness) -> Listing[FileList]:
        made.append(seen)
        time.sleep(0.1)
        return Listing(FileList(["a", "b"], [0, 1]), {})

    def ask(_: int) -> str:
        return listed_once(["x"], make, FileList.of_columns, time.time()).files.digest()

    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(ask, range(4)))
    assert (len(made), len(digests)) == (1, 1)


@pytest.mark.parametrize("damage", ["about.json", "labels.npy", "blob.npy", "gone"])
def test_a_damaged_index_is_made_anew(root: Path, damage: str) -> None:
    first = listed(root)
    place = next(path for path in cache_folder("lists").iterdir() if path.is_dir())
    if damage == "gone":
        (place / "offsets.npy").unlink()
    else:
        content = (place / damage).read_bytes()
        (place / damage).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert listed(root) == first


def test_a_cache_that_cannot_be_written_is_no_hindrance(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").touch()
    monkeypatch.setenv("TOME_LIGHTNING_CACHE", str(root / "file"))
    assert len(listed(root)[0]) == 3


def test_another_content_of_a_list_file_is_another_list(root: Path) -> None:
    path = root / "train.csv"
    for text, labels in (("a.png 0\nb.png 1\n", [0, 1]), ("a.png 1\nb.png 0\n", [1, 0])):
        path.write_text(text)
        for _ in range(2):
            assert list_read_once(path, time.time()).labels.tolist() == labels


def test_a_mapped_list_answers_as_one_in_memory(root: Path) -> None:
    first, second = (
        folder_listed_once(root, "train", LABELS, (".png",), time.time())[0] for _ in range(2)
    )
    for array in second.columns().values():  # not copied: memory of all that map the file
        while isinstance(array, np.ndarray):
            array = array.base
        assert isinstance(array, mmap.mmap)
    assert [second[row] for row in range(3)] == [first[row] for row in range(3)]
    assert second.class_counts(2).tolist() == [2, 1]
    assert (
        second.without({"train/ant/1.png"}).digest() == first.without({"train/ant/1.png"}).digest()
    )
