"""AudioSet's lists in both forms, its classes, and how clips are found and missed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import DataError
from datamodules.packed import Packed
from datamodules.sounds.lists import (
    Classes,
    ClipFinder,
    Listed,
    classes_of,
    read_classes,
    read_lists,
)
from datamodules.sounds.reading import AUDIO_EXTENSIONS

from ..audio_tree import IDS, write_classes, write_json, write_segments

SPEECH, MAN, MUSIC = IDS[:3]


@pytest.fixture
def classes(tmp_path: Path) -> Classes:
    write_classes(tmp_path)
    return read_classes(tmp_path / "class_labels_indices.csv")


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def read(root: Path, classes: Classes, *names: str, clips: str = "") -> Listed:
    finder = ClipFinder(str(root), str(Path(root, clips)))
    return read_lists([root / name for name in names], classes, finder)


def segment(root: Path, classes: Classes, *files: str, clip: str = "abc", start: float = 30) -> str:
    """Which of the files a CSV's clip is, `-` for none of them."""
    touch(root, "clips/other.wav", *(f"clips/{name}" for name in files))
    write_segments(root / "one.csv", {clip: MUSIC, "other": MAN}, start)
    listed = read(root, classes, "one.csv", clips="clips")
    found = [listed.files[row] for row in range(len(listed.files))]
    assert found[-1] == ("clips/other.wav", (1,))
    return found[0][0].removeprefix("clips/") if len(found) == 2 else "-"


def test_a_json_has_paths_from_root_on_or_absolute_ones(tmp_path: Path, classes: Classes) -> None:
    far = tmp_path / "far"
    touch(tmp_path, "data/a/1.wav", "data/b 2.flac", "far/3.wav")
    rows = {"a/1.wav": MUSIC, "b 2.flac": f"{MAN}, {SPEECH}", f"{far}/3.wav": IDS[5]}
    write_json(tmp_path / "data/list.json", rows)
    files = read(tmp_path / "data", classes, "list.json").files
    assert [files[row] for row in range(len(files))] == [
        ("a/1.wav", (2,)), ("b 2.flac", (0, 1)), (f"{far}/3.wav", (5,)),
    ]  # fmt: skip
    assert len(files.target(0)) == 6


def test_a_csv_of_paths_and_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b c.flac", "d.ogg")
    text = 'path,labels\na.wav,rain;dog\nb c.flac,"dog, cat"\n\nd.ogg,rain\ngone.wav,dog\n'
    (tmp_path / "train.csv").write_text(text)
    classes = classes_of([tmp_path / "train.csv"])
    assert classes.names == ["cat", "dog", "rain"]
    listed = read(tmp_path, classes, "train.csv")
    assert [listed.files[row] for row in range(len(listed.files))] == [
        ("a.wav", (1, 2)), ("b c.flac", (0, 1)), ("d.ogg", (2,)),
    ]  # fmt: skip
    assert listed.missing == ["gone.wav"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,labels\na.wav,dog\nb.wav,bird\n", r"line 3: label 'bird' is none of the 1 classes"),
        ("path,labels\na.wav,\n", r"line 2: a\.wav has no label"),
        ("path,labels\na.wav\n", r"line 2: expected a path and its labels"),
        (
            'path,labels\na.wav,dog\nb.wav,"dog\nc.wav,dog\n',
            r"line 3: expected a path and its labels",
        ),
    ],
)
def test_a_csv_of_paths_and_labels_that_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "val.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read(tmp_path, Classes(tmp_path / "train.csv", ["dog"], {"dog": 0}), "val.csv")


def test_other_lists_need_a_label_csv(tmp_path: Path) -> None:
    write_segments(tmp_path / "train.csv", {"abc": MUSIC}, 30)
    with pytest.raises(DataError, match=r"no list with the header path,labels.*label_csv"):
        classes_of([tmp_path / "train.csv"])


def test_a_csv_as_audioset_publishes_it(tmp_path: Path, classes: Classes) -> None:
    touch(tmp_path, "clips/--4gqARaEJE.wav", "clips/-0RWZT-miFs.flac")
    (tmp_path / "eval_segments.csv").write_text(
        "# Segments csv created Sun Mar  5 10:54:25 2017\n"
        "# num_ytids=20383, num_segs=20383, num_unique_labels=527, num_positive_labels=51804\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        f'--4gqARaEJE, 0.000, 10.000, "{SPEECH},{MUSIC}"\n'
        f'-0RWZT-miFs, 420.000, 430.000, "{MAN}"\n'
    )
    files = read(tmp_path, classes, "eval_segments.csv", clips="clips").files
    assert [files[row] for row in range(len(files))] == [
        ("clips/--4gqARaEJE.wav", (0, 2)), ("clips/-0RWZT-miFs.flac", (1,)),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["abc", "Yabc"])
