"""Pictures of a few validation samples in TensorBoard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules.sounds.sound_scenes import write_sound_scenes
from datamodules.videos.moving_digits import write_moving_digits
from tome_lightning import fit
from tome_lightning.commands.fit import Run
from tome_lightning.commands.visualize import GroupPictures, callback
from tome_lightning.commands.visualize.groups import trace_groups

CALLBACK = {
    "class_path": "tome_lightning.commands.visualize.GroupPictures",
    "init_args": {"samples": 2},
}


def run(folder: Path, recipe: str, *callbacks: dict[str, Any], **more: Any) -> Run:
    name = folder / f"{recipe}.yaml"
    name.write_text(yaml.safe_dump({"trainer": {"callbacks": list(callbacks)}}))
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
    shown = run(folders[0], "quickstart", CALLBACK)
    plain = run(folders[1], "quickstart")
    pictures = images_of(shown.directory)
    assert [picture.step for picture in pictures] == [2, 4]
    assert pictures[0].width > 2 * 300
    assert not images_of(plain.directory)
    for a, b in zip(shown.module.parameters(), plain.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert shown.summary["metrics"] == plain.summary["metrics"]
    assert shown.module.model.r == plain.module.model.r == 4


@pytest.mark.parametrize(
    ("recipe", "write", "counts"),
    [
        ("quickstart_video", write_moving_digits, {"train": 2, "val": 1}),  # of each motion
        ("quickstart_audio", write_sound_scenes, {"train": 8, "val": 4}),
    ],
)
def test_clips_and_sounds_are_drawn_as_well(
    recipe: str, write: Callable[..., None], counts: dict[str, int], tmp_path: Path
):
    write(tmp_path / "data", counts)
    more = {"data.root": str(tmp_path / "data"), "data.eval_batch_size": 4}
    done = run(tmp_path, recipe, CALLBACK, **more, **{"trainer.max_epochs": 1})
    (picture,) = images_of(done.directory)
    assert picture.width > 600
    assert picture.height > 300


class Evaluated(Callback):
    """Keeps the weights that each validation measures."""

    seen: ClassVar[list[torch.Tensor]] = []

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        self.seen.append(pl_module.model.vit.blocks[0].attn.qkv.weight.detach().clone())


def test_the_picture_is_of_the_weights_and_the_r_that_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drawn: list[tuple[Any, torch.Tensor]] = []

    def spy(model: Any, x: torch.Tensor, rs: Any) -> Any:
        drawn.append((rs, model.vit.blocks[0].attn.qkv.weight.detach().clone()))
        return trace_groups(model, x, rs)

    monkeypatch.setattr(callback, "trace_groups", spy)
    Evaluated.seen.clear()
    average = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}
    witness = {"class_path": f"{__name__}.Evaluated"}
    more: dict[str, Any] = {"tome.eval_r": 7, "trainer.num_sanity_val_steps": 1}
    done = run(tmp_path, "quickstart", average, CALLBACK, witness, **more)
    assert [rs for rs, _ in drawn] == [[7], [7]]
    assert len(images_of(done.directory)) == 2
    for (_, shown), evaluated in zip(drawn, Evaluated.seen[-2:], strict=True):
        assert torch.equal(shown, evaluated)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_other_precisions(precision: str, tmp_path: Path):
    more = {"trainer.precision": precision, "trainer.max_epochs": 1}
    assert len(images_of(run(tmp_path, "quickstart", CALLBACK, **more).directory)) == 1


def test_an_r_of_its_own_that_cannot_be_is_refused(tmp_path: Path):
    settings = {**CALLBACK, "init_args": {"r": 30}}
    with pytest.raises(ValueError, match="at most 24"):
        run(tmp_path, "quickstart", settings)


def test_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match="1 or more, got 0"):
        GroupPictures(samples=0)
