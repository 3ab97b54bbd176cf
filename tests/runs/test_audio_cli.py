"""The audio recipes from the command line, on small trees of real files, some of them broken."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tome_lightning import Image, Spectrogram
from tome_lightning.__main__ import main

from ..datamodules.audio_tree import CLASSES, write_tree

soundfile = pytest.importorskip("soundfile")

K = len(CLASSES)
VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2}
SMALL = (
    "--model.vit.depth=2 --model.vit.embed_dim=24 --model.vit.num_heads=2 "
    f"--model.task.num_classes={K} --trainer.max_steps=2 --trainer.accelerator=cpu "
    "--trainer.enable_progress_bar=false --data.num_workers=0 --data.batch_size=8 "
    "--data.eval_batch_size=8 --data.root=DIR"
).split()
RANDOM = ["--model.checkpoint=null", "--model.freeze=none"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*are not there", "ignore:.*logging interval", "ignore:.*random positions"
)


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_tree(tmp_path / "DIR")


def summary_of(recipe: str) -> dict:
    return json.loads(Path("runs", recipe, "0", "summary.json").read_text())


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_a_fit_reads_both_kinds_of_lists(kind, tree, caplog):
    for path in tree.glob("*.json" if kind == "csv" else "*_segments.csv"):
        path.unlink()
    assert main(["fit", "--recipe", "audioset20k_vitb", *SMALL, *RANDOM]) == 0
    summary = summary_of("audioset20k_vitb")
    assert summary["measured_on"] == f"6 clips, {K} of {K} classes"
    assert set(summary["metrics"]) == {"mAP"}
    assert (summary["plan"], summary["train_plan"]) == ([40, 40], [24, 24])
    for line in (
        "Token Merging for training: r=24", "tokens 307 283 259",
        "Token Merging for evaluation: r=40", "tokens 513 473 433",
        f"on 6 clips, {K} of {K} classes; r=40", "waited for data",
    ):  # fmt: skip
        assert line in caplog.text
    best = "runs/audioset20k_vitb/0/checkpoints/best.ckpt"
    assert main(["test", "--ckpt_path", best, "--trainer.enable_progress_bar=false"]) == 0


def test_balanced_draws_make_the_epoch(tree, caplog):
    words = ["--data.subset=20k", "--data.draws=40", "--trainer.max_epochs=1"]
    small = [word for word in SMALL if "max_steps" not in word]
    assert main(["fit", "--recipe", "audioset_vitb", *small, *RANDOM, *words]) == 0
    assert "24.00         259      5 " in caplog.text  # 40 draws of 16 clips are 5 batches of 8


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_broken_and_missing_clips_are_counted_and_never_become_silence(tree, caplog):
    evaluated = sorted((tree / "audio/eval").iterdir())
    evaluated[0].write_text("no audio")
    evaluated[1].unlink()
    sound = sorted((tree / "audio/train").glob("*.wav"))[0]
    soundfile.write(sound, np.full(4000, np.nan), 16_000, subtype="FLOAT")
    words = ["--trainer.max_epochs=2", "--data.batch_size=16", "--data.mixup=0"]
    assert main(["fit", "--recipe", "audioset20k_vitb", *SMALL, *RANDOM, *words]) == 0
    summary = summary_of("audioset20k_vitb")
    assert summary["measured_on"].startswith("4 clips, ")
    assert summary["missing_files"] == {"val": 1}
    assert set(summary["lists"]) == {"train", "val"}
    assert summary["unreadable_files"] == {"train": 1, "val": 1}
    bad = json.loads(Path("runs/audioset20k_vitb/0/bad_files.json").read_text())["bad"]
    assert {row["split"]: Path(row["path"]).name for row in bad} == {
        "train": sound.name,
        "val": evaluated[0].name,
    }
    assert "not numbers" in bad[0]["reason"]


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_odd_sounds_go_through(tree):
    """Stereo at 44.1 kHz, 24 bit, 8 kHz, 0 and 1 and 300 samples, silence, louder than 1."""
    files = sorted((tree / "audio/train").glob("*.wav"))
    noise = np.random.RandomState(0).standard_normal((22050, 2)) * 0.1
    odd = [
        (noise, 44100, "PCM_24"), (noise[:8000, 0], 8000, "PCM_16"), (noise[:0, 0], 16000, "PCM_16"),
        (noise[:1, 0], 16000, "FLOAT"), (noise[:300, 0], 16000, "PCM_U8"),
        (np.zeros(16000), 16000, "PCM_16"), (100 * noise, 16000, "FLOAT"),
    ]  # fmt: skip
    for path, (samples, rate, subtype) in zip(files, odd, strict=False):
        soundfile.write(path, samples, rate, subtype=subtype)
    assert len(files) >= len(odd)
    words = ["--data.batch_size=16", "--trainer.max_steps=1"]
    assert main(["fit", "--recipe", "audioset20k_vitb", *SMALL, *RANDOM, *words]) == 0
    assert summary_of("audioset20k_vitb")["unreadable_files"] == {}


def save(path: str, weights: dict) -> str:
    torch.save({"model": weights}, path)
    return f"--model.checkpoint={path}"


def test_audiomae_s_positions_are_taken_and_stay(tree, caplog):
    spectrogram = Spectrogram().build(**VIT, num_classes=527)
    weights = spectrogram.state_dict()
    for name in ("mask_token", "decoder_pos_embed", "decoder_embed.weight"):
        weights[name] = torch.zeros(1, 1, 8)
    words = ["--recipe", "audioset20k_vitb", *SMALL, save("pretrained.pth", weights)]
    assert main(["fit", *words]) == 0
    assert "audiomae" in caplog.text
    assert "frozen: pos_embed" in caplog.text
    last = torch.load("runs/audioset20k_vitb/0/checkpoints/last.ckpt", weights_only=True)
    assert torch.equal(last["state_dict"]["model.vit.pos_embed"], weights["pos_embed"])
    caplog.clear()
    shorter = ["--model.input.frames=512", "--data.frames=512", "--tome.train_r=10"]
    assert main(["fit", *words, *shorter]) == 0
    assert "trimmed from 64 to 32 time steps" in caplog.text
    last = torch.load("runs/audioset20k_vitb/1/checkpoints/last.ckpt", weights_only=True)
    assert torch.equal(last["state_dict"]["model.vit.pos_embed"], weights["pos_embed"][:, :257])


def test_an_image_mae_is_a_start(tree, caplog):
    image = Image(64, 16).build(**VIT, num_classes=10, global_pool="avg").state_dict()
    words = ["--recipe", "audioset20k_vitb", *SMALL, save("image.pth", image)]
    assert main(["fit", *words, "--model.freeze=none"]) == 0
    assert "resized from 4x4 to 64x8" in caplog.text
    assert "summed" in caplog.text


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--data.root=NOWHERE"], ["NOWHERE", "not a folder"]),
        (["--data.label_csv=labels.csv"], ["labels.csv"]),
        (["--data.train_list=unknown.json"], ["unknown.json", "/m/unknown"]),
        (["--data.train_list=torn.json"], ["torn.json"]),
        (["--data.train_list=nothing.json"], ["nothing.json", "gone.wav"]),
        (["--model.task.num_classes=527"], [f"{K} classes", "527", f"num_classes {K}"]),
        (["--model.input.mask_time=0.99"], ["mask_time=0.99 leaves none of 64"]),
        (["--model.input.mask_freq=1"], ["mask_freq", "0 to below 1"]),
        (["--model.input.mels=64"], ["1x1024x128", "1x1024x64", "channels, frames, mels"]),
        (["--model.input.mels=100"], ["mels 100", "96 or 112"]),
        (["--tome.train_r=200"], ["200 tokens", "307 tokens", "at most 153"]),
        (["--model.r=300"], ["300 tokens", "513 tokens", "at most 256"]),
        (["--data.draws=0"], ["draws", "1 or more"]),
        (["--data.draws=17", "--data.replacement=false"], ["draws", "16", "replacement"]),
        (["--data.mixup=null"], ["mixup must be a number, got None"]),
        (["--data.frames=null"], ["frames must be a number, got None"]),
        (["--model.input.mask_freq=null"], ["model.input.mask_freq must be a number"]),
        (["--data.mixup=2"], ["mixup", "[0, 1]"]),
        (["--data.freq_mask=200"], ["freq_mask", "128"]),
        (["--data.roll=random"], ["data.roll", "circular", "'random'"]),
        (["--data.std=0"], ["std", "above 0"]),
        (["--data.mixpu=0"], ["mixpu", "data.mixup"]),
        (["--model.vit.in_chans=3"], ["in_chans", "Spectrogram"]),
        (["--model.task.class_path=tome_lightning.tasks.SingleLabel"], ["tasks.MultiLabel"]),
        (["--model.checkpoint=audiomae_vit_base"], ["audiomae_vit_base.pth", "AudioMAE"]),
        (["--model.checkpoint=rgb32.pth"], ["rgb32.pth", "patches"]),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_starts(words, parts, tree, capsys):
    wav = str(next((tree / "audio/train").iterdir()).relative_to(tree))
    data = {"unknown": [(wav, "/m/unknown")], "nothing": [("gone.wav", "/m/09x0r")]}
    for name, rows in data.items():
        rows = [{"wav": path, "labels": labels} for path, labels in rows]
        (tree / f"{name}.json").write_text(json.dumps({"data": rows}))
    (tree / "torn.json").write_text('{"data": [{"wav"')
    rgb = Image(64, 32).build(**VIT, num_classes=10, global_pool="avg").state_dict()
    save("rgb32.pth", rgb)
    assert main(["fit", "--recipe", "audioset20k_vitb", *SMALL, *RANDOM, *words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert all(part in last for part in parts), last
    assert not list(Path().glob("runs/*/*/*"))


@pytest.mark.parametrize("package", ["torchaudio", "soundfile", "av"])
@pytest.mark.parametrize("verb", ["fit", "scan"])
def test_a_package_that_cannot_be_imported_is_told_in_one_line(
    verb, package, tree, capsys, monkeypatch
):
    """And does not make every file look broken."""
    monkeypatch.setitem(sys.modules, package, None)  # what import meets where it is missing
    words = [*SMALL, *RANDOM] if verb == "fit" else ["--data.root=DIR", "--out=scan.json"]
    assert main([verb, "--recipe", "audioset20k_vitb", *words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert package in last
    assert "pip install" in last
    assert not Path("scan.json").exists()


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_scan_measures_what_a_map_depends_on(tree, capsys):
    evaluated = sorted((tree / "audio/eval").iterdir())
    evaluated[0].write_text("no audio")
    evaluated[1].unlink()
    words = ["--recipe", "audioset20k_vitb", "--data.root=DIR", "--workers=0"]
    assert main(["scan", *words, "--out", "scan.json"]) == 0
    out = capsys.readouterr().out
    content = json.loads(Path("scan.json").read_text())
    assert [Path(row["path"]).name for row in content["bad"]] == [evaluated[0].name]
    assert content["missing"][0]["split"] == "val"
    assert evaluated[1].stem in content["missing"][0]["path"]
    assert sum(content["counts"]["train"]["per_class"].values()) > 16  # several labels a clip
    assert content["rates"] == {"16000": 20}
    assert content["features"]["recipe_mean"] == -4.2677393
    assert "warning: the recipe's mean and std are not those of these files" in out
    assert "missing: 2, e.g. " in out  # of val and of test
    found = content["features"]
    words += [f"--data.mean={found['mean']}", f"--data.std={found['std']}"]
    assert main(["scan", *words, "--out", "again.json"]) == 0
    assert "warning: the recipe's" not in capsys.readouterr().out
    assert main(["scan", *words, "--quick", "--out", "quick.json"]) == 0
    quick = json.loads(Path("quick.json").read_text())
    assert (quick["features"], quick["rates"]) == (None, content["rates"])

    excluded = ["--data.exclude=scan.json", "--trainer.max_steps=1"]
    assert main(["fit", "--recipe", "audioset20k_vitb", *SMALL, *RANDOM, *excluded]) == 0
    assert summary_of("audioset20k_vitb")["unreadable_files"] == {}
