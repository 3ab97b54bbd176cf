"""Which shard is of which split: against `datasets`' own choice, and in folders that hold no shards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import DataError
from datamodules.shards import layout
from datamodules.shards.layout import splits
from datamodules.shards.readme import configs_in
from datamodules.shards.split_names import split_named

from .hf_tables import pictures

AUDIOSET = """---
license: cc-by-4.0
configs:
- config_name: balanced
  default: true
  data_files:
  - split: train
    path: "data/bal_train*.parquet"
  - split: test
    path: data/eval*.parquet
- config_name: full
  data_files:
  - split: train
    path: ["data/bal_train*.parquet", "data/unbal_train*.parquet"]
  - {split: test, path: "data/eval*.parquet"}
---
# AudioSet
"""
AUDIOSET_FILES = ["data/bal_train00.parquet", "data/unbal_train000.parquet", "data/eval00.parquet"]
NAMES = {"train": "train", "val": "validation", "test": "test"}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(layout, "rank_zero_info", lines.append)
    return lines


def tree(folder: Path, *names: str, readme: str | None = None) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    if readme is not None:
        (folder / "README.md").write_text(readme, encoding="utf-8")
    return folder


def found_in(folder: Path, config: str | None = None) -> dict[str, list[str]]:
    return {
        split: [path.relative_to(folder).as_posix() for path in paths]
        for split, paths in splits(folder, config).items()
    }


def of_datasets(folder: Path) -> dict[str, list[str]]:
    """The same by `datasets`, from names alone."""
    data_files = pytest.importorskip("datasets.data_files")
    patterns = data_files.get_data_patterns(str(folder))
    found = data_files.DataFilesDict.from_patterns(patterns, base_path=str(folder))
    return {
        split: sorted(Path(path).relative_to(folder).as_posix() for path in found[name])
        for split, name in NAMES.items()
        if name in found
    }


@pytest.mark.parametrize(
    "names",
    [
        ["train-000000.tar", "train-000001.tar", "val-000000.tar", "test-000000.tar"],
        ["imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"],
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
         "data/validation-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
        ["data/bal_train00.parquet", "data/unbal_train00.parquet", "data/eval00.parquet"],
        ["train/0000.parquet", "validation/0000.parquet"],
        ["data/training/a.tar", "data/training/b.tar", "data/evaluation/a.tar"],
        ["my train.tar", "my dev.tar"],
        ["train/eval-0.tar", "dev/train-0.tar"],
        ["data/train-00000-of-00001-b42cd2e0a3b1c9d8.parquet"],
        ["00000.tar", "00001.tar"],
        ["latest-00.tar", "trainer.tar", "testify_0.tar"],
    ],
)  # fmt: skip
def test_names_say_what_they_say_to_datasets(tmp_path: Path, names: list[str]):
    tree(tmp_path, *names)
    assert found_in(tmp_path) == of_datasets(tmp_path)


def test_shards_of_no_split_are_told(tmp_path: Path, told: list[str]):
    tree(tmp_path, "train-0.tar", "extra-0.tar", "extra-1.tar")
    assert found_in(tmp_path) == {"train": ["train-0.tar"]}
    assert told == [f"{tmp_path}: left out 2 shards of no split (extra-0.tar, extra-1.tar)"]


def test_missing_shards_of_a_series_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines: list[str] = []
    monkeypatch.setattr(layout, "rank_zero_warn", lines.append)
    names = [f"data/train-{n:05}-of-00004.parquet" for n in (0, 1, 3)]
    tree(tmp_path, *names, "data/val-00000-of-00001-0a1b2c.parquet", "test-0.tar")
    assert found_in(tmp_path)["train"] == names
    (line,) = lines
    assert line.startswith(f"{tmp_path}: only 3 of the 4 shards data/train-*-of-00004.parquet are")


def test_words_count_whole():
    assert [split_named(name) for name in ("Train", "eval00", "val_", "x-dev.tar")] == [
        "train", "test", "val", "val",
    ]  # fmt: skip
    assert not any(map(split_named, ["trained", "interval", "retest", "device", "data", ""]))


def test_a_readme_says_what_its_configurations_are(tmp_path: Path):
    tree(tmp_path, *AUDIOSET_FILES, readme=AUDIOSET)
    balanced = {"train": ["data/bal_train00.parquet"], "test": ["data/eval00.parquet"]}
    assert found_in(tmp_path) == found_in(tmp_path, "balanced") == balanced
    assert found_in(tmp_path, "full")["train"] == AUDIOSET_FILES[:2]
    with pytest.raises(DataError, match=r"no configuration 'none'; it has balanced, full$"):
        splits(tmp_path, "none")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("data_files: 'a/*.tar'", {"train": ["a/0-val.tar", "a/1.tar"]}),
        ("data_files: ['a/1.tar', 'b/x/2.tar']", {"train": ["a/1.tar", "b/x/2.tar"]}),
        ("data_files: {train: a/*, validation: 'b/**'}",
         {"train": ["a/0-val.tar", "a/1.tar"], "val": ["b/x/2.tar", "b/x/y/3.tar"]}),
        ("data_files: '**/*.tar'", {"train": ["a/0-val.tar", "a/1.tar", "b/x/2.tar", "b/x/y/3.tar"]}),
        ("data_files: 'b/*/[0-9].tar'", {"train": ["b/x/2.tar"]}),
        ("data_files: './a/?.tar'", {"train": ["a/1.tar"]}),
        ("data_dir: a", {"val": ["a/0-val.tar"]}),
        ("{data_dir: b, data_files: x/*.tar}", {"train": ["b/x/2.tar"]}),
    ],
)  # fmt: skip
def test_every_form_of_data_files(tmp_path: Path, entry: str, expected: dict[str, list[str]]):
    entry = entry if entry.startswith("{") else f"{{{entry}}}"
    readme = f"---\nconfigs:\n- {entry}\n---\n"
    tree(tmp_path, "a/0-val.tar", "a/1.tar", "b/x/2.tar", "b/x/y/3.tar", readme=readme)
    assert found_in(tmp_path) == expected


def test_a_split_called_by_the_word_is_taken_alone(tmp_path: Path, told: list[str]):
    readme = "---\nconfigs:\n- data_files: {train: a.tar, train_extra: b.tar, old: c.tar}\n---\n"
    tree(tmp_path, "a.tar", "b.tar", "c.tar", readme=readme)
    assert found_in(tmp_path) == {"train": ["a.tar"]}
    assert told == [f"{tmp_path}: left out 2 splits (old, train_extra)"]
    tree(tmp_path, readme=readme.replace("{train:", "{train_one:"))
    assert found_in(tmp_path) == {"train": ["a.tar", "b.tar"]}


def test_of_several_configurations_one_has_to_be_usual(tmp_path: Path):
    tree(tmp_path, *AUDIOSET_FILES, readme=AUDIOSET.replace("default: true", "description: x"))
    with pytest.raises(DataError, match=r"set data\.config_name to one of balanced, full$"):
        splits(tmp_path)


def test_a_readme_of_other_files_is_passed_over(tmp_path: Path):
    tree(tmp_path, "train-0.tar", readme=AUDIOSET)
    assert found_in(tmp_path) == {"train": ["train-0.tar"]}
    with pytest.raises(DataError, match="no shards of its configuration 'full': fetch them"):
        splits(tmp_path, "full")


@pytest.mark.parametrize(
    "readme",
    ["", "# Data", "---\nlicense: mit\n---\n", "---\nconfigs: 3\n---\n"],
)
def test_a_readme_without_configurations(tmp_path: Path, readme: str):
    tree(tmp_path, "train-0.tar", readme=readme)
    assert configs_in(tmp_path) == []
    assert found_in(tmp_path) == {"train": ["train-0.tar"]}
    with pytest.raises(DataError, match="no configuration 'x'; it has none: leave"):
        splits(tmp_path, "x")


def test_a_readme_that_is_no_yaml_is_told_and_passed_over(tmp_path: Path):
    tree(tmp_path, "train-0.tar", readme="---\na: [\n---\n")
    with pytest.warns(UserWarning, match=r"README\.md: its YAML is not used") as told:
        assert found_in(tmp_path) == {"train": ["train-0.tar"]}
    assert "\n" not in str(told[0].message)


def test_a_folder_may_be_a_configuration(tmp_path: Path):
    tree(tmp_path, "big/train/0000.parquet", "big/test/0000.parquet", "default/val/0000.parquet")
    assert found_in(tmp_path, "big") == {
        "train": ["big/train/0000.parquet"], "test": ["big/test/0000.parquet"],
    }  # fmt: skip
    assert found_in(tmp_path) == {"val": ["default/val/0000.parquet"]}


def test_what_save_to_disk_writes(tmp_path: Path, told: list[str]):
    datasets = pytest.importorskip("datasets")
    data = pictures(8)
    both = datasets.DatasetDict({"train": data, "validation": data, "other": data})
    both.save_to_disk(tmp_path / "both", num_shards={"train": 2, "validation": 1, "other": 1})
    assert found_in(tmp_path / "both") == {
        "train": ["train/data-00000-of-00002.arrow", "train/data-00001-of-00002.arrow"],
        "val": ["validation/data-00000-of-00001.arrow"],
    }
    assert told == [f"{tmp_path / 'both'}: left out 1 splits (other)"]
    for name, split in (("dev", "val"), ("anything", "train")):
        data.save_to_disk(tmp_path / name)
        assert found_in(tmp_path / name) == {split: ["data-00000-of-00001.arrow"]}
    (tmp_path / "dev" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match=r"names data-00000-of-00001\.arrow, which is not there"):
        splits(tmp_path / "dev")
    (tmp_path / "dev" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*state\.json"):
        splits(tmp_path / "dev")


def test_a_table_about_a_tar_is_no_shard(tmp_path: Path):
    tree(tmp_path, "train/00000.tar", "train/00000.parquet", "train/00000_stats.json")
    assert found_in(tmp_path) == {"train": ["train/00000.tar"]}


@pytest.mark.parametrize(
    "names",
    [
        ["train/ant/0.jpg", "val/ant/0.jpg"],
        ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "train/n01/0.jpg", "val/n01/0.jpg"],
        ["ILSVRC2012_img_val.tar", "val/ILSVRC2012_val_1.JPEG"],
        ["train/n01.tar", "train/n01/0.jpg", "train/n02.tar", "train/n02/0.jpg", "val/n01/0.jpg"],
        ["train/n01.tar", "train/n01/0.jpg", "train/n02.tar", "train/n02/0.jpg"],
        ["train.csv", "videos/a.mp4"],
        [],
    ],
)
def test_folders_of_files_have_no_shards(tmp_path: Path, names: list[str]):
    assert splits(tree(tmp_path, *names)) == {}
    assert splits(tmp_path / "none") == {}


@pytest.mark.parametrize("pattern", [None, "**/*.parquet", "*/*/*", "**"])
def test_a_tree_of_files_is_not_walked(
    tmp_path: Path, pattern: str | None, monkeypatch: pytest.MonkeyPatch
):
    names = [f"{s}/c{c}/{n}.jpg" for s in ("train", "val") for c in range(120) for n in range(3)]
    readme = f"---\nconfigs:\n- data_files: '{pattern}'\n---\n" if pattern else None
    tree(tmp_path, *names, readme=readme)
    scanned: list[Any] = []
    scandir = os.scandir

    def noted(path: Any) -> Any:
        scanned.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noted)
    assert splits(tmp_path) == {}
    assert len(scanned) < 12  # of 243 folders


def test_a_long_folder_of_files_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tree(tmp_path, *(f"{number}.jpg" for number in range(60)))
    seen: list[str] = []
    scandir = os.scandir

    @contextmanager
    def noted(path: Any) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(path) as entries:
            yield (seen.append(entry.name) or entry for entry in entries)

    monkeypatch.setattr(layout, "LOOKED_AT", 20)
    monkeypatch.setattr(os, "scandir", noted)
    assert splits(tmp_path) == {}
    assert len(seen) == 21
    monkeypatch.setattr(layout, "LOOKED_AT", 100)
    tree(tmp_path, "train-0.tar")
    assert set(splits(tmp_path)) == {"train"}
