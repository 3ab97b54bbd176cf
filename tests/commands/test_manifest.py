"""Each file of several lists has one number, whatever names it how often."""

from datamodules.filelist import FileList
from tome_lightning.commands.manifest import BAD, GOOD, Manifest


def test_files_are_numbered_once_in_the_order_of_the_lists():
    lists = {"train": ["b", "a", "b"], "val": ["c", "a"], "test": ["c", "a"], "none": []}
    manifest = Manifest(
        {split: FileList(names, [0] * len(names)) for split, names in lists.items()}
    )
    assert list(manifest) == ["b", "a", "c"]
    assert len(manifest) == 3
    manifest.state[:] = GOOD, BAD, GOOD
    good = {split: manifest.good(split).tolist() for split in lists}
    assert good == {
        "train": [True, False, True], "val": [True, False], "test": [True, False], "none": [],
    }  # fmt: skip


def test_no_file_at_all_is_no_fault():
    assert list(Manifest({"train": FileList([], [])})) == []


def test_names_that_are_no_text_are_kept():
    assert list(Manifest({"train": FileList(["\udcff", "ä"], [0, 0])})) == ["\udcff", "ä"]
