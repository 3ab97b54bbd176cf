"""Data sets by name, from a server of this machine that answers as the Hub does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from datamodules.errors import DataError
from datamodules.shards import hub as hub_module
from datamodules.shards.hub import Place, fetch, is_hub, parse
from datamodules.shards.layout import splits
from datamodules.shards.member import opened
from datamodules.shards.tables import class_names, table_rows

from ...hub_server import COMMIT, OTHER, hub_of
from .hf_tables import CLASSES, IMAGES, parquet, pictures, png
from .test_layout import AUDIOSET, AUDIOSET_FILES, tree

ERRORS = {"datasets/owner/gated": (403, "GatedRepo"), "datasets/owner/broken": (400, "")}
ROOT = "hf://datasets/owner/small"
BRANCH = "small@refs%2Fconvert%2Fparquet"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of data sets; the client's cache is empty."""
    with hub_of(tmp_path, monkeypatch, ERRORS) as root:
        (root / "datasets" / "owner" / "small").mkdir(parents=True)
        yield root / "datasets" / "owner"


def fetched(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_a_data_set_is_fetched_and_read(hub: Path):
    (hub / "small" / "data").mkdir()
    parquet(pictures(6), hub / "small" / "data" / "train-00000-of-00001.parquet")
    parquet(pictures(3, 1), hub / "small" / "data" / "validation-00000-of-00001.parquet")
    tree(hub / "small", "small.py", "pictures.zip", "extra/train-0.parquet", readme="# Small")
    folder = fetch(ROOT)
    assert fetched(folder) == [
        "README.md", "data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet",
    ]  # fmt: skip
    (shard,) = splits(folder)["val"]
    assert class_names(shard, IMAGES) == CLASSES
    rows = list(table_rows(shard, shard.name, IMAGES))
    with opened(str(shard.parent / rows[2].path)) as file:
        assert file.read() == png(1002)
    assert rows[2].labels == ("hen, common",)


def test_only_the_configuration_and_the_splits_asked_for_are_fetched(hub: Path):
    tree(hub / "small", *AUDIOSET_FILES, readme=AUDIOSET)
    balanced = fetch(ROOT)
    assert fetched(balanced) == ["README.md", "data/bal_train00.parquet", "data/eval00.parquet"]
    full = fetch(ROOT, "full", ["train"])
    assert fetched(full) == sorted(["README.md", *AUDIOSET_FILES])
    with pytest.raises(DataError, match=r"hf://.* no configuration 'none'; it has balanced, full"):
        fetch(ROOT, "none")


def test_one_split_alone(hub: Path):
    tree(hub / "small", "train-0.tar", "train-1.tar", "test-[0].tar")
    assert fetched(fetch(ROOT, splits=["val"])) == ["test-[0].tar"]  # test where there is no val
    assert fetched(fetch(ROOT, splits=["train"])) == ["test-[0].tar", "train-0.tar", "train-1.tar"]
    (hub / "small" / "test-[0].tar").unlink()


def test_a_folder_and_a_revision(hub: Path):
    tree(hub / "small", "cut/train-0.tar", "cut/README.md", "train-9.tar")
    assert fetched(fetch(f"{ROOT}@{COMMIT}/cut")) == ["README.md", "train-0.tar"]
    tree(hub / "small@v1.0", "val-0.tar")
    assert fetched(fetch(f"{ROOT}@v1.0")) == ["val-0.tar"]


def test_a_folder_of_the_repository_is_a_configuration(hub: Path):
    tree(hub / "small", "big/train/0.parquet", "big/val/0.parquet", "train-0.tar")
    assert set(splits(fetch(ROOT, "big"), "big")) == {"train", "val"}


def test_what_save_to_disk_wrote(hub: Path, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    data = pictures(4)
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(hub / "small")
    folder = fetch(ROOT, splits=["train"])
    assert set(splits(folder)) == {"train", "test"}


def test_the_hubs_conversion_stands_for_what_is_in_no_shards(
    hub: Path, monkeypatch: pytest.MonkeyPatch
):
    tree(hub / "small", "small.py", "images.zip", readme="# Small")
    tree(
        hub / BRANCH,
        "default/partial-train/0000.parquet",
        "default/val/0.parquet",
        "b/val/0.parquet",
    )
    lines: list[str] = []
    monkeypatch.setattr(hub_module, "rank_zero_warn", lines.append)
    folder = fetch(ROOT)
    assert OTHER in str(folder)
    assert {split: len(paths) for split, paths in splits(folder).items()} == {"train": 1, "val": 1}
    assert lines == [f"{ROOT}: the Hub has converted only the first 5 GB of partial-train"]
    assert set(splits(fetch(ROOT, "b"), "b")) == {"val"}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(ROOT) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match="no configuration 'c'; it has b, default"):
        fetch(ROOT, "c")


def test_what_is_in_the_cache_needs_no_network(hub: Path, monkeypatch: pytest.MonkeyPatch):
    tree(hub / "small", *AUDIOSET_FILES, readme=AUDIOSET)
    folder = fetch(ROOT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(ROOT) == folder
    assert len(splits(folder)["train"]) == 1
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch(ROOT, "full")  # of which a part is in the cache


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "is not on the Hub, or is private"),
        ("small@old", "has no revision old"),
        ("gated", "asks for its terms to be accepted"),
        ("broken", "cannot be fetched .*hf download owner/broken --repo-type dataset"),
        ("small", "holds no tar, Parquet or Arrow files, and the Hub has not converted it"),
        ("small/data", "holds no tar, Parquet or Arrow files"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(hub: Path, name: str, words: str):
    tree(hub / "small", "images.zip", "small.py")
    with pytest.raises(DataError, match=words) as refusal:
        fetch(f"hf://datasets/owner/{name}")
    assert "\n" not in str(refusal.value)


def test_a_split_that_is_not_there_is_said(hub: Path):
    tree(hub / "small", "train-0.tar")
    with pytest.raises(DataError, match="shards, but none of val: only of train; choose another"):
        fetch(ROOT, splits=["val"])


def test_without_network_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match="hf download owner/small --repo-type dataset --local-dir"
    ) as e:
        fetch(ROOT)
    assert "\n" not in str(e.value)
    assert "set data.root to its path" in str(e.value)


def test_names():
    assert parse(ROOT) == Place(ROOT, "owner/small", None, "")
    assert parse(f"{ROOT}@v1.0/a/b/")[1:] == ("owner/small", "v1.0", "a/b")
    assert parse(f"{ROOT}@refs/convert/parquet")[1:] == ("owner/small", "refs/convert/parquet", "")
    assert parse(f"{ROOT}@refs%2Fpr%2F1/a")[1:] == ("owner/small", "refs/pr/1", "a")
    assert is_hub(ROOT)
    assert not is_hub("/data/hf")
    for wrong in ("hf://datasets/small", "hf://datasets/", "hf://datasets/a/b/../../c"):
        with pytest.raises(DataError, match="write hf://datasets/OWNER/NAME"):
            parse(wrong)
