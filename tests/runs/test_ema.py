"""Averaged weights: Lightning's callback beside FineTune, checkpoints, resuming and r."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

import checkpoints
from datamodules import Digits
from tome_lightning import FineTune, Image, SingleLabel, ToMeCallback
from tome_lightning.trainer.checkpoint_file import AtomicCheckpointIO
from tome_lightning.trainer.saving import SaveLast

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*exists and",
    "ignore:.*loading a checkpoint outside the 'fit' stage",
    "ignore:.*callbacks used to create the checkpoint",
    "ignore:.*LeafSpec",
    "ignore:.*val_check_interval",
)
DECAY = 0.75
Weights = dict[str, Tensor]


class Noise(LightningDataModule):
    """Six batches of four images of 16 x 16, and one to validate on."""

    batch_size, num_classes, class_names = 4, 4, list("abcd")

    def loader(self, *shape: int) -> DataLoader[Any]:
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        return DataLoader(
            TensorDataset(x, torch.arange(len(x)) % 4, torch.arange(len(x))), batch_size=4
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(24, 3, 16, 16)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(4, 1, 3, 16, 16)

    test_dataloader = predict_dataloader = val_dataloader


class Probe(Callback):
    """Writes down the live weights after each step, and what validation saw."""

    def __init__(self) -> None:
        self.live: list[Weights] = []
        self.validated: list[tuple[int, Weights]] = []  # r, weights
        self.trained_r: list[Any] = []
        self._step = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.trained_r.append(pl_module.model.r)
        if self.live:  # validation has given them back
            assert_equal(weights(pl_module), self.live[-1])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.live.append(weights(pl_module))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.validated.append((pl_module.model.r, weights(pl_module)))

    def averages(self) -> list[Weights]:
        """By hand: the first step's weights as they are, then decayed."""
        found = self.live[:1]
        for new in self.live[1:]:
            old = found[-1]
            found.append({name: DECAY * old[name] + (1 - DECAY) * new[name] for name in new})
        return found


def weights(module: FineTune) -> Weights:
    return {name: value.detach().clone() for name, value in module.vit.state_dict().items()}


def saved(checkpoint: dict[str, Any], part: str) -> Weights:
    """The ViT's weights in a checkpoint's ``state_dict`` (averages) or ``current_model_state``."""
    prefix = "model.vit."
    return {
        name.removeprefix(prefix): value
        for name, value in checkpoint[part].items()
        if name.startswith(prefix)
    }


def assert_equal(a: Weights, b: Weights) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def tiny(**changes: Any) -> FineTune:
    vit = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    return FineTune(
        Image(16, 4), SingleLabel(4), vit=vit, **{"r": 4, "lr": 0.01, "warmup_epochs": 0, **changes}
    )


def trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    return Trainer(**{
        "default_root_dir": folder, "accelerator": "cpu", "logger": False, "max_epochs": 2,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        "callbacks": list(callbacks), "plugins": [AtomicCheckpointIO()],
        "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks),
        **settings,
    })  # fmt: skip


def ema() -> EMAWeightAveraging:
    return EMAWeightAveraging(decay=DECAY)


def best(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "best", monitor=None, enable_version_counter=False)


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 12), (2, 6)])
def test_the_average_is_the_decayed_sum_over_optimizer_steps(
    tmp_path: Path, accumulate: int, steps: int
) -> None:
    probe, module = Probe(), tiny()
    run = trainer(tmp_path, probe, ema(), best(tmp_path), accumulate_grad_batches=accumulate)
    run.fit(module, datamodule=Noise())
    assert len(probe.live) == steps
    checkpoint = load(tmp_path / "best.ckpt")
    torch.testing.assert_close(saved(checkpoint, "state_dict"), probe.averages()[-1])
    assert_equal(saved(checkpoint, "current_model_state"), probe.live[-1])
    assert checkpoint["averaging_state"]["n_averaged"] == steps
    assert_equal(weights(module), saved(checkpoint, "state_dict"))  # what is left after training


