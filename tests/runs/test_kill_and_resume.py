"""A killed run goes on as if nothing had happened: the short form of ``kill_and_resume``.

The long form (10 kills, more seeds): ``python -m tests.runs.kill_and_resume --help``.
"""

import copy
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from .kill_and_resume import (
    CUTS,
    Job,
    differences,
    differing_records,
    kill_at_cuts,
    kill_at_random,
    reference,
    scalars,
    unequal,
    write_data,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Job:
    """The uninterrupted run, with all that has a state: accumulation, averaged weights."""
    folder = tmp_path_factory.mktemp("images")
    data = write_data("quickstart", folder)
    return reference(Job("quickstart", data, folder / "whole", accumulate=2, ema=True, forked=True))


@pytest.mark.slow
def test_random_kills_change_nothing(images, tmp_path):
    job = replace(images, folder=tmp_path, workers=2)
    kill_at_random(job, 1, images, seed=0)
    assert differences(images, job) == []
    assert len(scalars(job)["train/loss"]) > 30  # else there was little to compare


@pytest.mark.slow
def test_kills_at_the_points_that_random_ones_miss_change_nothing(images, tmp_path):
    job = replace(images, folder=tmp_path, workers=0, every=1)
    places = list(CUTS)[1::2]  # the long form has all
    assert len(kill_at_cuts(job, places)) == len(places) == 3
    assert differences(images, job) == []


@pytest.mark.slow
def test_signals_stop_a_run_at_once_and_lose_nothing(images, tmp_path):
    # how a process ends is part of it: no forks
    job = replace(images, folder=tmp_path, workers=2, every=1000, forked=False)
    done = 0
    # SIGTERM: two processes, below
    for number, signum in enumerate((signal.SIGUSR1, signal.SIGINT)):
        with job.session() as session:
            assert session.wait_for(4 + number), session.log()
            # SLURM and a terminal tell the loader processes as well
            os.killpg(session.child.pid, signum)
            assert session.wait(60) == 128 + signum, session.log()
            assert "Traceback" not in session.log()
            assert (job.run_dir / "checkpoints" / "last.ckpt").is_file()
            batches = [line for line in session.records()[0] if line["phase"] == "train"]
        first = batches[0]["epoch"] * 27 + batches[0]["batch"]
        # the next batch, none again and none left out; of an optimizer step half done all of its batches
        assert first == done - done % job.accumulate
        done = first + len(batches)
    assert replace(job, forked=True).run() == 0
    assert differences(images, job) == []


@pytest.mark.slow
def test_two_processes_are_killed_and_go_on(tmp_path):
    data = write_data("quickstart", tmp_path)
    # a forked first process starts the second one as it always does
    expected = reference(Job("quickstart", data, tmp_path / "whole", devices=2, forked=True))
    job = replace(expected, folder=tmp_path / "killed", workers=1)
    with replace(job, forked=False).session() as session:
        assert session.wait_for(4), session.log()
        os.killpg(session.child.pid, signal.SIGTERM)  # reaches the second process twice
        assert session.wait(60) == 128 + signal.SIGTERM, session.log()
    kill_at_random(job, 1, expected, seed=1)
    assert differences(expected, job) == []


def test_the_comparison_sees_a_difference_in_the_last_bit():
    weights = {"a": torch.tensor([1.0, 2.0]), "b": [1, {"c": 0.5}]}
    assert unequal(weights, copy.deepcopy(weights)) == []
    other = {"a": torch.tensor([1.0, 2.0000002]), "b": [1, {"c": 0.5}]}
    assert len(unequal(weights, other)) == 1
    assert len(unequal(weights, {**weights, "d": None})) == 1
    assert len(unequal(weights, {**weights, "b": [1, {"c": 0.25}]})) == 1


def test_the_comparison_sees_batches_that_differ_or_are_missing():
    lines = [
        {"phase": "train", "epoch": 0, "batch": batch, "loss": batch, "lr": [], "ids": [batch]}
        for batch in range(4)
    ]
    assert differing_records({0: [lines]}, {0: [lines[:3], lines[2:]]}) == []  # 2 is replayed
    assert len(differing_records({0: [lines]}, {0: [lines[:2], lines[3:]]})) == 1
    replayed = [{**lines[2], "ids": [7]}, lines[3]]
    assert len(differing_records({0: [lines]}, {0: [lines[:3], replayed]})) == 1
    assert len(differing_records({0: [lines], 1: [lines]}, {0: [lines]})) == 4


def test_the_data_is_of_a_size_that_no_batch_divides(tmp_path):
    root = write_data("quickstart", tmp_path)
    assert len(list(Path(root, "train").rglob("*.png"))) == 220
