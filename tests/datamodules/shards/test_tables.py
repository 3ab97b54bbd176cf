"""Rows of tables: names and labels as `datasets` has them, and which columns are meant."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import DataError
from datamodules.shards.member import member, own_name
from datamodules.shards.row import Row, Wanted
from datamodules.shards.table_file import ParquetTable
from datamodules.shards.tables import class_names, decoded_at_once, label_titles, table_rows

from .hf_tables import CLASSES, IMAGES, SOUNDS, VIDEOS, arrow, parquet, pictures, png

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def rows_of(shard: Path, wanted: Wanted = IMAGES) -> list[Row]:
    return list(table_rows(shard, f"data/{shard.name}", wanted))


def written(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def featured(path: Path, features: dict[str, Any], **columns: Any) -> Path:
    """A table as `datasets` writes it, with its features."""
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():  # casting needs no decoder of sounds and videos
        data = data.cast_column(name, feature)
    return parquet(data, path)


def files(*names: str | None) -> list[dict[str, Any]]:
    return [{"bytes": b"content", "path": name} for name in names]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_rows_have_the_names_and_labels_of_datasets(tmp_path: Path, kind: str):
    data = pictures(10)
    shard = parquet(data, tmp_path / "a.parquet") if kind == "parquet" else arrow(data, tmp_path)
    rows = rows_of(shard)
    assert [own_name(row.path) for row in rows] == [f"0-{number}.png" for number in range(10)]
    assert [row.labels for row in rows] == [
        (data.features["label"].int2str(label),) for label in data["label"]
    ]
    places = [member(row.path) for row in rows]
    assert all(place is not None and place.shard == f"data/{shard.name}" for place in places)
    assert class_names(shard, IMAGES) == CLASSES


def test_the_files_themselves_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = set()
    read = ParquetTable.read

    def noted(self: ParquetTable, group: int, column: str, child: str | None = None) -> Any:
        seen.add((column, child))
        return read(self, group, column, child)

    monkeypatch.setattr(ParquetTable, "read", noted)
    assert len(rows_of(parquet(pictures(10), tmp_path / "a.parquet"))) == 10
    assert seen == {("image", "path"), ("label", None)}


def test_what_one_file_costs_to_read(tmp_path: Path):
    data = pictures(10, size=32)
    cells = [len(png(number, 32)) + 4 for number in range(10)]  # and its length, four bytes
    groups = [sum(cells[at : at + 4]) for at in (0, 4, 8)]
    size = decoded_at_once(parquet(data, tmp_path / "a.parquet"), IMAGES)
    assert max(groups) <= size < max(groups) + 200  # headers of pages
    assert decoded_at_once(arrow(data, tmp_path), IMAGES) == 0


def test_audioset_of_the_hub(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    shard = featured(
        tmp_path / "00.parquet", {"audio": datasets.Audio()},
        video_id=["--4gqARaEJE", "--BfvyPmVMo"], audio=files("--4gqARaEJE.flac", None),
        labels=[["/m/068hy", "/m/07q6cd_"], ["/m/03l9g"]],
        human_labels=[["Domestic animals, pets", "Squeak"], ["Hammer"]],
    )  # fmt: skip
    assert rows_of(shard, SOUNDS) == [
        ("data/00.parquet::audio/--4gqARaEJE.flac@0+0", ("/m/068hy", "/m/07q6cd_")),
        ("data/00.parquet::audio/0-1@0+1", ("/m/03l9g",)),
    ]
    assert class_names(shard, SOUNDS) is None
    titles = {"/m/068hy": "Domestic animals, pets", "/m/07q6cd_": "Squeak", "/m/03l9g": "Hammer"}
    assert label_titles(shard, SOUNDS) == titles
    assert label_titles(shard, SOUNDS._replace(label="video_id")) == {}


def test_what_is_not_labelled_has_no_labels(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    shard = featured(
        tmp_path / "a.parquet",
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)},
        image=files("a", "b", "c"), label=[-1, 1, None],
    )  # fmt: skip
    assert [row.labels for row in rows_of(shard)] == [(), (CLASSES[1],), ()]
    bare = written(tmp_path / "b.parquet", image=files("a", "b"))
    assert [row.labels for row in rows_of(bare)] == [(), ()]


def test_many_labels_a_row(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    named = datasets.ClassLabel(names=CLASSES)
    shard = featured(
        tmp_path / "a.parquet",
        {"audio": datasets.Audio(), "events": datasets.List(named)},
        audio=files("a", "b", "c"), events=[[0, 2], [], None], label=["x", "y", "z"],
    )  # fmt: skip
    assert [row.labels for row in rows_of(shard, SOUNDS)] == [(CLASSES[0], CLASSES[2]), (), ()]
    assert class_names(shard, SOUNDS) == CLASSES
    chosen = SOUNDS._replace(label="label")
    assert [row.labels for row in rows_of(shard, chosen)] == [("x",), ("y",), ("z",)]
    assert class_names(shard, chosen) is None


@pytest.mark.parametrize(
    "feature",
    [
        {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": ["x", "y"]}},
        [{"_type": "ClassLabel", "names": ["x", "y"]}],
    ],
)
def test_lists_of_classes_as_older_versions_note_them(tmp_path: Path, feature: Any):
    import json

    note = {"info": {"features": {"image": {"_type": "Image"}, "tags": feature}}}
    table = pa.table({"image": files("a"), "tags": [[1, 0]]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(note)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet")[0].labels == ("y", "x")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([7, 0], [(7,), (0,)]), (["n01", "n02"], [("n01",), ("n02",)]), ([[1, 2], []], [(1, 2), ()]),
     ([True, False], [(1,), (0,)])],
)  # fmt: skip
def test_labels_without_features_stay_what_they_are(tmp_path: Path, labels: Any, expected: Any):
    shard = written(tmp_path / "a.parquet", jpg=[b"a", b"b"], cls=pa.array(labels))
    assert [row.labels for row in rows_of(shard)] == expected
    assert class_names(shard, IMAGES) is None


def test_a_column_of_categories_gives_its_strings(tmp_path: Path):
    labels = pa.array(["ant", "bee", "ant"]).dictionary_encode()
    shard = written(tmp_path / "a.parquet", jpg=[b"a", b"b", b"c"], category=labels)
    assert [row.labels for row in rows_of(shard)] == [("ant",), ("bee",), ("ant",)]


def test_the_content_is_the_column_of_the_wanted_feature(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    shard = featured(
        tmp_path / "a.parquet",
        {"image": datasets.Image(), "sound": datasets.Audio(), "thing": datasets.Video()},
        image=files("a.png"), sound=files("a.wav"), thing=files("a.mp4"),
    )  # fmt: skip
    for wanted, column in ((IMAGES, "image/"), (SOUNDS, "sound/"), (VIDEOS, "thing/")):
        assert f"::{column}" in rows_of(shard, wanted)[0].path


@pytest.mark.parametrize(
    ("wanted", "column"), [(IMAGES, "jpg"), (VIDEOS, "mp4"), (SOUNDS, "audio")]
)
def test_of_several_columns_of_bytes_the_usual_name_counts(
    tmp_path: Path, wanted: Wanted, column: str
):
    shard = written(
        tmp_path / "a.parquet", mask=[b"a"], mp4=[b"a"], audio=files("a"), jpg=[b"a"], hash=[b"a"]
    )
    assert f"::{column}/" in rows_of(shard, wanted)[0].path


def test_of_several_classes_the_usual_name_counts(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    shard = featured(
        tmp_path / "a.parquet",
        {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=CLASSES),
         "coarse_label": datasets.ClassLabel(names=["fish", "bird"])},
        img=files("a"), fine_label=[2], coarse_label=[1],
    )  # fmt: skip
    assert rows_of(shard)[0].labels == (CLASSES[2],)
    assert class_names(shard, IMAGES._replace(label="coarse_label")) == ["fish", "bird"]


@pytest.mark.parametrize(
    ("columns", "wanted", "words"),
    [
        ({"image": [b"a"]}, {"content": "img"}, "no column 'img'; it has image$"),
        ({"image": [b"a"], "y": [1]}, {"label": "label"}, "no column 'label'; it has image, y$"),
        ({"image": ["a.jpg"]}, {}, "has no images: its columns are image; set data.content_column"),
        ({"a": [b"a"], "b": [b"b"]}, {}, "several columns that may hold images"),
        ({"image": [b"a"], "url": ["x"]}, {"content": "url"}, "'url' of .* holds string, not the"),
        ({"image": [b"a"], "box": [1.5]}, {"label": "box"}, "'box' of .* holds double, but labels"),
        ({"images": [[{"bytes": b"a", "path": "a"}]]}, {}, "has no images"),
    ],
)
def test_columns_that_are_not_there_are_told(
    tmp_path: Path, columns: dict[str, Any], wanted: dict[str, str], words: str
):
    shard = written(tmp_path / "a.parquet", **columns)
    with pytest.raises(DataError, match=words) as refusal:
        rows_of(shard, IMAGES._replace(**wanted))
    assert "\n" not in str(refusal.value)
    assert str(shard) in str(refusal.value)


def test_two_columns_of_one_name_are_told(tmp_path: Path):
    table = pa.table([[b"a"], [b"b"]], names=["image", "image"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has several columns called 'image'"):
        rows_of(tmp_path / "a.parquet")


def test_sounds_are_not_taken_for_images(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    shard = featured(tmp_path / "a.parquet", {"audio": datasets.Audio()}, audio=files("a"))
    with pytest.raises(DataError, match="has no images: its columns are audio"):
        rows_of(shard)


def test_several_columns_of_classes_are_told(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    classes = datasets.ClassLabel(names=["x", "y"])
    shard = featured(
        tmp_path / "a.parquet", {"image": datasets.Image(), "hue": classes, "mood": classes},
        image=files("a"), hue=[0], mood=[1],
    )  # fmt: skip
    with pytest.raises(DataError, match="several columns of classes: hue, mood; set"):
        rows_of(shard)


def test_a_class_without_a_name_is_told(tmp_path: Path):
    shard = arrow(pictures(4), tmp_path)
    table = pa.ipc.open_stream(shard.read_bytes()).read_all()
    table = table.set_column(1, table.schema.field("label"), pa.array([0, 1, 2, 3]))
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="holds the class 3, but its features name 3 classes"):
        rows_of(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.95])
def test_a_file_cut_short_is_told(tmp_path: Path, kind: str, kept: float):
    data = pictures(10)
    shard = parquet(data, tmp_path / "a.parquet") if kind == "parquet" else arrow(data, tmp_path)
    content = shard.read_bytes()
    shard.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(DataError, match=r"cannot be read as a table .*fetch or write") as e:
        rows_of(shard)
    assert "\n" not in str(e.value)


def test_a_pointer_of_git_lfs_is_told(tmp_path: Path):
    shard = tmp_path / "a.parquet"
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DataError, match="run git lfs pull"):
        rows_of(shard)
