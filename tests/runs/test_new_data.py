"""A run measured on data that it was not trained with: new lists and folders, nothing to train on."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures

from tome_lightning.__main__ import main

from ..datamodules.clip_files import write_clip

soundfile = pytest.importorskip("soundfile")

DATA = Path(__file__).parents[1] / "data"
SHARED = (
    "--model.vit.depth=1 --model.vit.embed_dim=16 --model.vit.num_heads=2 --model.checkpoint=null "
    "--model.r=1 --trainer.max_steps=1 --trainer.accelerator=cpu --trainer.enable_progress_bar=false "
    "--trainer.precision=32-true --trainer.num_sanity_val_steps=0 --data.num_workers=0 "
    "--data.batch_size=4 --data.eval_batch_size=4 --tome.compare_dense=0"
).split()
QUICK = ["--trainer.enable_progress_bar=false"]
IMAGES = [
    *"--data.size=32 --model.input.size=32 --model.task.mixup=0 --model.task.cutmix=0".split(),
    "--model.task.num_classes=3",
]


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.RandomState(number).randint(0, 256, (36, 36, 3), dtype=np.uint8)
        Pictures.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with runs `image` (of class folders) and `list` (of lists of the same files)."""
    folder = tmp_path_factory.mktemp("runs")
    for split, count in (("train", 4), ("val", 2)):
        lines = ""
        for label, name in enumerate(("ant", "bee", "cat")):
            write_pictures(folder / "old" / split / name, count)
            lines += "".join(f"{split}/{name}/{k}.png,{label}\n" for k in range(count))
        (folder / "old" / f"{split}.txt").write_text(lines)
    words = ["fit", "--recipe", "imagenet_vitb", *SHARED, *IMAGES, f"--data.root={folder}/old"]
    lists = ["--data.train_list=train.txt", "--data.val_list=val.txt"]
    assert main([*words, f"--run_dir={folder}/image"]) == 0
    assert main([*words, *lists, f"--run_dir={folder}/list"]) == 0
    return folder


