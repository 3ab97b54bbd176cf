"""One dialect of CSV in all lists."""

import csv
import io
from pathlib import Path

import pytest

from datamodules import DataError
from datamodules.csv_lines import cells, path_and_label, unquoted
from datamodules.filelist import read_list, read_names
from datamodules.sounds.lists import Classes, ClipFinder, read_lists

DATA = Path(__file__).parents[1] / "data"
ODD = [  # names that somebody's files have
    "plain.mp4", "with space/b 1.mp4", "com,ma/c,1.mp4", "ü→é 日本.mp4", "quo'te/d\"1.mp4", 'a".mp4',
    '"a".mp4', "#hash.mp4", "%03d f.mp4", "[x](y).mp4", "a:b.mp4", "-h.mp4", "semi;colon.mp4", "ends 7",
    "ends,7", " blank ",
]  # fmt: skip


def test_a_list_that_pandas_wrote_names_the_files_that_are_there() -> None:
    files = read_list(DATA / "pandas_space.csv")
    names = [files[row] for row in range(11)]
    assert names == [
        ("v0/plain/a1.mp4", 0), ("v0/with space/b 1.mp4", 1), ("v0/com,ma/c,1.mp4", 0),
        ("v0/uni/ü→é 日本.mp4", 1), ("v0/quo'te/d\"1.mp4", 0), ("v0/hash/#e.mp4", 1),
        ("v0/pct/%03d f.mp4", 0), ("v0/br/[x](y).mp4", 1), ("v0/UP/G.MP4", 0),
        ("v0/colon/a:b.mp4", 1), ("v0/dash/-h.mp4", 0),
    ]  # fmt: skip
    assert len(files) == 33


@pytest.mark.parametrize("separator", [",", " ", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("header", [False, True])
def test_what_a_csv_writer_writes_is_read_back(
    separator: str, quoting: int, header: bool, tmp_path: Path
) -> None:
    """Python's writer is the oracle, with every separator and way of quoting."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([["path", "label"]] if header else [])
    needs_quotes = {" blank ", "#hash.mp4"} if quoting == csv.QUOTE_MINIMAL else set()
    rows = [(name, label) for label, name in enumerate(ODD) if name not in needs_quotes]
    writer.writerows(rows)
    (tmp_path / "list.csv").write_text(text.getvalue(), encoding="utf-8")
    files = read_list(tmp_path / "list.csv")
    assert [files[row] for row in range(len(files))] == rows


@pytest.mark.parametrize("line", ['"a b.mp4 1', '"a" b.mp4 1', '"a.mp4" x', '"",3', '"a" 1 2', '"'])
def test_quotes_that_are_no_cell_are_refused_with_the_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"a.mp4,0\n{line}\n")
    with pytest.raises(DataError, match=r"list\.txt, line 2: expected .* quotes twice") as error:
        read_list(tmp_path / "list.txt")
    assert "\n" not in str(error.value)


def test_quotes_within_a_name_are_its_own() -> None:
    assert path_and_label('d"1".mp4 3') == ('d"1".mp4', 3)
    assert path_and_label("'a b.mp4' 3") == ("'a b.mp4'", 3)
    assert path_and_label('"a b.mp4" , 3') == ("a b.mp4", 3)
    assert path_and_label('"a b.mp4"') == ("a b.mp4", None)


def test_lists_of_sounds_speak_the_same_dialect(tmp_path: Path) -> None:
    names = [name.strip() for name in ODD]
    text = io.StringIO()
    csv.writer(text).writerows([("path", "labels"), *((name, "dog;cat") for name in names)])
    (tmp_path / "list.csv").write_text(text.getvalue(), encoding="utf-8")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    classes = Classes(tmp_path, ["cat", "dog"], {"cat": 0, "dog": 1})
    listed = read_lists([tmp_path / "list.csv"], classes, ClipFinder(str(tmp_path), str(tmp_path)))
    assert [listed.files[row] for row in range(len(names))] == [(name, (0, 1)) for name in names]


def test_class_names_may_be_quoted_cells(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(
        'plain\n"tench, Tinca tinca"\n"so-called ""bass"""\n3" gun\n'
    )
    assert read_names(tmp_path / "names.txt") == [
        "plain", "tench, Tinca tinca", 'so-called "bass"', '3" gun',
    ]  # fmt: skip
    assert unquoted('"a", "b"') == '"a", "b"'
    assert cells('a, "b, c"') == ["a", "b, c"]
