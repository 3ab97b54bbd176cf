"""What one core makes of a recipe's data, a second, and what its time goes into."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import AudioSet, ImageNet
from datamodules.samples import Samples
from tome_lightning.__main__ import main
from tome_lightning.commands.benchmark import loader
from tome_lightning.commands.benchmark.loader import LoaderRow, lines, measure_loader, one_core

from ...datamodules.audio_tree import write_tree


@pytest.fixture
def pictures(tmp_path):
    for split, count in (("train", 5), ("val", 3)):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 8, 3), number, np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


class Clock:
    """Says 0.0, and as much more as is added to it."""

    now = 0.0

    def __call__(self):
        return self.now

    def passes(self, seconds, call):
        def slow(*arguments):
            self.now += seconds
            return call(*arguments)

        return slow


def test_the_time_of_a_sample_is_that_of_its_stages(pictures, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loader, "perf_counter", clock)
    data = ImageNet(str(pictures), 2, size=8)
    build, load = data.build, Samples.load

    def slow(split):
        samples = build(split)
        samples.read = clock.passes(0.002, samples.read)
        samples.transform = clock.passes(0.006, samples.transform)
        return samples

    monkeypatch.setattr(data, "build", slow)
    monkeypatch.setattr(Samples, "load", clock.passes(0.001, load))
    train, val = measure_loader(data, seconds=0.18)
    assert (train.split, train.samples, val.split) == ("train", 20, "val")
    assert train.per_s == pytest.approx(1000 / 9)
    assert train.stage_ms == pytest.approx({"decode": 2, "augment": 6, "other": 1})
    assert val.stage_ms == pytest.approx({"decode": 2, "crop": 6, "other": 1})
    assert not isinstance(data.samples("train").read, loader._Timed)


def test_sounds_have_a_stage_of_features(tmp_path):
    write_tree(tmp_path)
    data = AudioSet(str(tmp_path), 2, frames=64, freq_mask=8, time_mask=8)
    train, val = measure_loader(data, seconds=0)
    assert list(train.stage_ms) == ["decode", "augment", "features", "other"]
    assert list(val.stage_ms) == ["decode", "features", "other"]
    assert all(ms > 0 for row in (train, val) for ms in row.stage_ms.values())


def test_the_table_has_a_column_for_each_stage_that_there_is():
    rows = [
        LoaderRow("train", 20, 100.0, {"decode": 2.0, "augment": 7.0, "other": 1.0}),
        LoaderRow("val", 8, 250.0, {"decode": 2.0, "crop": 1.5, "other": 0.5}),
    ]
    _, head, train, val = lines(rows)
    assert head.split("  ")[-1].strip() == "other ms"
    assert train.split() == ["train", "20", "100.0", "2.00", "7.00", "-", "1.00"]
    assert val.split() == ["val", "8", "250.0", "2.00", "-", "1.50", "0.50"]


def test_cores_and_threads_are_given_back():
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    with one_core():
        assert (torch.get_num_threads(), len(os.sched_getaffinity(0))) == (1, 1)
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == (threads, cores)


def test_the_verb_prints_and_writes_the_rows(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loader, "SECONDS", 0.0)
    out = tmp_path / "rows.json"
    words = f"--recipe imagenet_vitb --loader --data.root {pictures} --data.size 8 --json {out}"
    assert main(["benchmark", *words.split()]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[-3:]] == ["train", "val", "written:"]
    assert [row["split"] for row in json.loads(out.read_text())] == ["train", "val"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--loader --model test_vit", "--loader needs data: give --recipe"),
        ("--loader --recipe quickstart --r 4", "times the data alone: leave out --r."),
        ("--loader --recipe quickstart --model.r 4", "benchmark --loader only takes data options"),
    ],
)
def test_what_is_no_option_of_data_is_refused(words, told, capsys):
    assert main(["benchmark", *words.split()]) == 2
    assert told in capsys.readouterr().err