@pytest.fixture
def new(tmp_path, monkeypatch) -> Path:
    """Sixteen pictures of the first class, in no folder of a class, and nothing else."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "new", 16)
    shutil.copy(DATA / "test_only_list.txt", tmp_path / "new" / "list.txt")
    return tmp_path / "new"


def counted(directory: str) -> int:
    return int(json.loads(Path(directory, "summary.json").read_text())["measured_on"].split()[0])


def rows_of(directory: str) -> list[dict[str, str]]:
    with Path(directory, "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["image", "list"])
def test_a_new_list_is_measured_in_the_checkpoint_s_classes(kind: str, runs: Path, new: Path):
    words = ["--ckpt_path", f"{runs}/{kind}/checkpoints/best.ckpt", "--data.root=new", *QUICK]
    words += ["--data.test_list=list.txt"]
    assert main(["test", *words, "--run_dir=test"]) == 0
    assert counted("test") == 16
    assert main(["predict", *words, "--run_dir=predict"]) == 0
    rows = rows_of("predict")
    assert [row["file"] for row in rows][:3] == ["new/0.png", "new/1.png", "new/10.png"]
    names = {"ant", "bee", "cat"} if kind == "image" else {"0", "1", "2"}
    assert {row[f"class{k}"] for row in rows for k in (1, 2, 3)} == names


def test_a_label_beyond_the_checkpoint_s_classes_is_refused(runs: Path, new: Path, capsys):
    (new / "list.txt").write_text("0.png 0\n1.png 3\n")
    words = ["--ckpt_path", f"{runs}/image/checkpoints/best.ckpt", "--data.root=new"]
    assert main(["test", *words, "--data.test_list=list.txt"]) == 2
    assert "has label 3, but there are 3 classes" in capsys.readouterr().err


def test_predict_takes_a_list_without_labels_and_test_does_not(runs: Path, new: Path, capsys):
    (new / "list.txt").write_text('path\n3.png\n"1.png"\n\nnot there.png\n')
    words = ["--ckpt_path", f"{runs}/image/checkpoints/best.ckpt", "--data.root=new", *QUICK]
    words += ["--data.test_list=list.txt"]
    assert main(["test", *words]) == 2
    assert "line 2: expected `path,label`" in (told := capsys.readouterr().err)
    assert told.strip().endswith("a list without any labels is for predict")
    with pytest.warns(UserWarning, match=r"not there\.png"):
        assert main(["predict", *words, "--run_dir=predict"]) == 0
    assert [row["file"] for row in rows_of("predict")] == ["new/3.png", "new/1.png"]


@pytest.mark.parametrize("kind", ["image", "list"])
def test_predict_takes_a_plain_folder(kind: str, runs: Path, new: Path):
    (new / "more").mkdir()
    shutil.copy(new / "3.png", new / "more" / "holiday, day 1.png")
    words = ["--ckpt_path", f"{runs}/{kind}/checkpoints/best.ckpt", "--data.root=new", *QUICK]
    assert main(["predict", *words, "--run_dir=predict"]) == 0
    rows = {row["file"]: row for row in rows_of("predict")}
    assert len(rows) == 17
    copy, original = rows["new/more/holiday, day 1.png"], rows["new/3.png"]
    assert [copy[f"class{k}"] for k in (1, 2, 3)] == [original[f"class{k}"] for k in (1, 2, 3)]
    assert sum(float(copy[f"score{k}"]) for k in (1, 2, 3)) == pytest.approx(1, abs=1e-4)


def test_some_lines_without_a_label_are_a_mistake(runs: Path, new: Path, capsys):
    (new / "list.txt").write_text("3.png 0\n1.png\n")
    words = ["--ckpt_path", f"{runs}/image/checkpoints/best.ckpt", "--data.root=new"]
    assert main(["predict", *words, "--data.test_list=list.txt"]) == 2
    assert "line 2: expected `path,label`" in (told := capsys.readouterr().err)
    assert "for predict" not in told


def test_new_folders_may_have_some_of_the_classes(runs: Path, new: Path, capsys):
    write_pictures(new / "test" / "cat", 3)
    words = ["--ckpt_path", f"{runs}/image/checkpoints/best.ckpt", "--data.root=new", *QUICK]
    with pytest.warns(UserWarning, match="2 of 3 classes have no image, for example ant"):
        assert main(["test", *words, "--run_dir=test"]) == 0
    assert counted("test") == 3
    write_pictures(new / "test" / "wasp", 1)
    assert main(["test", *words]) == 2
    told = "has not the class folders of the checkpoint: 1 unknown (wasp); it has ant, bee, cat"
    assert told in capsys.readouterr().err


def test_published_weights_are_measured_on_a_list_alone(runs: Path, new: Path, capsys):
    """No run's checkpoint, so no names: the head says how many classes there are."""
    words = ["--recipe=imagenet_vitb", *SHARED, *IMAGES, "--data.root=new"]
    words += [f"--model.checkpoint={runs}/image/checkpoints/best.ckpt", "--data.test_list=list.txt"]
    assert main(["test", *words, "--run_dir=test"]) == 0
    assert counted("test") == 16
    (new / "list.txt").write_text("3.png\n")
    assert main(["predict", *words, "--run_dir=predict"]) == 0
    assert set(rows_of("predict")[0]) >= {"class1", "class2", "class3"}


@pytest.mark.parametrize("way", ["list", "folder"])
def test_names_that_are_no_text_cost_no_prediction(way: str, runs: Path, new: Path):
    odd = [os.fsdecode(f"pict\xff{k}, ü.png".encode("latin-1")) for k in range(3)]
    folder = new / "test" / "cat"
    folder.mkdir(parents=True)
    try:
        for name in odd:
            shutil.copy(new / "3.png", folder / name)
    except OSError:
        pytest.skip("this file system takes text alone")
    lines = "".join(f'"test/cat/{name}" 2\n' for name in odd) + "4.png 0\n"
    (new / "list.txt").write_bytes(os.fsencode(lines))
    words = ["--ckpt_path", f"{runs}/image/checkpoints/best.ckpt", "--data.root=new", *QUICK]
    words += ["--data.test_list=list.txt"] if way == "list" else []
    assert main(["predict", *words, "--run_dir=predict"]) == 0
    files = [row["file"] for row in rows_of("predict")]
    escaped = [f"new/test/cat/pict\\udcff{k}, \\udcfc.png" for k in range(3)]
    assert files == escaped + (["new/4.png"] if way == "list" else [])


