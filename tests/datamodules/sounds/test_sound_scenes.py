"""The sound scenes: real files, whole or absent, with several labels, that AudioSet's reader reads."""

import csv
import hashlib
import inspect
import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError
from datamodules.sounds import sound_scenes
from datamodules.sounds.features import FrontEnd
from datamodules.sounds.reading import RATE
from datamodules.sounds.sound_scenes import (
    KINDS,
    SCENES,
    SECONDS,
    Scene,
    SoundScenes,
    mid,
    scenes,
    write_sound_scenes,
)
from datamodules.sounds.sound_synthesis import SOUNDS, TOP
from datamodules.sounds.transforms import centre

soundfile = pytest.importorskip("soundfile")

FEW = {"train": 40, "val": 24}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few scenes, of every kind of file."""
    root = tmp_path_factory.mktemp("cache") / "sound_scenes"
    write_sound_scenes(root, FEW)
    return root


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes without sound, quickly made."""
    monkeypatch.setattr(Scene, "render", lambda scene: np.zeros((1600, 1), dtype=np.float32))


def files(root: Path) -> dict[str, int]:
    return {split: len(list((root / split).iterdir())) for split in FEW}


def listed(root: Path, name: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads((root / name).read_text())["data"]
    return rows


def everything() -> list[Scene]:
    return [scene for split, count in SCENES.items() for scene in scenes(split, count)]


def test_the_scenes_are_fixed() -> None:
    digest = hashlib.sha256()
    for scene in everything():
        digest.update(f"{scene.path} {scene.sounds} {scene.seconds:.6f} {scene.channels}".encode())
    # results are compared across machines: never change the scenes
    assert digest.hexdigest()[:16] == "102151b220a9a8fc"


def test_more_scenes_begin_with_the_same_ones() -> None:
    assert list(scenes("val", 5))[:2] == list(scenes("val", 2))


@pytest.mark.parametrize("split", SCENES)
def test_every_class_is_frequent_enough_to_learn_and_to_measure(split: str) -> None:
    drawn = list(scenes(split, SCENES[split]))
    counts = Counter(name for scene in drawn for name in scene.sounds)
    assert set(counts) == set(SOUNDS)
    assert min(counts.values()) >= 20
    if split == "train":  # something to balance
        assert max(counts.values()) > 2 * min(counts.values())


def test_most_scenes_have_several_labels_and_none_twice() -> None:
    drawn = everything()
    assert all(len(set(scene.sounds)) == len(scene.sounds) for scene in drawn)
    shares = Counter(len(scene.sounds) for scene in drawn)
    assert set(shares) == {1, 2, 3}
    assert shares[2] + shares[3] > len(drawn) / 2


def test_no_scene_is_in_both_splits() -> None:
    # a waveform of its own, though both splits count from 0
    for a, b in zip(scenes("train", 5), scenes("val", 5), strict=True):
        same = {"sounds": ("bell",), "seconds": 1.5, "suffix": "flac", "rate": 16000, "channels": 1}
        first, other = (Scene(s.split, s.number, **same).render()[:, 0] for s in (a, b))
        # of two noises of n samples, correlations beyond 6 / sqrt(n) do not happen; bells may beat
        spectra = [np.abs(np.fft.rfft(wave)) for wave in (first, other)]
        assert np.corrcoef(*spectra)[0, 1] < 0.9
        assert not np.array_equal(first, other)


def test_a_scene_sounds_the_same_every_time() -> None:
    for scene in scenes("train", 3):
        assert (scene.render() == scene.render()).all()


def test_the_files_are_what_the_scenes_say(root: Path) -> None:
    assert files(root) == FEW
    kinds = set()
    for split, count in FEW.items():
        for scene in scenes(split, count):
            info = soundfile.info(str(root / scene.path))
            wave, rate = soundfile.read(str(root / scene.path), always_2d=True)
            kinds.add((info.format.lower(), rate, info.channels))
            assert info.subtype == {"flac": "PCM_16", "ogg": "VORBIS"}[scene.suffix]
            assert SECONDS[0] <= len(wave) / rate <= SECONDS[1]
            rendered = scene.render()
            assert wave.shape == rendered.shape
            # 16 bits are exact to half a step, Vorbis keeps what is loud
            error = np.sqrt(np.mean((wave - rendered) ** 2) / np.mean(rendered**2))
            assert error < (0.01 if scene.suffix == "flac" else 0.5)
    assert kinds == set(KINDS)


def test_the_lists_say_what_is_in_the_files(root: Path) -> None:
    with (root / "class_labels_indices.csv").open(newline="") as file:
        header, *classes = list(csv.reader(file))
    assert header == ["index", "mid", "display_name"]
    assert [(int(index), name) for index, name, _ in classes] == list(enumerate(map(mid, SOUNDS)))
    for split, name in (("train", "train.json"), ("val", "eval.json")):
        rows = listed(root, name)
        assert [row["wav"] for row in rows] == [scene.path for scene in scenes(split, FEW[split])]
        for row, scene in zip(rows, scenes(split, FEW[split]), strict=True):
            assert row["labels"].split(",") == [f"/t/{sound}" for sound in scene.sounds]


def test_batches_have_the_shapes_and_labels_of_audioset(root: Path) -> None:
    data = SoundScenes(str(root), batch_size=8, eval_batch_size=10, num_workers=0, mixup=0.0)
    data.setup()
    assert data.class_names == [name.capitalize() for name in SOUNDS]
    assert data.sample_shape == (1, 160, 128)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader()}
    loaders["test"] = data.test_dataloader()
    for split, loader in loaders.items():
        x, y, ids = next(iter(loader))
        assert x.shape == ((8, 1, 160, 128) if split == "train" else (10, 1, 1, 160, 128))
        assert torch.isfinite(x).all()
        assert len(x.unique(dim=0)) == len(x)
        drawn = list(scenes("train" if split == "train" else "val", max(FEW.values())))
        for row, index in zip(y, ids.tolist(), strict=True):
            sounds = {list(SOUNDS)[k] for k in row.nonzero().flatten().tolist()}
            assert sounds == set(drawn[index].sounds)
            assert row.unique().tolist() == [0.0, 1.0]


