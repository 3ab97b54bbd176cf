"""Runs from folders, from tar shards and from Parquet are the same runs, killed or not.

The long form, all quickstarts in all forms: ``python -m tests.runs.test_shards FOLDER``.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules import Digits, MovingDigits, SoundScenes
from tome_lightning.commands.pack import pack

from ..datamodules.shards.hf_tables import rows_of_module
from .kill_and_resume import (
    Job,
    by_rank,
    checkpoint,
    differing_records,
    kill_at_random,
    reference,
    unequal,
    write_data,
)

MODULES: dict[str, type[Any]] = {
    "quickstart": Digits,
    "quickstart_video": MovingDigits,
    "quickstart_audio": SoundScenes,
}


def to_tar(recipe: str, root: Path, out: Path) -> Path:
    """The data of a quickstart in tar files of some hundred kilobytes, by the verb."""
    pack(
        MODULES[recipe](root=str(root)),
        out,
        splits=("train", "val"),
        shard_size=300_000,
        progress=False,
    )
    return out


def to_parquet(recipe: str, root: Path, out: Path) -> Path:
    """The same as `datasets` would write it, in row groups of 50."""
    rows_of_module(MODULES[recipe](root=str(root)), out, group=50)
    return out


FORMS = {"tar": to_tar, "parquet": to_parquet}


def losses_differ(expected: Job, found: Job) -> list[str]:
    """In what two runs differ: ids, losses and rates of all batches, metrics, the last weights."""
    weights = (checkpoint(job, "last")["state_dict"] for job in (expected, found))
    return [*differing_records(by_rank(expected), by_rank(found)), *unequal(*weights)]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_digits_in_shards_give_the_losses_of_the_folder(form: str, tmp_path: Path) -> None:
    data = write_data("quickstart", tmp_path)
    expected = reference(Job("quickstart", data, tmp_path / "folder", workers=1, forked=True))
    shards = FORMS[form]("quickstart", data, tmp_path / form)
    found = reference(replace(expected, data=shards, folder=tmp_path / "sharded"))
    assert losses_differ(expected, found) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "form"), [("quickstart_video", "tar"), ("quickstart_audio", "parquet")]
)
def test_runs_on_shards_that_are_killed_go_on_as_on_the_folder(
    recipe: str, form: str, tmp_path: Path
) -> None:
    data = write_data(recipe, tmp_path)
    expected = reference(Job(recipe, data, tmp_path / "folder", forked=True))
    shards = FORMS[form](recipe, data, tmp_path / form)
    job = replace(expected, data=shards, folder=tmp_path / "killed", workers=1, forked=False)
    kill_at_random(job, 1, expected, seed=2)
    assert losses_differ(expected, job) == []


def main(folder: Path) -> int:
    """All quickstarts in all forms, each also killed; prints what differs from the folder."""
    wrong = 0
    for recipe in MODULES:
        place = folder / recipe
        place.mkdir(parents=True)
        data = write_data(recipe, place)
        expected = reference(Job(recipe, data, place / "folder"))
        for form, convert in FORMS.items():
            shards = convert(recipe, data, place / form)
            job = replace(expected, data=shards, folder=place / f"{form}-killed", workers=1)
            kill_at_random(job, 2, expected, seed=3)
            found = losses_differ(expected, job)
            wrong += len(found)
            print(
                f"{recipe}, {form}, killed twice: {found or 'the same to the last bit'}", flush=True
            )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