@pytest.mark.parametrize(
    "ending",
    [
        "", "_30", "_30.0", "_30.000", "_30000", "_30_40", "_30.0_40.0", "_30.000_40.000",
        "_30000_40000", "_30-40",
    ],
)  # fmt: skip
def test_a_clip_is_known_by_its_id_however_its_file_is_called(
    name: str, ending: str, tmp_path: Path, classes: Classes
) -> None:
    file = f"{name}{ending}.flac"
    assert segment(tmp_path, classes, file, "abcd.wav", "abc_31.wav", "abc_30_50.wav") == file


@pytest.mark.parametrize(
    ("clip", "files", "expected"),
    [
        ("-abc", ["-abc.wav"], "-abc.wav"),
        ("_abc", ["_abc_30.wav"], "_abc_30.wav"),
        ("_abc", ["Y_abc.wav"], "Y_abc.wav"),
        ("Yabc", ["Yabc.wav", "YYabc.wav"], "Yabc.wav"),
        ("Yabc", ["YYabc.wav"], "YYabc.wav"),
        ("abc", ["Yabc.wav", "abc.wav"], "abc.wav"),
        ("abc", ["abc_30.wav", "abc.wav"], "abc.wav"),
        ("abc", ["Abc.wav", "ABC.wav"], "-"),  # ids differ in case
        ("Yabc", ["abc.wav"], "-"),
    ],
)
def test_ids_may_start_like_file_names(
    clip: str, files: list[str], expected: str, tmp_path: Path, classes: Classes
) -> None:
    assert segment(tmp_path, classes, *files, clip=clip) == expected


def test_starts_between_two_seconds_are_found(tmp_path: Path, classes: Classes) -> None:
    assert segment(tmp_path, classes, "abc_30.5.wav", start=30.5) == "abc_30.5.wav"
    assert segment(tmp_path, classes, "xyz_12345.wav", clip="xyz", start=12.345) == "xyz_12345.wav"


def test_a_name_that_is_another_clip_s_id_is_that_clip_s_alone(
    tmp_path: Path, classes: Classes
) -> None:
    touch(tmp_path, "Yabc.wav", "d_30.wav")
    write_segments(tmp_path / "l.csv", {"abc": MUSIC, "Yabc": MAN, "d": MUSIC, "d_30": SPEECH})
    listed = read(tmp_path, classes, "l.csv")
    assert [listed.files[row] for row in range(2)] == [("Yabc.wav", (1,)), ("d_30.wav", (0,))]
    assert listed.missing == ["abc", "d"]


def test_of_several_files_the_better_ending_wins_and_then_the_first_folder(
    tmp_path: Path, classes: Classes
) -> None:
    good, worse = AUDIO_EXTENSIONS[0], AUDIO_EXTENSIONS[1]
    assert segment(tmp_path, classes, f"a/abc{worse}", f"z/abc{good}") == f"z/abc{good}"
    touch(tmp_path, f"clips/y/abc{good}")
    assert segment(tmp_path, classes) == f"y/abc{good}"


def test_hidden_files_and_other_endings_are_no_clips(tmp_path: Path, classes: Classes) -> None:
    assert segment(tmp_path, classes, ".abc.wav", ".old/abc.wav", "abc.txt", "abc.wav.part") == "-"
    assert segment(tmp_path, classes, "deep/er/abc.WAV") == "deep/er/abc.WAV"


def test_clips_outside_of_root_have_absolute_paths(tmp_path: Path, classes: Classes) -> None:
    touch(tmp_path, "far/abc.wav")
    (tmp_path / "lists").mkdir()
    write_segments(tmp_path / "lists/l.csv", {"abc": MUSIC})
    files = read(tmp_path / "lists", classes, "l.csv", clips=str(tmp_path / "far")).files
    assert files.path(0) == str(tmp_path / "far/abc.wav")


