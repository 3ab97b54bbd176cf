"""Samples of tar files: which members make one, its labels, and what is refused."""

import tarfile
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.filelist import IMAGE_EXTENSIONS
from datamodules.shards.member import MemberError, member, opened
from datamodules.shards.row import Row, Wanted
from datamodules.shards.tar import split_name, tar_rows

from .shard_files import write_tar

IMAGES = Wanted("images", "Image", IMAGE_EXTENSIONS)


def rows_of(path: Path, wanted: Wanted = IMAGES) -> list[Row]:
    return list(tar_rows(path, path.name, wanted))


def content(folder: Path, row: Row) -> bytes:
    with opened(f"{folder}/{row.path}") as file:
        return file.read()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_that_share_a_key_are_one_sample(tmp_path: Path, kind: int) -> None:
    members = [
        ("a/1.jpg", b"one"),
        ("a/1.cls", b"7"),
        ("b.x/2.png", b"second"),
        ("b.x/2.cls", b" cat\n"),
    ]
    path = write_tar(tmp_path / "train-0.tar", members, kind)
    rows = rows_of(path)
    assert [row.labels for row in rows] == [(7,), ("cat",)]
    assert [content(tmp_path, row) for row in rows] == [b"one", b"second"]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names_are_read(tmp_path: Path, kind: int) -> None:
    names = ["d" * 150 + "/" + "n" * 120 + ".jpg", "größe/a b::c@1+2.png", "x/\udcff.jpg"]
    path = write_tar(
        tmp_path / "t.tar", [(name, name.encode(errors="replace")) for name in names], kind
    )
    rows = rows_of(path)
    assert [place.name for row in rows if (place := member(row.path))] == names
    assert [content(tmp_path, row) for row in rows] == [n.encode(errors="replace") for n in names]


def test_labels_come_from_cls_json_or_the_folder(tmp_path: Path) -> None:
    members = [
        ("cat/1.jpg", b"x"),
        ("2.jpg", b"x"), ("2.json", b'{"label": 3, "kind": "deep"}'),
        ("dog/3.jpg", b"x"), ("dog/3.json", b'{"width": 5}'),
        ("4.jpg", b"x"), ("4.json", b'{"labels": ["/m/1", "/m/2"]}'),
        ("5.jpg", b"x"), ("5.json", b"no json"),
    ]  # fmt: skip
    path = write_tar(tmp_path / "t.tar", members)
    assert [row.labels for row in rows_of(path)] == [("cat",), (3,), ("dog",), ("/m/1", "/m/2"), ()]


def test_the_label_asked_for_is_taken_or_refused(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "t.tar", [("2.jpg", b"x"), ("2.json", b'{"label": 3, "kind": "deep"}')]
    )
    assert rows_of(path, IMAGES._replace(label="kind"))[0].labels == ("deep",)
    with pytest.raises(DataError, match=r"has no label 'color'; its members are jpg, json"):
        rows_of(path, IMAGES._replace(label="color"))


def test_a_sample_of_several_images_needs_a_choice(tmp_path: Path) -> None:
    members = [("2.left.jpg", b"l"), ("2.right.jpg", b"r")]
    path = write_tar(tmp_path / "t.tar", members)
    with pytest.raises(DataError, match=r"2 images \(left.jpg, right.jpg\)"):
        rows_of(path)
    rows = rows_of(path, IMAGES._replace(content="right.jpg"))
    assert content(tmp_path, rows[0]) == b"r"


def test_samples_without_an_image_and_links_are_left_out(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", [("1.txt", b"x"), ("2.jpg", b"x")])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("3.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        hard = tarfile.TarInfo("../../4.jpg")
        hard.type, hard.linkname = tarfile.LNKTYPE, "2.jpg"
        tar.addfile(hard)
    assert [row.path.partition("@")[0] for row in rows_of(path)] == ["t.tar::2.jpg"]


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    apart = write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("2.jpg", b"x"), ("1.jpg", b"x")])
    with pytest.raises(DataError, match="the key '1' twice"):
        rows_of(apart)
    together = write_tar(tmp_path / "b.tar", [("1.jpg", b"x"), ("1.jpg", b"x")])
    with pytest.raises(DataError, match=r"the member '1\.jpg' twice"):
        rows_of(together)


def test_a_shard_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", [("1.jpg", b"x" * 3000), ("2.jpg", b"x" * 3000)])
    whole = path.read_bytes()
    for length in (100, 700, 3584 + 200, 3584 + 512 + 1000):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cut short or is no plain tar"):
            rows_of(path)


def test_a_compressed_or_other_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))
    with pytest.raises(DataError, match="no plain tar file"):
        rows_of(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="no plain tar file"):
        rows_of(path)


def test_a_shard_that_changes_later_gives_no_wrong_bytes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", [("1.jpg", b"x" * 1000), ("2.jpg", b"y" * 1000)])
    first, second = rows_of(path)
    write_tar(path, [("0.jpg", b"z" * 600), ("1.jpg", b"x" * 1000), ("2.jpg", b"y" * 1200)])
    with pytest.raises(MemberError, match="where its shard had it"):
        content(tmp_path, second)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(MemberError, match="cut short"):
        content(tmp_path, first)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        content(tmp_path, first)


def test_the_kind_starts_at_the_first_dot_of_the_base_name() -> None:
    assert split_name("a.b/c.seg.PNG") == ("a.b/c", "seg.png")
    assert split_name("c") == ("c", "")


def test_headers_of_before_posix_are_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", [("a/1.jpg", b"one"), ("a/2.jpg", b"two")])
    blocks = bytearray(path.read_bytes())
    for start in (0, 1024):
        header = blocks[start : start + 512]
        header[257:512] = bytes(255)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        blocks[start : start + 512] = header
    path.write_bytes(blocks)
    assert [content(tmp_path, row) for row in rows_of(path)] == [b"one", b"two"]
