"""Several labels a sample and masked spectrograms in the hands of a real Trainer."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from tome_lightning.callbacks import ToMeCallback
from tome_lightning.finetune import FineTune, FineTuneError
from tome_lightning.inputs import Image, Spectrogram
from tome_lightning.run.record import RunRecord
from tome_lightning.tasks import MultiLabel, SingleLabel
from tome_lightning.tome import PlanError

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
CLASSES = 4
VIT: dict[str, Any] = {"embed_dim": 16, "depth": 3, "num_heads": 2, "weight_init": "reset"}


class Tones(LightningDataModule):
    """Noise with a bright mel band for each label; any number of labels a sample."""

    batch_size, num_classes, multi_label = 8, CLASSES, True
    class_names = ("a", "b", "c", "d")

    def loader(self, count: int, *views: int) -> DataLoader:
        generator = torch.Generator().manual_seed(count)
        y = (torch.rand(count, CLASSES, generator=generator) < 0.4).float()
        x = 0.3 * torch.randn(count, 1, 64, 32, generator=generator)
        x += y.repeat_interleave(32 // CLASSES, dim=1)[:, None, None]
        x = x.reshape(count, *views, 1, 64, 32)
        if views:
            y[-1] = -1  # a file that cannot be read
        return DataLoader(TensorDataset(x, y, torch.arange(count)), batch_size=8)

    def train_dataloader(self) -> DataLoader:
        return self.loader(96)

    def val_dataloader(self) -> DataLoader:
        return self.loader(31, 1)

    test_dataloader = predict_dataloader = val_dataloader


def tiny(**settings: Any) -> FineTune:
    own: dict[str, Any] = {
        "input": Spectrogram(64, 32, patch=8, stride=8, mask_time=0.25, mask_freq=0.25),
        "task": MultiLabel(CLASSES),
        "vit": VIT,
        "r": 8,
        "lr": 5e-3,
        "warmup_epochs": 0,
        "layer_decay": 1.0,
        "head_init_std": 0.1,
    }
    return FineTune(**(own | settings))


def trainer(tmp_path: Path, *callbacks: Any, **settings: Any) -> Trainer:
    own: dict[str, Any] = {
        "default_root_dir": tmp_path,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
    }
    return Trainer(**(own | settings))


def test_it_learns_and_says_what_its_map_is_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tome = ToMeCallback(train_r=4, compare_dense=1)
    record = RunRecord(tmp_path / "run", "", None, tome)
    module = tiny()
    run = trainer(tmp_path, tome, record, max_epochs=8)
    with caplog.at_level("INFO"):
        run.fit(module, datamodule=Tones())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["metrics"]) == {"mAP"}
    assert summary["metrics"]["mAP"] > 0.7  # chance is 0.4
    assert summary["measured_on"] == "30 samples, 4 of 4 classes"
    assert "mAP " in caplog.text
    assert "on 30 samples, 4 of 4 classes; r=8" in caplog.text
    assert len(re.findall(r"Epoch \d: mAP [\d.]+% on 30 samples, 4 of 4 classes", caplog.text)) == 8
    assert (summary["r"], summary["train_r"]) == (8, 4)
    assert summary["plan"] == [8, 8, 8]
    assert summary["train_plan"] == [4, 4, 4]
    (trained,) = tome.meter.read()
    assert trained == (4, 4, 4)


def test_what_is_measured_is_the_plan_of_training_after_its_clamp(tmp_path: Path) -> None:
    tome = ToMeCallback(train_r=8)
    trainer(tmp_path, tome, max_steps=2, max_epochs=1).fit(tiny(), datamodule=Tones())
    (trained,) = tome.meter.read()
    assert trained == (8, 5, 2)  # of 19 tokens; evaluation has 33 and merges 8 in each block
    row = tome.report(tiny(), torch.device("cpu")).splitlines()[1].split()
    assert row[:2] == ["5.00", "4"]


def test_both_plans_are_told() -> None:
    text = ToMeCallback(train_r=6).describe(tiny(), "fit")
    assert "Token Merging for training: r=6" in text
    assert "tokens 19 13 7 4  (19 of 33: the others are masked in training)" in text
    assert "blocks 2 merge less than asked" in text
    assert "Token Merging for evaluation: r=8" in text
    assert "tokens 33 25 17 9" in text


def test_r_in_training_is_never_scaled_silently() -> None:
    text = ToMeCallback().describe(tiny(), "fit")
    assert "Token Merging for training: r=8" in text
    assert "tokens 19 11 6 4" in text
    assert "blocks 1, 2 merge less than asked" in text


def test_a_training_r_is_held_against_the_tokens_that_training_has(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"19 tokens a block can merge at most 9"):
        trainer(tmp_path, ToMeCallback(train_r=10), max_epochs=1).fit(tiny(), datamodule=Tones())
    trainer(tmp_path, ToMeCallback(train_r=9), fast_dev_run=True).fit(tiny(), datamodule=Tones())


def test_the_sanity_check_measures_nothing(tmp_path: Path) -> None:
    module = tiny()
    seen: list[int] = []
    module.val_metrics["mAP"].register_forward_pre_hook(lambda *_: seen.append(1))
    update = module.val_metrics.update
    module.val_metrics.update = lambda *a: seen.append(1) or update(*a)  # type: ignore[method-assign]
    run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=2, limit_val_batches=0.5)
    run.fit(module, datamodule=Tones())
    assert len(seen) == 2  # the batches of validation itself
    assert "val/mAP" in run.callback_metrics


def test_autocast_ties_no_scores_that_differ(tmp_path: Path) -> None:
    """Of 31 clips: bfloat16 logits of a new head would have a handful of values."""
    module = tiny(head_init_std=1e-3)
    batches = trainer(tmp_path, precision="bf16-mixed").predict(module, datamodule=Tones())
    scores = torch.cat([batch["scores"] for batch in batches])  # type: ignore[index,misc]
    assert scores.dtype == torch.float32
    assert all(len(column.unique()) == len(scores) for column in scores.T)


def test_scores_are_those_of_the_model_itself(tmp_path: Path) -> None:
    module = tiny().eval()
    x = torch.randn(3, 1, 64, 32)
    assert torch.equal(module.model(x, autocast_head=False), module(x))


def test_a_frozen_backbone_is_masked_as_planned(tmp_path: Path) -> None:
    module, seen = tiny(freeze="backbone"), []
    module.vit.blocks[0].norm1.register_forward_hook(lambda *args: seen.append(args[2].shape[1]))
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, datamodule=Tones())
    assert seen == [module.model.train_tokens] == [19]


def test_positions_that_were_resized_and_frozen_are_told(tmp_path: Path) -> None:
    image = Image(32, 8).build(**VIT, num_classes=10, global_pool="avg")
    torch.save({"model": image.state_dict()}, tmp_path / "image.pth")
    module = tiny(freeze="positions", checkpoint=str(tmp_path / "image.pth"))
    with pytest.warns(UserWarning, match="resized from 4x4 to 8x4, and model.freeze keeps them"):
        trainer(tmp_path, fast_dev_run=True).fit(module, datamodule=Tones())


def test_predictions_are_probabilities_of_each_class(tmp_path: Path) -> None:
    (first, *_) = trainer(tmp_path).predict(tiny(), datamodule=Tones())  # type: ignore[misc]
    assert first["scores"].shape == (8, CLASSES)
    assert ((first["scores"] > 0) & (first["scores"] < 1)).all()
    assert not torch.allclose(first["scores"].sum(dim=1), torch.ones(8))  # no softmax


def test_frozen_positions_stay_while_all_else_learns(tmp_path: Path) -> None:
    module = tiny(freeze="positions", checkpoint=None)
    before = {name: p.clone() for name, p in module.vit.named_parameters()}
    with pytest.warns(UserWarning, match="random positions stay as they are"):
        trainer(tmp_path, max_epochs=1).fit(module, datamodule=Tones())
    same = {name for name, p in module.vit.named_parameters() if torch.equal(p, before[name])}
    assert same == {"pos_embed"}
    names = [n for g in module.trainer.optimizers[0].param_groups for n in g["param_names"]]
    assert "pos_embed" not in names


@pytest.mark.parametrize(
    ("task", "multi", "words"),
    [
        (SingleLabel(CLASSES), True, r"any number of labels .* SingleLabel .*tasks\.MultiLabel"),
        (MultiLabel(CLASSES), False, r"one label a sample, .* MultiLabel .*tasks\.SingleLabel"),
    ],
)
def test_a_task_for_other_labels_is_refused(
    task: Any, multi: bool, words: str, tmp_path: Path
) -> None:
    data = Tones()
    data.multi_label = multi
    with pytest.raises(FineTuneError, match=words):
        trainer(tmp_path, max_epochs=1).fit(tiny(task=task), datamodule=data)


def test_a_checkpoint_brings_back_the_spectrogram_and_its_task(tmp_path: Path) -> None:
    module = tiny()
    run = trainer(tmp_path, fast_dev_run=True)
    run.fit(module, datamodule=Tones())
    run.save_checkpoint(tmp_path / "run.ckpt")
    back = FineTune.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    assert (back.input, back.task) == (module.input, module.task)
    x = torch.randn(2, 1, 64, 32)
    assert torch.equal(back.eval()(x), module.eval()(x))
