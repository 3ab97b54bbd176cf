"""What was packed can lie on the Hub, and what lies there can be packed."""

import pytest

from datamodules import AudioSet, ImageNet
from tome_lightning.commands.pack.packing import pack

from ...hub_server import hub_of
from .conftest import all_members

ROOT = "hf://datasets/owner/small"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    with hub_of(tmp_path, monkeypatch, {}) as root:
        yield root / "datasets" / "owner" / "small"


def test_packed_pictures_on_the_hub_are_packed_as_they_were(photos, tmp_path, repository):
    pack(ImageNet(str(photos)), repository, workers=0, progress=False)
    data = ImageNet(ROOT)
    done = pack(data, tmp_path / "again", workers=0, progress=False)
    assert done.splits["train"].samples == 10
    for split in ("train", "val"):
        assert all_members(tmp_path / "again", split) == all_members(repository, split)
    assert (tmp_path / "again/classes.txt").read_bytes() == (
        repository / "classes.txt"
    ).read_bytes()


def test_the_table_of_the_labels_of_packed_sounds_is_fetched_with_them(tmp_path, repository):
    root = tmp_path / "sounds"
    root.mkdir()
    (root / "a.wav").write_bytes(b"nobody decodes it")
    (root / "class_labels_indices.csv").write_text(
        "index,mid,display_name\n0,/m/a,Dog\n1,/m/b,Rain\n2,/m/c,Wind\n"
    )
    for split in ("train", "val"):
        (root / f"{split}.csv").write_text("path,labels\na.wav,/m/a;/m/b\n")
    pack(AudioSet(str(root)), repository, workers=0, progress=False)
    data = AudioSet(ROOT)
    data.prepare_data()
    assert data.class_names == ["Dog", "Rain", "Wind"]
    assert data.class_ids == ["/m/a", "/m/b", "/m/c"]
    assert data.files("val").label(0) == (0, 1)
