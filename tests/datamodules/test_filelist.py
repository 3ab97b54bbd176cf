"""Lists of labelled files."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from datamodules import DataError
from datamodules.filelist import FileList, class_folders, read_list, scan_folder
from datamodules.walking import LeftOut


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_items_come_back_as_they_went_in() -> None:
    paths = ["a/b.jpg", "ü ber/x,y.png", "odd\udcff.jpg", ""]
    files = FileList(paths, [3, 0, 1, 2])
    assert [files[i] for i in range(4)] == list(zip(paths, [3, 0, 1, 2], strict=True))
    assert files[-1] == ("", 2)
    with pytest.raises(IndexError):
        files[4]


def test_a_list_costs_its_characters_and_two_numbers_a_file() -> None:
    files = FileList((f"train/{i:010d}.jpg" for i in range(1000)), range(1000))
    assert files.nbytes == 1000 * (20 + 8 + 8) + 8
    assert len(pickle.dumps(files)) < files.nbytes + 1000  # a few objects, not one a file


def test_a_list_survives_pickling() -> None:
    files = pickle.loads(pickle.dumps(FileList(["a b", "c"], [1, 0])))
    assert [files[0], files[1]] == [("a b", 1), ("c", 0)]


def test_it_says_what_lists_of_several_labels_say() -> None:
    files = FileList("abcde", [2, 0, 2, 1, 0])
    assert (files.path(1), files.label(1), files.target(0)) == ("b", 0, 2)
    assert files.unread_target == -1
    assert files.peers(0).tolist() == [True, False, True, False, False]
    assert files.class_counts(4).tolist() == [2, 1, 2, 0]
    assert files.class_counts(4, np.arange(5) < 2).tolist() == [1, 0, 1, 0]


def test_rows_are_left_out_by_path() -> None:
    kept = FileList(["a", "bb", "", "ccc"], [3, 0, 1, 2]).without({"bb", "not there"})
    assert [kept[row] for row in range(len(kept))] == [("a", 3), ("", 1), ("ccc", 2)]
    assert kept.digest() == FileList(["a", "", "ccc"], [3, 1, 2]).digest()


def test_the_digest_names_paths_order_and_labels() -> None:
    digests = {
        FileList(paths, labels).digest()
        for paths, labels in [
            (["a", "b"], [0, 1]), (["b", "a"], [0, 1]), (["a", "b"], [1, 0]), (["ab", ""], [0, 1]),
        ]
    }  # fmt: skip
    assert len(digests) == 4
    assert FileList(["a", "b"], [0, 1]).digest() in digests


def test_lines_may_hold_blanks_commas_comments_and_tabs(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(
        "# path,label\n\nplain.jpg 0\nwith blank.jpg,1\n two blanks.jpg  2 \nb,c.jpg,3\n"
        "d,e.jpg 4\ntab.jpg\t5\n  spaced.jpg , 6\n"
    )
    files = read_list(path)
    assert [files[i] for i in range(len(files))] == [
        ("plain.jpg", 0), ("with blank.jpg", 1), ("two blanks.jpg", 2), ("b,c.jpg", 3),
        ("d,e.jpg", 4), ("tab.jpg", 5), ("spaced.jpg", 6),
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg,-1", "a.jpg,cat", ",3", "3", "a.jpg 1.5"])
def test_a_malformed_line_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"a.jpg,0\n\n{line}\n")
    with pytest.raises(DataError, match=r"list\.txt, line 3: expected") as error:
        read_list(path)
    assert "\n" not in str(error.value)
    assert line in str(error.value)


def test_classes_are_visible_folders_in_alphabetical_order(tmp_path: Path) -> None:
    for name in ("b", "a", "B", ".hidden", "10", "9"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.txt").touch()
    assert class_folders(tmp_path) == ["10", "9", "B", "a", "b"]


def test_nested_images_are_found_and_hidden_or_other_files_are_not(tmp_path: Path) -> None:
    wanted = ["train/a/deep/er/3.Jpg", "train/a/x.JPEG", "train/b/1.png"]
    for name in [*wanted, "train/a/.x.jpg", "train/a/.cache/y.jpg", "train/b/notes.txt"]:
        touch(tmp_path / name)
    files = scan_folder(tmp_path, "train", {"a": 0, "b": 1})
    assert [files[i] for i in range(len(files))] == list(zip(wanted, [0, 0, 1], strict=True))


def test_a_linked_class_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a").symlink_to(tmp_path / "elsewhere")
    assert class_folders(tmp_path / "train") == ["a"]
    assert len(scan_folder(tmp_path, "train", {"a": 0})) == 1


def listed(files: FileList) -> list[tuple[str, int]]:
    return [files[i] for i in range(len(files))]


def test_every_link_back_is_followed_no_second_time(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/a/deep/2.png", "train/b/3.png"):
        touch(tmp_path / name)
    links = {
        "train/a/self": ".", "train/a/deep/up": "..", "train/a/split": "..", "train/a/root": "../..",
        "train/a/sibling": "../b", "train/a/again": "deep", "train/b/twice.png": "3.png",
        "train/loop": ".",
    }  # fmt: skip
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    left_out = LeftOut()
    assert class_folders(tmp_path / "train") == ["a", "b"]
    files = scan_folder(tmp_path, "train", {"a": 0, "b": 1}, left_out=left_out)
    assert listed(files) == [("train/a/1.png", 0), ("train/a/deep/2.png", 0), ("train/b/3.png", 1)]
    assert sorted(left_out.links) == sorted(str(tmp_path / name) for name in links)
    assert "8 links to what is listed already" in left_out.describe()


def test_links_to_files_and_folders_elsewhere_are_samples_once(tmp_path: Path) -> None:
    for name in ("store/blob", "store/more/1.png", "store/b/1.png", "train/a/own.png"):
        touch(tmp_path / name)
    for name, target in {"x.png": "../../store/blob", "y.png": "../../store/blob"}.items():
        (tmp_path / "train/a" / name).symlink_to(target)
    for name in ("first", "second"):
        (tmp_path / "train/a" / name).symlink_to("../../store/more")
    (tmp_path / "train/b").symlink_to("../store/b")  # a class may well be a link
    files = scan_folder(tmp_path, "train", {"a": 0, "b": 1})
    assert [path for path, _ in listed(files)] == [
        "train/a/first/1.png", "train/a/own.png", "train/a/x.png", "train/b/1.png",
    ]  # fmt: skip


def test_two_spellings_of_a_class_that_are_one_folder_count_once(tmp_path: Path) -> None:
    touch(tmp_path / "train/play guitar/1.mp4")
    (tmp_path / "train/play_guitar").symlink_to("play guitar")
    labels = {"play guitar": 0, "play_guitar": 0}
    assert len(scan_folder(tmp_path, "train", labels, (".mp4",))) == 1


@pytest.mark.parametrize(
    "name", ["@eaDir", ".thumbnails", "Thumbs", "thumbnails", "#recycle", "__MACOSX", "lost+found"]
)
def test_folders_beside_the_data_are_neither_classes_nor_samples(name: str, tmp_path: Path) -> None:
    for path in ("train/a/1.png", f"train/a/{name}/1.png", f"train/{name}/2.png"):
        touch(tmp_path / path)
    left_out = LeftOut()
    assert class_folders(tmp_path / "train") == ["a"]
    assert listed(scan_folder(tmp_path, "train", {"a": 0}, left_out=left_out)) == [
        ("train/a/1.png", 0)
    ]
    assert sorted(left_out.folders) == sorted(
        str(tmp_path / "train" / path) for path in (name, f"a/{name}")
    )


def test_what_is_left_out_is_counted_by_ending(tmp_path: Path) -> None:
    names = ["a/1.png", "a/2.HEIC", "a/3.heic", "a/4.txt", "a/5", "a/._1.png", "6.png", "notes.txt"]
    for name in names:
        touch(tmp_path / "train" / name)
    left_out = LeftOut()
    assert len(scan_folder(tmp_path, "train", {"a": 0}, left_out=left_out)) == 1
    assert left_out.describe() == (
        "left out: 4 files with other endings (.heic 2, .txt 1, none 1); 1 files in no class folder "
        f"({tmp_path}/train/6.png); 1 hidden files"
    )
    assert LeftOut().describe() == ""