def test_videos_are_measured_on_a_list_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for name in ("jump", "run"):
            write_clip(tmp_path / "old" / split / name / "0.mp4", frames=20)
    write_clip(tmp_path / "new" / "x.mp4", frames=20)
    words = [
        *"--data.root=old --data.class_list=null --model.task.num_classes=2 --data.size=32".split(),
        *"--model.input.size=32 --data.frames=4 --model.input.frames=4 --data.batch_size=1".split(),
        *"--data.test_clips=1 --data.test_crops=1 --model.task.mixup=0 --model.task.cutmix=0".split(),
    ]
    assert main(["fit", "--recipe=kinetics_vitl", *SHARED, *words, "--run_dir=run"]) == 0
    words = ["--ckpt_path=run/checkpoints/best.ckpt", "--data.root=new", *QUICK]
    words += ["--data.test_list=list.txt"]
    Path("new/list.txt").write_text("x.mp4 1\n")
    assert main(["test", *words, "--run_dir=test"]) == 0
    assert counted("test") == 1
    Path("new/list.txt").write_text("x.mp4\n")
    assert main(["predict", *words, "--run_dir=predict"]) == 0
    (row,) = rows_of("predict")
    assert {row["class1"], row["class2"]} == {"jump", "run"}
    Path("new/list.txt").unlink()
    assert main(["predict", *words[:-1], "--run_dir=plain"]) == 0
    assert [row["file"] for row in rows_of("plain")] == ["new/x.mp4"]
    shutil.copytree("old/val/jump", "new/test/jump")
    assert main(["test", *words[:3], "--run_dir=folders"]) == 0
    assert counted("folders") == 1


def test_sounds_are_measured_on_a_list_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("old", "new"):
        Path(place).mkdir()
        for name in "abcd":
            wave = np.random.RandomState(ord(name)).uniform(-0.3, 0.3, 8000)
            soundfile.write(f"{place}/{name}.wav", wave, 16_000)
    for split in ("train", "val"):
        text = "path,labels\na.wav,dog\nb.wav,cat\nc.wav,dog;cat\nd.wav,rain\n"
        Path(f"old/{split}.csv").write_text(text)
    words = "--data.root=old --data.label_csv=null --model.task.num_classes=3 --model.freeze=none"
    words += " --model.input.frames=128 --data.frames=128 --data.time_mask=20 --tome.train_r=1"
    assert main(["fit", "--recipe=audioset20k_vitb", *SHARED, *words.split(), "--run_dir=run"]) == 0
    words = ["--ckpt_path=run/checkpoints/best.ckpt", "--data.root=new", *QUICK]
    words += ["--data.test_list=list.csv"]
    Path("new/list.csv").write_text("path,labels\nd.wav,cat\na.wav,dog\nb.wav,rain\n")
    assert main(["test", *words, "--run_dir=test"]) == 0
    assert counted("test") == 3
    Path("new/list.csv").write_text("path\nd.wav\na.wav\n")
    assert main(["predict", *words, "--run_dir=predict"]) == 0
    rows = rows_of("predict")
    assert [row["file"] for row in rows] == ["new/d.wav", "new/a.wav"]
    assert {rows[0][f"class{k}"] for k in (1, 2, 3)} == {"cat", "dog", "rain"}
    assert main(["test", *words]) == 2
    assert main(["predict", *words[:-1], "--run_dir=plain"]) == 0
    assert [row["file"] for row in rows_of("plain")] == [f"new/{name}.wav" for name in "abcd"]
