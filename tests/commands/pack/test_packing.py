"""A pack has the bytes and the order of the files, is the same each time, and goes on after a stop."""

import json
import os
from pathlib import Path

import pytest

from datamodules import AudioSet, ImageNet
from datamodules.sounds.lists import read_classes
from tome_lightning.commands.pack import packing
from tome_lightning.commands.pack.packing import pack
from tome_lightning.commands.pack.shard import ShardWriter
from tome_lightning.errors import UsageError

from .conftest import all_members

SMALL = 30_000  # bytes: two or three of the pictures


def data_of(root: Path, **options) -> ImageNet:
    return ImageNet(str(root), num_workers=0, **options)


def packed(root: Path, out: Path, **options):
    given = {"shard_size": SMALL, "workers": 0, "progress": False, **options}
    return pack(data_of(root), out, **given)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_order_and_labels_are_those_of_the_files(photos, tmp_path, workers):
    done = packed(photos, tmp_path / "shards", workers=workers)
    files = data_of(photos)
    for split in ("train", "val"):
        listed = [files.files(split)[row] for row in range(len(files.files(split)))]
        expected = []
        for path, label in listed:
            key = path.removeprefix(f"{split}/").removesuffix(".jpg")
            expected += [(f"{key}.jpg", (photos / path).read_bytes())]
            expected += [(f"{key}.cls", str(label).encode())]
        assert all_members(tmp_path / "shards", split) == expected
        assert done.splits[split].samples == len(listed)
        assert done.splits[split].digest == files.files(split).digest()
    assert (tmp_path / "shards/classes.txt").read_text() == "ant\nbee\n"
    assert set(done.splits) == {"train", "val"}  # test has the files of val
    assert len(list((tmp_path / "shards").glob("train-*.tar"))) > 2
    assert all(path.stat().st_size <= SMALL for path in (tmp_path / "shards").glob("*.tar"))


def test_several_labels_are_ids_with_a_table_of_their_names(tmp_path):
    root = tmp_path / "sounds"
    (root / "clips").mkdir(parents=True)
    for name in ("YaB-c.wav", "d.flac"):
        (root / "clips" / name).write_bytes(name.encode())  # nothing is decoded
    table = 'index,mid,display_name\n1,/m/b,"Ring, ring"\n0,/m/a,Speech\n2,/t/c,"Say ""hi"""\n'
    (root / "class_labels_indices.csv").write_text(table)
    (root / "balanced_train_segments.csv").write_text('aB-c, 0.0, 10.0, "/t/c,/m/a"\n')
    (root / "eval.json").write_text('{"data": [{"wav": "clips/d.flac", "labels": "/m/b"}]}')
    pack(AudioSet(str(root)), tmp_path / "shards", workers=0, progress=False)
    assert all_members(tmp_path / "shards") == [
        ("clips/YaB-c.wav", b"YaB-c.wav"), ("clips/YaB-c.json", b'{"labels": ["/m/a", "/t/c"]}'),
    ]  # fmt: skip
    assert all_members(tmp_path / "shards", "val")[1] == ("clips/d.json", b'{"labels": ["/m/b"]}')
    classes = read_classes(tmp_path / "shards/class_labels_indices.csv")
    assert classes.names == ["Speech", "Ring, ring", 'Say "hi"']
    assert classes.ids == {"/m/a": 0, "/m/b": 1, "/t/c": 2}
    assert not (tmp_path / "shards/classes.txt").exists()


def test_two_packs_are_the_same_files(photos, tmp_path):
    packed(photos, tmp_path / "a")
    os.utime(photos / "train/ant/0.jpg", (1, 1))
    packed(photos, tmp_path / "b", workers=2)
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")