def test_the_same_seed_gives_the_same_batches(root: Path) -> None:
    batches = []
    for _ in range(2):
        data = SoundScenes(str(root), batch_size=4, num_workers=0, draws=24)
        data.setup("fit")
        batches.append(next(iter(data.train_dataloader())))
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_the_default_normalisation_is_that_of_the_files() -> None:
    defaults = {n: p.default for n, p in inspect.signature(SoundScenes).parameters.items()}
    front = FrontEnd(defaults["frames"], defaults["mels"])
    some = [scene for scene in scenes("train", 100) if scene.rate == RATE]
    waves = [torch.from_numpy(scene.render()).mean(dim=1) for scene in some]
    cells = torch.stack([front.log_mel(centre(wave)) for wave in waves])
    # levels differ: the mean over 90 scenes is off by 0.1 or 0.2
    assert defaults["mean"] == pytest.approx(float(cells.mean()), abs=0.4)
    assert defaults["std"] == pytest.approx(float(cells.std()), abs=0.4)


def test_files_of_another_rate_have_no_sound_where_others_have_none() -> None:
    for scene in scenes("train", 10):
        wave = scene.render()[:, 0]
        spectrum = np.abs(np.fft.rfft(wave)) ** 2
        above = np.fft.rfftfreq(len(wave), 1 / scene.rate) > 1.14 * TOP  # half of 16 kHz
        assert spectrum[above].sum() < 0.02 * spectrum.sum()


def test_the_cache_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOME_LIGHTNING_CACHE", str(tmp_path))
    assert SoundScenes().root == str(tmp_path / "sound_scenes")


def test_what_is_there_is_not_written_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scene, "render", None)  # would fail if it were called
    data = SoundScenes(str(root), num_workers=0)
    data.prepare_data()
    data.setup()
    assert len(data.samples("train")) == FEW["train"]


def test_writers_that_start_at_once_share_one_whole_set(tmp_path: Path, quiet: None) -> None:
    root = tmp_path / "scenes"
    threads = [threading.Thread(target=write_sound_scenes, args=(root, FEW)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert files(root) == FEW
    assert os.listdir(tmp_path) == ["scenes"]  # no drafts left


def test_an_interrupted_attempt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    encode, encoded = sound_scenes.encode, []

    def interrupt(scene: Scene) -> bytes:
        encoded.append(scene)
        if len(encoded) == 50:  # in the second split
            raise KeyboardInterrupt
        return encode(scene)

    monkeypatch.setattr(sound_scenes, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_sound_scenes(tmp_path / "scenes", FEW)
    assert os.listdir(tmp_path) == []


def test_a_missing_libsndfile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match="soundfile, which cannot be imported"):
        write_sound_scenes(tmp_path / "scenes", FEW)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    def fail(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(DataError, match=r"cannot write the sound scenes .* No space left"):
        write_sound_scenes(tmp_path / "scenes", FEW)
    assert os.listdir(tmp_path) == []