def test_the_average_follows_the_model_once_the_strategy_has_moved_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning copies the model in setup, before any strategy but the simplest moves it."""
    moved: list[tuple[torch.device, bool]] = []
    run = trainer(tmp_path, ema(), max_steps=1)
    move = AveragedModel.to

    def to(self: AveragedModel, device: torch.device) -> AveragedModel:
        moved.append((device, run.fit_loop.epoch_progress.current.ready > 0))
        return move(self, device)

    monkeypatch.setattr(AveragedModel, "to", to)
    module = tiny()
    run.fit(module, datamodule=Noise())
    begun, ended = moved
    assert begun == (module.device, False)  # before the first epoch
    assert ended == (module.device, True)


def test_validation_sees_the_average_at_its_own_r_and_training_goes_on_as_it_was(
    tmp_path: Path,
) -> None:
    """Probe asserts before each step that the weights are those the last step left."""
    probe = Probe()
    run = trainer(tmp_path, ToMeCallback(train_r=3, eval_r=1), probe, ema(), val_check_interval=3)
    run.fit(tiny(), datamodule=Noise())
    averages = probe.averages()
    assert set(probe.trained_r) == {3}
    assert [r for r, _ in probe.validated] == [1] * 4
    for (_, seen), step in zip(probe.validated, (3, 6, 9, 12), strict=True):
        torch.testing.assert_close(seen, averages[step - 1])


def test_every_file_of_a_run_holds_the_average_and_the_live_weights(tmp_path: Path) -> None:
    """The last file as well: a longer run goes on from the live weights."""
    probe = Probe()
    last = SaveLast(every_n_steps=4)
    last.folder = tmp_path
    trainer(tmp_path, probe, ema(), best(tmp_path), last).fit(tiny(), datamodule=Noise())
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = load(tmp_path / name)
        torch.testing.assert_close(saved(checkpoint, "state_dict"), probe.averages()[-1])
        assert_equal(saved(checkpoint, "current_model_state"), probe.live[-1])


def test_averages_are_tested_whoever_tests(tmp_path: Path) -> None:
    """A new trainer with the callback or without it, and the one that has trained."""
    first, data = trainer(tmp_path, ema(), best(tmp_path)), Noise()
    module = tiny()
    first.fit(module, datamodule=data)
    path = tmp_path / "best.ckpt"
    checkpoint = load(path)
    for run in (trainer(tmp_path), trainer(tmp_path, ema()), first):
        for evaluate in (run.test, run.validate):
            other = module if run is first else tiny()
            evaluate(other, datamodule=data, ckpt_path=path, verbose=False)
            assert_equal(weights(other), saved(checkpoint, "state_dict"))


def test_starting_from_a_run_with_averages_starts_from_these(tmp_path: Path) -> None:
    trainer(tmp_path, ema(), best(tmp_path)).fit(tiny(), datamodule=Noise())
    path = tmp_path / "best.ckpt"
    average = saved(load(path), "state_dict")
    assert_equal(weights(FineTune.load_from_checkpoint(path, weights_only=True)), average)
    module = tiny()
    report = checkpoints.load(module.vit, str(path), head=True)
    assert_equal(weights(module), average)
    assert "best.ckpt (averaged weights)" in str(report)


class Stop(Callback):
    """Ends a run between two batches, as a kill would."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch * int(trainer.num_training_batches) + batch_idx == self.after:
            raise InterruptedError


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("cut", [3, 6, 9])  # inside an epoch, at its end, inside the next one
def test_a_resumed_run_ends_in_the_same_average_bit_for_bit(
    tmp_path: Path, cut: int, accumulate: int
) -> None:
    def run(name: str, resume: Path | None = None, *more: Callback) -> Path:
        seed_everything(1)
        folder = tmp_path / name
        module = FineTune(
            Image(28, 7, 1), SingleLabel(10, mixup=0.8), r=2, lr=0.01, warmup_epochs=0,
            vit={"embed_dim": 16, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2},
        )  # fmt: skip
        module.restoring = resume is not None
        last = SaveLast(every_n_steps=1, every_n_minutes=None)
        last.folder = folder
        trainer(
            folder, ToMeCallback(), ema(), best(folder), last, *more, limit_train_batches=6,
            limit_val_batches=1, accumulate_grad_batches=accumulate,
        ).fit(module, datamodule=Digits(batch_size=4, num_workers=0), ckpt_path=resume)  # fmt: skip
        return folder / "best.ckpt"

    whole = load(run("whole"))
    with pytest.raises(InterruptedError):
        run("cut", None, Stop(cut))
    resumed = load(run("cut", tmp_path / "cut" / "last.ckpt"))
    for part in ("state_dict", "current_model_state"):
        assert_equal(saved(resumed, part), saved(whole, part))
    assert resumed["averaging_state"] == whole["averaging_state"]
    assert resumed["global_step"] == whole["global_step"] == 12 // accumulate