def test_missing_clips_are_counted_and_the_others_keep_their_labels(
    tmp_path: Path, classes: Classes
) -> None:
    touch(tmp_path, "a/1.wav", "a/3.wav")
    (tmp_path / "a/folder.wav").mkdir()
    rows = {"a/1.wav": SPEECH, "a/2.wav": MAN, "b/1.wav": MAN, "a/3.wav": MUSIC, "a/1.wav/x": MAN}
    write_json(tmp_path / "l.json", rows)
    listed = read(tmp_path, classes, "l.json")
    assert [listed.files[row] for row in range(2)] == [("a/1.wav", (0,)), ("a/3.wav", (2,))]
    assert listed.missing == ["a/2.wav", "b/1.wav", "a/1.wav/x"]


def test_each_folder_is_listed_once_and_no_clip_is_looked_up_alone(
    tmp_path: Path, classes: Classes, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{folder}/{n}.wav" for folder in "ab" for n in range(50)]
    touch(tmp_path, *names)
    write_json(tmp_path / "l.json", dict.fromkeys([*names, "c/1.wav", "c/2.wav"], MUSIC))
    listed: list[str] = []
    real, state = os.scandir, os.stat

    def note(folder: str) -> Any:
        listed.append(folder)
        return real(folder)

    def only_folders(path: str) -> os.stat_result:
        assert not path.endswith(".wav")
        return state(path)

    finder = ClipFinder(str(tmp_path), str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", note)
        patch.setattr(os, "stat", only_folders)
        found = read_lists([tmp_path / "l.json"] * 2, classes, finder)
    assert listed == [str(tmp_path / folder) for folder in "abc"] * 2  # once a list
    assert (len(found.files), len(found.missing), found.repeated) == (200, 4, 100)


def test_of_many_files_only_the_names_of_clips_are_made_strings(
    tmp_path: Path, classes: Classes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of 22,000 clips goes through a folder of two million."""
    touch(tmp_path, *(f"clips/{n:03}_30.wav" for n in range(300)))
    write_segments(tmp_path / "l.csv", {"007": MUSIC, "299": MAN})
    read_out: list[int] = []
    real = Packed.raw

    def note(self: Packed, rows: np.ndarray | None = None) -> Iterator[bytes]:
        read_out.append(self.total if rows is None else len(rows))
        return real(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Packed, "raw", note)
        found = read(tmp_path, classes, "l.csv", clips="clips").files
    assert [found.path(row) for row in range(2)] == ["clips/007_30.wav", "clips/299_30.wav"]
    assert max(read_out) <= 10


def test_several_lists_follow_each_other(tmp_path: Path, classes: Classes) -> None:
    touch(tmp_path, "1.wav", "2.wav")
    write_json(tmp_path / "l.json", {"2.wav": MAN})
    write_segments(tmp_path / "l.csv", {"1": MUSIC, "2": MAN, "3": MAN})
    listed = read(tmp_path, classes, "l.json", "l.csv")
    assert [listed.files[row] for row in range(3)] == [
        ("2.wav", (1,)), ("1.wav", (2,)), ("2.wav", (1,)),
    ]  # fmt: skip
    assert (listed.missing, listed.repeated) == (["3"], 1)


def test_without_a_single_clip_the_first_place_looked_at_is_told(
    tmp_path: Path, classes: Classes
) -> None:
    write_json(tmp_path / "l.json", {"a/1.wav": MUSIC, "2.wav": MUSIC})
    with pytest.raises(
        DataError, match=rf"l\.json: none of the 2 clips .*first .* {tmp_path}/a/1\.wav; .*root"
    ):
        read(tmp_path, classes, "l.json")
    write_segments(tmp_path / "l.csv", {"abc": MUSIC})
    with pytest.raises(DataError, match=rf"cannot list {tmp_path}/far: No such file"):
        read(tmp_path, classes, "l.csv", clips="far")
    (tmp_path / "far").mkdir()
    with pytest.raises(DataError, match=rf"none of the 1 clips.*{tmp_path}/far/abc\.\w+;.*clips"):
        read(tmp_path, classes, "l.csv", clips="far")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", r"l\.json is not .*JSONDecodeError"),
        ('{"datas": []}', r"l\.json is not .*KeyError: 'data'"),
        ('{"data": {"a.wav": "b"}}', r"l\.json is not .*data is no list"),
        ("[]", r"l\.json is not .*TypeError"),
        ('{"data": []}', r"l\.json lists no clip"),
        ('{"data": [{"wav": "a.wav"}]}', r'l\.json, entry 1: expected \{"wav": path'),
        ('{"data": [{"wav": "a.wav", "labels": ["x"]}]}', r"l\.json, entry 1: expected"),
        ('{"data": ["a.wav"]}', r"l\.json, entry 1: expected .*got a\.wav"),
    ],
)
def test_a_malformed_json_is_told_in_one_line(
    text: str, message: str, tmp_path: Path, classes: Classes
) -> None:
    (tmp_path / "l.json").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, classes, "l.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    ["abc", f"abc {MUSIC}", f'abc, zero, 10.0, "{MUSIC}"', f'abc, 0.0, 10.0, "{MUSIC}', "a,1"],
)
def test_a_malformed_line_is_named(line: str, tmp_path: Path, classes: Classes) -> None:
    (tmp_path / "l.csv").write_text(f'# a\n# b\n\nabc, 0.0, 10.0, "{MUSIC}"\n{line}\n')
    with pytest.raises(DataError, match=r"l\.csv, line 5: expected `YTID.*got") as error:
        read(tmp_path, classes, "l.csv")
    assert "\n" not in str(error.value)
    assert line in str(error.value).replace("\\'", "'")


def test_an_empty_or_missing_list_is_refused(tmp_path: Path, classes: Classes) -> None:
    (tmp_path / "l.csv").write_text("# only\n# comments\n")
    with pytest.raises(DataError, match=r"l\.csv lists no clip"):
        read(tmp_path, classes, "l.csv")
    with pytest.raises(DataError, match=r"cannot read .*none\.csv: No such file"):
        read(tmp_path, classes, "none.csv")


def test_labels_that_are_no_class_are_counted(tmp_path: Path, classes: Classes) -> None:
    rows = {"a": MUSIC, "b": f"/m/x,{MUSIC}", "c": "/m/y,/m/x"}
    write_json(tmp_path / "l.json", rows)
    write_segments(tmp_path / "l.csv", rows)
    expected = r"label '/m/x' is none of the 6 classes of .*indices\.csv; 2 such labels in 2 of 3"
    for name, place in (("l.json", "entry 2"), ("l.csv", "line 5")):
        with pytest.raises(DataError, match=f"{name}, {place}: {expected}"):
            read(tmp_path, classes, name)


def test_clips_without_labels_are_refused(tmp_path: Path, classes: Classes) -> None:
    write_json(tmp_path / "l.json", {"a": MUSIC, "b": "", "c": " ,"})
    with pytest.raises(DataError, match=r"entry 2: b has no label, like 2 of 3 clips"):
        read(tmp_path, classes, "l.json")


def test_classes_may_be_any_number_in_any_order_with_commas_in_their_names(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(
        '\ufeffindex,mid,display_name\n1,/m/b,"Male speech, man"\n0,/m/a,Dog\n2,/t/c,"x"\n'
    )
    classes = read_classes(path)
    assert classes.names == ["Dog", "Male speech, man", "x"]
    assert classes.ids == {"/m/b": 1, "/m/a": 0, "/t/c": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected the header index,mid,display_name, got an empty file"),
        ("mid,index,display_name\n/m/a,0,x\n", r"expected the header .* got mid,index"),
        ("0,/m/a,x\n", r"expected the header .*got 0,/m/a,x"),
        ("index,mid,display_name\n0,/m/a\n", r"class 1: expected index,mid,display_name, got"),
        ("index,mid,display_name\nx,/m/a,x\n", r"class 1: expected"),
        ("index,mid,display_name\n0,/m/a,x\n1,/m/a,y\n", r"class 2: label /m/a .*second time"),
        ("index,mid,display_name\n0,/m/a,x\n0,/m/b,y\n", r"class 2: index 0 .*second time"),
        ("index,mid,display_name\n0,/m/a,x\n2,/m/b,y\n", r"2 classes .* 0 to 1, but none has 1"),
    ],
)
def test_wrong_classes_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_classes(path)
    assert "\n" not in str(error.value)


def test_audioset_s_own_classes_are_read(tmp_path: Path) -> None:
    names = [f"Class {n}, with {json.dumps(n)}" for n in range(527)]
    write_classes(tmp_path, {f"/m/{n}": name for n, name in enumerate(names)})
    assert read_classes(tmp_path / "class_labels_indices.csv").names == names