class Stopped(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("stop", [Stopped, KeyboardInterrupt])
@pytest.mark.parametrize("moment", ["add", "finish"])
def test_a_stopped_pack_goes_on_after_its_last_whole_shard(
    photos, tmp_path, monkeypatch, capsys, moment, stop
):
    packed(photos, tmp_path / "whole")
    usual, calls = getattr(ShardWriter, moment), []

    def stopping(self, *given):
        calls.append(self.path.name)
        if self.path.name == "train-000002.tar":
            raise stop
        return usual(self, *given)

    monkeypatch.setattr(ShardWriter, moment, stopping)
    with pytest.raises(stop):
        packed(photos, tmp_path / "shards")
    assert ("goes on after them" in capsys.readouterr().err) == (stop is KeyboardInterrupt)
    there = files_in(tmp_path / "shards")
    assert sorted(there) == ["classes.txt", "pack.json", "train-000000.tar", "train-000001.tar"]
    monkeypatch.undo()

    calls.clear()
    monkeypatch.setattr(
        ShardWriter, "__init__", lambda self, path, made=ShardWriter.__init__: (
            calls.append(path.name), made(self, path))[1],
    )  # fmt: skip
    packed(photos, tmp_path / "shards")
    assert calls[0] == "train-000002.tar"
    assert files_in(tmp_path / "shards") == files_in(tmp_path / "whole")
    calls.clear()
    packed(photos, tmp_path / "shards")
    assert not calls


def test_a_shard_that_is_gone_is_made_again_with_all_after_it(photos, tmp_path):
    packed(photos, tmp_path / "shards")
    before = files_in(tmp_path / "shards")
    (tmp_path / "shards/train-000001.tar").write_bytes(b"cut")
    (tmp_path / "shards/train-000001.tar.partial").write_bytes(b"left by a kill")
    packed(photos, tmp_path / "shards")
    assert files_in(tmp_path / "shards") == before


def test_another_split_can_be_added(photos, tmp_path):
    packed(photos, tmp_path / "both")
    packed(photos, tmp_path / "shards", splits=["val"])
    packed(photos, tmp_path / "shards", splits=["train"])
    both, shards = files_in(tmp_path / "both"), files_in(tmp_path / "shards")
    del both["pack.json"], shards["pack.json"]
    assert shards == both


def test_bytes_that_come_back_otherwise_are_refused(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("tome_lightning.commands.pack.shard.digest_of", lambda path: "0" * 64)
    with pytest.raises(UsageError, match="gives back other bytes"):
        packed(photos, tmp_path / "shards")
    assert not list((tmp_path / "shards").glob("*.tar*"))


def test_a_full_disk_is_told_in_one_line(photos, tmp_path, monkeypatch):
    def full(self, members):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(UsageError, match=r"No space left on device; .* GB free\).* goes on"):
        packed(photos, tmp_path / "shards")
    monkeypatch.undo()
    packed(photos, tmp_path / "shards")


def test_a_disk_without_room_is_refused_before_any_work(photos, tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(UsageError, match=r"0\.0 GB free, and the shards take about 0\.0 GB"):
        packed(photos, tmp_path / "shards")
    assert not list((tmp_path / "shards").glob("*.tar*"))


def test_bad_files_are_left_out_and_named(photos, tmp_path):
    for number in range(3):
        (photos / f"train/ant/bad{number}.jpg").symlink_to("nowhere.jpg")
    (photos / "val/bee/9.jpg").symlink_to("nowhere.jpg")
    lists = {}
    for split in ("train", "val"):
        names = sorted(str(path.relative_to(photos)) for path in (photos / split).rglob("*.jpg"))
        lists[f"{split}_list"] = f"{split}.txt"
        (photos / f"{split}.txt").write_text(
            "".join(f"{name},{int('bee' in name)}\n" for name in names)
        )
    data = data_of(photos, **lists)
    done = pack(data, tmp_path / "shards", shard_size=SMALL, workers=0, progress=False)
    bad = ["train/ant/bad0.jpg", "train/ant/bad1.jpg", "train/ant/bad2.jpg", "val/bee/9.jpg"]
    assert [one.path for one in done.bad] == bad
    assert "FileNotFoundError" in done.bad[0].reason
    named = json.loads((tmp_path / "shards/bad_files.json").read_text())["bad"]
    assert [row["path"] for row in named] == bad
    without = data_of(photos, **lists, exclude=str(tmp_path / "shards/bad_files.json"))
    pack(without, tmp_path / "same", shard_size=SMALL, workers=0, progress=False)
    for split in ("train", "val"):
        assert all_members(tmp_path / "same", split) == all_members(tmp_path / "shards", split)


def test_too_many_bad_files_stop_it(photos, tmp_path):
    names = [f"train/ant/gone{number}.jpg,0" for number in range(12)]
    (photos / "list.txt").write_text("\n".join(["train/ant/0.jpg,0", "train/bee/0.jpg,1", *names]))
    data = data_of(photos, train_list="list.txt", val_list="list.txt")
    with pytest.raises(UsageError, match=r"10 of 12 files cannot be read, more than .*=0\.05"):
        pack(data, tmp_path / "shards", workers=0, progress=False)
    assert len(json.loads((tmp_path / "shards/bad_files.json").read_text())["bad"]) == 10


def test_a_split_without_a_single_good_file_is_refused(photos, tmp_path):
    (photos / "list.txt").write_text("train/ant/gone.jpg,0\ntrain/ant/gone2.jpg,1\n")
    (photos / "val.txt").write_text("val/ant/0.jpg,0\nval/bee/0.jpg,1\n")
    data = data_of(photos, train_list="list.txt", val_list="val.txt")
    with pytest.raises(UsageError, match="none of the 2 files of train can be read"):
        pack(data, tmp_path / "shards", workers=0, progress=False)


def test_another_list_is_refused(photos, tmp_path):
    packed(photos, tmp_path / "shards")
    (photos / "val/bee/0.jpg").unlink()
    with pytest.raises(UsageError, match=r"another list of val \(4 files, list .*; now 3"):
        packed(photos, tmp_path / "shards")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"splits": ["vaal"]}, "got vaal. Nearest: val"),
        ({"splits": []}, "got none"),
        ({"workers": -1}, "got -1"),
        ({"shard_size": "one"}, "got 'one'"),
        ({"shard_size": 0}, "got 0"),
    ],
)
def test_arguments_without_a_meaning_are_refused(photos, tmp_path, options, expected):
    with pytest.raises(UsageError, match=expected):
        packed(photos, tmp_path / "shards", **options)
    assert not (tmp_path / "shards").exists()


def test_other_data_are_refused(tmp_path):
    from lightning.pytorch import LightningDataModule

    with pytest.raises(UsageError, match="LightningDataModule has no lists of files"):
        packing.pack(LightningDataModule(), tmp_path / "shards")
