"""A run on the shards has sample for sample what a run on the files has; a pack of shards is the same."""

import csv
from pathlib import Path

import pytest
import torch

from datamodules import AudioSet, ImageNet, Kinetics400
from tome_lightning.__main__ import main
from tome_lightning.commands.pack.packing import pack

from ...datamodules.clip_files import write_clip, write_sound

SMALL = 30_000  # bytes of a shard


def images(root: Path):
    return ImageNet(str(root), size=32, num_workers=0)


def videos(root: Path):
    return Kinetics400(str(root), class_list=None, frames=2, size=32, num_workers=0)


def sounds(root: Path):
    return AudioSet(str(root), frames=64, mels=32, freq_mask=8, time_mask=8, num_workers=0)


@pytest.fixture
def clips(tmp_path):
    root = tmp_path / "clips"
    for split in ("train", "val"):
        for number, name in enumerate(("ant", "bee")):
            for clip in range(2):
                path = root / split / name / f"{clip} x.y.mp4"
                write_clip(path, frames=12, first=100 * number + 20 * clip)
    return root


@pytest.fixture
def heard(tmp_path):
    root = tmp_path / "heard"
    (root / "clips").mkdir(parents=True)
    for number, ending in enumerate(("wav", "mp4", "mkv")):
        write_sound(root / "clips" / f"{number}.{ending}")
    (root / "class_labels_indices.csv").write_text(
        "index,mid,display_name\n0,/m/a,Dog\n1,/m/b,Rain\n"
    )
    labels = ("/m/a", "/m/b;/m/a", "/m/b")
    for split in ("train", "val"):
        rows = [f"clips/{n}.{end},{labels[n]}" for n, end in enumerate(("wav", "mp4", "mkv"))]
        rows.append(rows[0])  # listed twice
        (root / f"{split}.csv").write_text("path,labels\n" + "\n".join(rows) + "\n")
    return root


MAKERS = {"photos": images, "clips": videos, "heard": sounds}


@pytest.mark.parametrize("source", MAKERS)
def test_samples_of_the_shards_are_those_of_the_files(request, tmp_path, source):
    root, make = request.getfixturevalue(source), MAKERS[source]
    pack(make(root), tmp_path / "shards", shard_size=SMALL, workers=0, progress=False)
    files, shards = make(root), make(tmp_path / "shards")
    for data in (files, shards):
        data.setup("fit")
        data.setup("test")
    assert shards.class_names == files.class_names
    for split in ("train", "val", "test"):
        ours, expected = shards.samples(split), files.samples(split)
        assert len(ours) == len(expected)
        for epoch in (0, 3):
            ours.set_epoch(epoch)
            expected.set_epoch(epoch)
            for index in range(len(expected)):
                for one, other in zip(ours[index], expected[index], strict=True):
                    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("source", MAKERS)
def test_a_pack_of_shards_is_the_same_shards(request, tmp_path, source):
    root, make = request.getfixturevalue(source), MAKERS[source]
    for origin, out in ((root, "a"), (tmp_path / "a", "b")):
        pack(make(origin), tmp_path / out, shard_size=SMALL, workers=0, progress=False)
    shards = [sorted((tmp_path / out).glob("*.tar")) for out in "ab"]
    assert [path.name for path in shards[0]] == [path.name for path in shards[1]]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]


def test_two_classes_of_one_name_stay_two(photos, tmp_path):
    """As ImageNet's cranes, in a list of readable names."""
    (photos / "names.txt").write_text("crane\nant\ncrane\n")
    rows = [f"train/ant/{n}.jpg,{n % 3}" for n in range(5)]
    for split in ("train", "val"):
        (photos / f"{split}.txt").write_text("\n".join(rows))
    lists = {"train_list": "train.txt", "val_list": "val.txt", "class_list": "names.txt"}
    pack(ImageNet(str(photos), **lists), tmp_path / "shards", workers=0, progress=False)
    found = images(tmp_path / "shards").files("train")
    assert [found.label(row) for row in range(len(found))] == [0, 1, 2, 0, 1]


@pytest.mark.slow
def test_losses_on_the_shards_are_those_on_the_files(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = ["--recipe", "imagenet_vitb", "--data.root"]
    assert (
        main(["pack", "shards", *recipe, "photos", "--shard_size", "30KB", "--measure", "0"]) == 0
    )
    words = (
        "--trainer.max_steps=6 --trainer.logger=CSVLogger --trainer.logger.save_dir=. "
        "--trainer.accelerator=cpu --trainer.log_every_n_steps=1 "
        "--trainer.precision=32-true --model.vit.depth=3 --model.vit.embed_dim=24 "
        "--model.vit.num_heads=2 --model.checkpoint=null --model.task.num_classes=2 "
        "--data.batch_size=4 --seed_everything=3"
    ).split()
    found = []
    for root, workers in (("photos", 0), ("shards", 2)):
        own = [f"--data.num_workers={workers}", "--run_dir", f"runs/{root}"]
        assert main(["fit", *recipe, root, *words, *own]) == 0
        (log,) = Path().rglob("metrics.csv")
        with log.open() as file:
            rows = [{k: v for k, v in row.items() if "loss" in k} for row in csv.DictReader(file)]
        found.append(rows)
        log.unlink()
    assert len([row for row in found[0] if row["train/loss"]]) == 6
    assert found[0] == found[1]
