"""Pictures of a few validation samples in TensorBoard."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tome_lightning import fit
from tome_lightning.cli import Run
from tome_lightning.pictures import GroupPictures

CALLBACK = {"class_path": "tome_lightning.pictures.GroupPictures", "init_args": {"samples": 2}}


def run(folder: Path, recipe: str, pictures: bool, **more: Any) -> Run:
    name = folder / f"{recipe}.yaml"
    name.write_text(yaml.safe_dump({"trainer": {"callbacks": [CALLBACK] if pictures else []}}))
    options: dict[str, Any] = {
        "config": str(name), "run_dir": str(folder / "run"), "trainer.max_epochs": 2,
        "trainer.limit_train_batches": 2, "trainer.limit_val_batches": 1,
        "trainer.accelerator": "cpu", "trainer.enable_progress_bar": False,
        "trainer.log_every_n_steps": 1, "tome.compare_dense": 0, "data.num_workers": 0,
        "data.batch_size": 4, "data.persistent_workers": False,
    }  # fmt: skip
    return fit(recipe, options | more)


def images_of(directory: Path) -> list[Any]:
    events = EventAccumulator(str(directory), size_guidance={"images": 0})
    events.Reload()
    return list(events.Images("tome/groups")) if "tome/groups" in events.Tags()["images"] else []


def test_it_logs_a_picture_each_epoch_and_changes_nothing(tmp_path: Path):
    folders = tmp_path / "with", tmp_path / "without"
    for folder in folders:
        folder.mkdir()
    shown, plain = (run(folder, "quickstart", folder.name == "with") for folder in folders)
    pictures = images_of(shown.directory)
    assert [picture.step for picture in pictures] == [2, 4]
    assert pictures[0].width > 2 * 300
    assert not images_of(plain.directory)
    for a, b in zip(shown.module.parameters(), plain.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert shown.summary["metrics"] == plain.summary["metrics"]
    assert shown.module.model.r == plain.module.model.r == 4


@pytest.mark.parametrize("recipe", ["quickstart_video", "quickstart_audio"])
def test_clips_and_sounds_are_drawn_as_well(recipe: str, tmp_path: Path):
    done = run(tmp_path, recipe, True, **{"trainer.max_epochs": 1, "data.eval_batch_size": 4})
    (picture,) = images_of(done.directory)
    assert picture.width > 600
    assert picture.height > 300


def test_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match="1 or more, got 0"):
        GroupPictures(samples=0)
