"""Whether the installed Lightning and torch still have what we use of them beyond what they promise."""

import argparse
import multiprocessing
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer, WeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from tome_lightning.trainer import lightning_internals as internals

OF_CLASSES = {  # what is called or overridden, and by whom
    "lightning.pytorch.cli.LightningCLI._get": "cli",
    "lightning.pytorch.cli.LightningCLI._parse_ckpt_path": "cli",
    "lightning.pytorch.cli.LightningCLI._parser": "cli",
    "lightning.pytorch.cli.LightningCLI._prepare_subcommand_kwargs": "cli",
    "lightning.pytorch.cli.LightningCLI._run_subcommand": "commands/prepared",
    "lightning.pytorch.loops.fit_loop._FitLoop._should_accumulate": "trainer/lightning_internals",
    "lightning.pytorch.loops.training_epoch_loop._TrainingEpochLoop._should_check_val_fx": (
        "trainer/lightning_internals"
    ),
    "timm.models.vision_transformer.VisionTransformer._pos_embed": "tome/model",
    "timm.layers.PatchEmbed._init_img_size": "inputs/spectrogram",
    "torch.nn.Module._load_from_state_dict": "tome/projection",
    "torch.nn.modules.batchnorm._NormBase": "trainer/lightning_internals",
    "torch._dynamo.config.accumulated_recompile_limit": "trainer/compiling",
    "torch._dynamo.config.recompile_limit": "trainer/compiling",
    "torch._subclasses.fake_tensor.FakeTensorMode": "tome/macs",
    "torch._C._get_cudnn_sdp_enabled": "tome/attention",
    "torch._C._get_flash_sdp_enabled": "tome/attention",
}
OF_OBJECTS: dict[str, tuple[str, Callable[[], object]]] = {
    "_signal_connector.register_signal_handlers": ("trainer/lightning_internals", lambda: quick()),
    "_logger_connector.should_update_logs": ("trainer/lightning_internals", lambda: quick()),
    "callbacks": ("trainer/lightning_internals", lambda: quick()),
    "fast_dev_run": ("trainer/lightning_internals", lambda: quick()),
    "log_every_n_steps": ("trainer/lightning_internals", lambda: quick()),
    "fit_loop.epoch_loop._broadcast_sigterm_tensor": (
        "trainer/lightning_internals", lambda: quick(),
    ),
    "fit_loop._data_fetcher": ("trainer/lightning_internals", lambda: quick()),
    "fit_loop.epoch_loop._batches_that_stepped": ("trainer/lightning_internals", lambda: quick()),
    "fit_loop.epoch_progress.current.started": ("trainer/lightning_internals", lambda: quick()),
    "fit_loop.epoch_loop.batch_progress.current.processed": (
        "trainer/lightning_internals", lambda: quick(),
    ),
    "fit_loop.epoch_loop.val_loop.batch_progress.is_last_batch": (
        "trainer/lightning_internals", lambda: quick(),
    ),
    "_duration": ("trainer/lightning_internals", lambda: Timer("00:00:01:00")),
    "_ddp_kwargs": ("trainer/lightning_internals", DDPStrategy),
    "_average_model": ("trainer/lightning_internals", WeightAveraging),
    "_device": ("trainer/lightning_internals", WeightAveraging),
    "_compiled_call_impl": ("trainer/lightning_internals", lambda: nn.Linear(1, 1)),
    "_step_supports_amp_scaling": ("trainer/lightning_internals", lambda: fused()),
    "_val_check_time_interval": ("trainer/lightning_internals", lambda: quick()),
    "_iterator": ("datamodules/loader", lambda: DataLoader([1])),
    "_parent_pid": ("datamodules/leaving", multiprocessing.Process),
    "_option_string_actions": ("arguments", argparse.ArgumentParser),
    "_actions": ("arguments", argparse.ArgumentParser),
}  # fmt: skip


def quick(**options: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "barebones": False}
    return Trainer(accelerator="cpu", enable_progress_bar=False, **quiet, **options)


def fused() -> torch.optim.Optimizer:
    return torch.optim.AdamW([nn.Parameter(torch.ones(1))], fused=True)


def reached(found: object, path: list[str], name: str, user: str) -> object:
    for i, part in enumerate(path):
        if not hasattr(found, part):
            versions = ", ".join(f"{one} {version(one)}" for one in ("lightning", "torch", "timm"))
            pytest.fail(f"{name} is gone ({'.'.join(path[: i + 1])}; {versions}): {user} uses it")
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_class_or_module_has_what_is_used_of_it(name: str):
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        try:
            module = import_module(".".join(parts[:i]))
        except ImportError:
            continue
        reached(module, parts[i:], name, OF_CLASSES[name])
        return
    pytest.fail(f"{name} cannot be imported: {OF_CLASSES[name]} uses it")


@pytest.mark.parametrize("name", OF_OBJECTS)
def test_an_object_has_what_is_used_of_it(name: str):
    user, build = OF_OBJECTS[name]
    reached(build(), name.split("."), name, user)


def test_a_name_that_is_gone_is_told_with_the_versions():
    with pytest.raises(pytest.fail.Exception, match=r"a\._b is gone \(_b; lightning \d.*cli uses"):
        reached(object(), ["_b"], "a._b", "cli")


def test_signals_and_sigterm_are_no_longer_lightning_s():
    trainer: Any = quick()
    internals.leave_signals_alone(trainer)
    internals.ask_nobody_for_sigterm(trainer)
    assert trainer._signal_connector.register_signal_handlers() is None
    assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None


class Noting(Callback):
    """Notes that it is called."""

    called = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.called = True


def test_a_callback_that_is_appended_is_called():
    trainer, callback = quick(max_steps=1, limit_val_batches=0), Noting()
    internals.callbacks_of(trainer).append(callback)
    trainer.fit(BoringModel())
    assert callback.called


def test_options_and_limits_are_read_as_given():
    assert internals.log_every_n_steps(quick(log_every_n_steps=7)) == 7
    assert internals.time_limit(Timer("00:00:01:00")) == 60
    assert internals.ddp_options(DDPStrategy(broadcast_buffers=False)) == {
        "broadcast_buffers": False
    }
    assert internals.has_batch_norm(nn.Sequential(nn.BatchNorm1d(1)))
    assert not internals.has_batch_norm(nn.LayerNorm(1))


def test_an_average_is_that_of_weight_averaging_alone():
    average, module = WeightAveraging(device="cpu"), BoringModel()
    assert internals.average_of(EarlyStopping("x")) is None
    assert internals.average_of(average) is None
    average.setup(quick(), module, "fit")
    copied = internals.average_of(average)
    assert copied is not None
    assert torch.equal(copied.module.layer.weight, module.layer.weight)
    assert internals.has_own_device(average)


def test_a_fused_optimizer_is_one_that_leaves_clipping_to_lightning():
    optimizer: Any = fused()
    assert optimizer._step_supports_amp_scaling
    internals.divides_no_gradients(optimizer)
    assert not optimizer._step_supports_amp_scaling
