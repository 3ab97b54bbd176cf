"""A key ends at the first dot of its base name, is no other file's, and gives back the path."""

import tarfile
from urllib.parse import unquote_to_bytes

import pytest

from datamodules.filelist import FileList
from datamodules.shards.tar import split_name
from tome_lightning.commands.pack.keys import Endings, sample_keys, split_key

IMAGES = Endings((".jpg", ".png", ".jpeg"), ".jpg")


def keys(*paths: str, split: str = "train", root: str = "/data", endings=IMAGES):
    return list(sample_keys(FileList(paths, [0] * len(paths)), split, root, endings))


@pytest.mark.parametrize(
    ("path", "key", "ending"),
    [
        ("train/ant/1.jpg", "ant/1", ".jpg"),
        ("train/ant/1.2.JPEG", "ant/1%2E2", ".jpeg"),
        ("ant/a b, (c)'.png", "ant/a b, (c)'", ".png"),
        ("train/v1.0/ü.jpg", "v1.0/ü", ".jpg"),
        ("train/ant/100%.jpg", "ant/100%25", ".jpg"),
        ("train/50%/a.jpg", "50%25/a", ".jpg"),
        ("train/ant/\udcff\n.jpg", "ant/%FF%0A", ".jpg"),
        ("train/ant/none", "ant/none", ".jpg"),
        ("train/ant/x.dat", "ant/x%2Edat", ".jpg"),
        ("./train//ant/./1.jpg", "ant/1", ".jpg"),
        ("../other/1.jpg", "%2E%2E/other/1", ".jpg"),
        ("/data/train/ant/1.jpg", "ant/1", ".jpg"),
        ("/elsewhere/1.jpg", "elsewhere/1", ".jpg"),
        ("train/.jpg", "%2Ejpg", ".jpg"),
        ("train-0.tar::ant/1%2E2.seg.png@1536+7", "ant/1%2E2", ".png"),
        ("train-0.tar::./train/ant/1.jpg@1536+7", "train/ant/1", ".jpg"),
        ("train-0.tar::/../../ant/1.jpg@1536+7", "%2E%2E/%2E%2E/ant/1", ".jpg"),
        ("train-0.parquet::image/ant/1.2.jpg@0+7", "ant/1%2E2", ".jpg"),
        ("train-0.parquet::a%2Fb/0-7@0+7", "0-7", ".jpg"),
    ],
)
def test_a_path_becomes_a_key(path, key, ending):
    assert split_key(path, "train", "/data", IMAGES) == (key, ending)
    assert split_name(key + ending) == (key, ending[1:])


def test_a_key_gives_back_the_path():
    for path in ("a.b/c%d.é x.e.jpg", "\udcfe/%2E.png"):
        key, ending = split_key(path, "train", "/data", IMAGES)
        assert unquote_to_bytes(key) + ending.encode() == path.encode("utf-8", "surrogateescape")


def test_the_folder_of_the_split_is_left_out_and_no_other():
    assert keys("val/a.jpg", "train/a.jpg") == [("val/a", ".jpg"), ("a", ".jpg")]
    assert keys("val/a.jpg", split="test") == [("a", ".jpg")]
    assert keys("val/a.jpg", split="val") == [("a", ".jpg")]


def test_no_two_files_have_one_key():
    found = keys("a.jpg", "a.png", "b.jpg", "a.jpg", "a#2.jpg", "train/a.jpg", "a%232.jpg")
    assert [key for key, _ in found] == ["a", "a%232", "b", "a%233", "a#2", "a%234", "a%25232"]
    assert len(set(found)) == len(found)


def test_keys_do_not_depend_on_the_hashes_of_strings(monkeypatch):
    paths = ("a.jpg", "a.png", "b.jpg")
    expected = keys(*paths)
    monkeypatch.setattr("builtins.hash", lambda text: 7)
    assert keys(*paths) == expected


def test_long_names_and_names_that_are_not_ascii_survive(tmp_path):
    from tome_lightning.commands.pack.shard import Member, ShardWriter

    names = ["a/" + "x" * 200 + ".jpg", "ü/é.jpg", "plain.jpg"]
    shard = ShardWriter(tmp_path / "x.tar")
    shard.add([Member(name, name.encode()) for name in names])
    shard.finish(1)
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == names
        assert [tar.extractfile(name).read() for name in names] == [name.encode() for name in names]
        assert [bool(info.pax_headers) for info in tar] == [True, True, False]
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in tar} == {(0, 0, 0, "")}
