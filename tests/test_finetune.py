"""FineTune in the hands of a real Trainer, on CPU, with a ViT of two blocks and images of 16 x 16."""

import copy
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import checkpoints
from tome_lightning.finetune import FineTune, FineTuneError
from tome_lightning.inputs import Image
from tome_lightning.optim import lr_at
from tome_lightning.tasks import SingleLabel, TaskError

from .runs.processes import run_forks

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*`training_step` returned",
    "ignore:.*exists and",
)
VIT: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2}
SIZE: dict[str, Any] = {"img_size": 16, "patch_size": 4, **VIT}


class Toy(LightningDataModule):
    """Noise on a tile that each class repeats in every patch; in memory and in order."""

    def __init__(
        self,
        batch_size: int = 8,
        batches: int = 4,
        classes: int = 4,
        views: int = 1,
        val: int = 12,
        noise: float = 1.0,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.class_names = [f"class {i}" for i in range(classes)]
        generator = torch.Generator().manual_seed(0)
        tiles = torch.randn(classes, 3, 4, 4, generator=generator).tile(4, 4)

        def draw(count: int, shape: tuple[int, ...], seed: int) -> TensorDataset:
            generator.manual_seed(seed)
            y = torch.arange(count) % classes
            x = noise * torch.randn(count, *shape, 3, 16, 16, generator=generator)
            x += tiles[y].reshape(count, *[1] * len(shape), 3, 16, 16)
            return TensorDataset(x, y, torch.arange(count))

        self.train = draw(batches * batch_size, (), seed=1)
        self.val = draw(val, (views,), seed=2)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=8)

    test_dataloader = predict_dataloader = val_dataloader


class Probe(Callback):
    """Writes down what each optimizer step saw."""

    def __init__(self) -> None:
        self.lrs: list[list[float]] = []
        self.scales: list[float] = []
        self.losses: list[float] = []
        self.grad_norms: list[float] = []
        self.weights: list[dict[str, Tensor]] = []
        self._step = 0

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.lrs.append([group["lr"] for group in optimizer.param_groups])
        self.scales = [group["lr_scale"] for group in optimizer.param_groups]

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        grads = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        self.grad_norms.append(float(torch.stack(grads).norm()))
        self.weights.append(weights(pl_module))


def weights(module: FineTune) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.vit.state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def tiny(classes: int = 4, **changes: Any) -> FineTune:
    """Merges 4 of 17 tokens in each block; peak learning rate 0.01 at once, so that it learns."""
    vit = {**VIT, **changes.pop("vit", {})}
    settings = {"r": 4, "lr": 0.01, "warmup_epochs": 0, **changes}
    return FineTune(Image(16, 4), SingleLabel(classes), vit=vit, **settings)


def trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return Trainer(**{
        "default_root_dir": folder, "accelerator": "cpu", "logger": False, "max_epochs": 1,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        "enable_checkpointing": saves, "callbacks": list(callbacks), **settings,
    })  # fmt: skip


def saved_weights(path: Path, seed: int = 3, **changes: Any) -> Path:
    """A file with the state dict of a timm ViT of our size and large random values."""
    torch.manual_seed(seed)
    model = VisionTransformer(**{**SIZE, "num_classes": 4, "global_pool": "avg", **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save(model.state_dict(), path)
    return path


def encoder_file(folder: Path) -> Path:
    """As MAE publishes its encoders: a last norm, no head."""
    return saved_weights(folder / "encoder.pth", num_classes=0, global_pool="token")


def tuned_file(folder: Path) -> Path:
    """As MAE publishes its fine-tuned models: average pooling, fc_norm and head."""
    return saved_weights(folder / "tuned.pth")


def fit_and_save(folder: Path, module: FineTune | None = None, **settings: Any) -> Path:
    """The checkpoint of a run of one epoch."""
    module = tiny() if module is None else module
    run = trainer(folder, **settings)
    run.fit(module, datamodule=Toy())
    run.save_checkpoint(folder / "run.ckpt")
    return folder / "run.ckpt"


# Learning rate


@pytest.mark.parametrize("layer_decay", [0.75, 1.0])
def test_each_group_gets_the_schedule_times_its_scale_at_every_step(
    tmp_path: Path, layer_decay: float
) -> None:
    """5 batches, 2 to a step: the steps of an epoch are taken at 0, 2/5 and 4/5 of it."""
    probe = Probe()
    module = tiny(lr=None, base_lr=0.032, min_lr=1e-5, warmup_epochs=1, layer_decay=layer_decay)
    trainer(tmp_path, probe, max_epochs=2, accumulate_grad_batches=2).fit(
        module, datamodule=Toy(batches=5)
    )
    peak = 0.032 * 16 / 256
    epochs = [0, 0.4, 0.8, 1, 1.4, 1.8]
    assert len(probe.lrs) == len(epochs)
    assert (min(probe.scales), max(probe.scales)) == (layer_decay**3, 1)  # stem and head
    for lrs, epoch in zip(probe.lrs, epochs, strict=True):
        expected = [scale * lr_at(epoch, peak, 1e-5, 1, 2) for scale in probe.scales]
        assert lrs == pytest.approx(expected, rel=1e-12, abs=0)
    assert probe.lrs[0] == [0.0] * len(probe.scales)
    assert (len(set(probe.lrs[1])) > 1) == (layer_decay < 1)  # Lightning would drop lr_scale


@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_steps": 9, "max_epochs": -1}], ids=str)
def test_videomae_s_warm_up_ends_at_the_peak(tmp_path: Path, length: dict[str, int]) -> None:
    probe = Probe()
    module = tiny(lr=0.01, min_lr=1e-5, warmup_epochs=1, layer_decay=1.0, lr_schedule="videomae")
    trainer(tmp_path, probe, accumulate_grad_batches=2, **length).fit(
        module, datamodule=Toy(batches=5)
    )
    cosine = [1e-5 + 0.5 * (0.01 - 1e-5) * (1 + math.cos(math.pi * i / 6)) for i in range(6)]
    assert [lrs[0] for lrs in probe.lrs] == pytest.approx([0, 0.005, 0.01, *cosine], rel=1e-12)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "repeats"), [(8, 1, 1), (8, 4, 1), (4, 2, 1), (4, 2, 3)]
)
def test_the_peak_is_base_lr_times_the_effective_batch_over_256(
    tmp_path: Path, batch_size: int, accumulate: int, repeats: int
) -> None:
    data, module = Toy(batch_size=batch_size), tiny(lr=None, base_lr=1e-3)
    if repeats > 1:
        data.repeat_aug = repeats
    probe = Probe()
    run = trainer(tmp_path, probe, max_steps=1, accumulate_grad_batches=accumulate)
    run.fit(module, datamodule=data)
    assert module.effective_batch() == batch_size * accumulate * repeats
    expected = 1e-3 * batch_size * accumulate * repeats / 256
    assert max(probe.lrs[0]) == pytest.approx(expected, rel=1e-12)


def test_lr_is_taken_as_it_is(tmp_path: Path) -> None:
    probe = Probe()
    run = trainer(tmp_path, probe, max_steps=1, accumulate_grad_batches=2)
    run.fit(tiny(lr=0.007, base_lr=5.0), datamodule=Toy())
    assert max(probe.lrs[0]) == pytest.approx(0.007, rel=1e-12)


def test_base_lr_needs_a_datamodule_and_lr_does_not(tmp_path: Path) -> None:
    loader = Toy().train_dataloader()
    with pytest.raises(FineTuneError, match=r"datamodule with batch_size.*lr="):
        trainer(tmp_path).fit(tiny(lr=None), train_dataloaders=loader)
    probe = Probe()
    trainer(tmp_path, probe).fit(tiny(lr=0.01), train_dataloaders=loader)
    assert len(probe.losses) == 4


# Training


def test_a_learnable_toy_is_learned_with_merging(tmp_path: Path) -> None:
    probe, module, data = Probe(), tiny(), Toy(batches=16)
    assert sum(module.model.plan()) == 8
    run = trainer(tmp_path, probe, max_epochs=3)
    run.fit(module, datamodule=data)
    assert probe.losses[0] == pytest.approx(math.log(4), abs=1e-3)  # the head starts at almost 0
    assert sum(probe.losses[-16:]) / 16 < 0.1 * math.log(4)
    assert run.callback_metrics["train/loss"] == pytest.approx(probe.losses[-1])
    assert run.validate(module, datamodule=data, verbose=False)[0]["val/top1"] > 0.9


def test_data_with_other_classes_is_refused_before_training(tmp_path: Path) -> None:
    probe = Probe()
    with pytest.raises(TaskError, match="num_classes 6"):
        trainer(tmp_path, probe).fit(tiny(classes=4), datamodule=Toy(classes=6))
    assert probe.losses == []


def test_gradient_checkpointing_gives_equal_losses(tmp_path: Path) -> None:
    losses = []
    for enable in (False, True):
        torch.manual_seed(0)
        probe, module = Probe(), tiny(grad_checkpointing=enable)
        assert module.vit.grad_checkpointing is enable
        trainer(tmp_path, probe).fit(module, datamodule=Toy())
        losses.append(probe.losses)
    assert losses[0] == losses[1]  # the same operations on the same numbers
    assert len(set(losses[0])) == 4


def test_gradients_are_clipped(tmp_path: Path) -> None:
    free, clipped = Probe(), Probe()
    trainer(tmp_path, free).fit(tiny(), datamodule=Toy())
    trainer(tmp_path, clipped, gradient_clip_val=0.01).fit(tiny(), datamodule=Toy())
    assert min(free.grad_norms) > 0.02
    assert clipped.grad_norms == pytest.approx([0.01] * 4, rel=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_gradients_are_clipped_with_a_fused_optimizer_in_every_precision(
    tmp_path: Path, precision: Any
) -> None:
    probe = Probe()
    run = trainer(tmp_path, probe, precision=precision, gradient_clip_val=1e-3)
    run.fit(tiny(), datamodule=Toy())
    assert all(group["fused"] for group in run.optimizers[0].param_groups)
    assert probe.grad_norms
    assert all(norm <= 1.01e-3 for norm in probe.grad_norms)


def test_a_checkpoint_does_not_decide_whether_the_optimizer_is_fused(tmp_path: Path) -> None:
    path = fit_and_save(tmp_path)
    saved = torch.load(path, weights_only=True)
    for group in saved["optimizer_states"][0]["param_groups"]:
        assert group["fused"] is True
        group["fused"] = None  # as an older version saved it
    torch.save(saved, path)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(tiny(), datamodule=Toy(), ckpt_path=path, weights_only=True)
    assert all(group["fused"] is True for group in run.optimizers[0].param_groups)


def test_raw_pixels_are_refused_with_the_way_out(tmp_path: Path) -> None:
    x = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    batches = DataLoader(TensorDataset(x, torch.zeros(4).long(), torch.arange(4)), batch_size=4)
    with pytest.raises(FineTuneError, match=r"data\.prepare\(x\)"):
        trainer(tmp_path).fit(tiny(), batches)


def test_bf16_mixed_keeps_weights_and_loss_in_float32(tmp_path: Path) -> None:
    probe, module = Probe(), tiny()
    trainer(tmp_path, probe, precision="bf16-mixed", max_epochs=2).fit(module, datamodule=Toy())
    assert probe.losses[0] == pytest.approx(math.log(4), abs=1e-2)
    assert sum(probe.losses[4:]) < sum(probe.losses[:4])
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize(("pool", "trained"), [("avg", {"head", "fc_norm"}), ("token", {"head"})])
def test_freezing_the_backbone_trains_the_head_and_the_new_norm_only(
    tmp_path: Path, pool: str, trained: set[str]
) -> None:
    """MAE's encoders have no fc_norm: frozen, it would stay as it was initialised."""
    probe, module = Probe(), tiny(vit={"global_pool": pool}, freeze="backbone")
    before = weights(module)
    trainer(tmp_path, probe).fit(module, datamodule=Toy())
    after = weights(module)
    moved = {n for n in after if not torch.equal(before[n], after[n])}
    assert {name.partition(".")[0] for name in moved} == trained
    assert moved == {n for n in after if n.partition(".")[0] in trained}  # all of each
    assert set(probe.scales) == {1.0}


# Evaluation


def test_metrics_equal_plain_torch_over_all_samples(tmp_path: Path) -> None:
    """61 samples in batches of 8: a last batch of 5 must not count as much as the others."""
    module, data = tiny(classes=8), Toy(classes=8, val=61, noise=8.0)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(module, datamodule=data)
    x, y, _ = data.val.tensors
    with torch.no_grad():
        logits = module.eval()(x[:, 0])
    ranked = logits.argsort(dim=1, descending=True)
    expected = {k: float((ranked[:, :k] == y[:, None]).any(dim=1).float().mean()) for k in (1, 5)}
    for stage, call in (("val", run.validate), ("test", run.test)):
        got = call(module, datamodule=data, verbose=False)[0]
        assert 0 < got[f"{stage}/top1"] < got[f"{stage}/top5"] < 1
        assert got[f"{stage}/top1"] == pytest.approx(expected[1], abs=1e-6)
        assert got[f"{stage}/top5"] == pytest.approx(expected[5], abs=1e-6)
        assert got[f"{stage}/loss"] == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)


def views_and_loss(module: FineTune, data: Toy) -> tuple[Tensor, float]:
    """Mean over views of the softmax, and the loss of that, by plain torch."""
    x, y, _ = data.val.tensors
    with torch.no_grad():
        each = [module.eval()(x[:, view]).softmax(dim=1) for view in range(x.shape[1])]
    mean = torch.stack(each).mean(dim=0)
    return mean, float(-mean[torch.arange(len(y)), y].log().mean())


def test_scores_of_several_views_are_the_mean_of_their_softmax(tmp_path: Path) -> None:
    module, data = tiny(classes=8), Toy(classes=8, views=3, val=61, noise=4.0)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(module, datamodule=data)
    predicted = run.predict(module, datamodule=data)
    mean, _ = views_and_loss(module, data)
    assert torch.cat([batch["id"] for batch in predicted]).tolist() == list(range(61))
    torch.testing.assert_close(torch.cat([batch["scores"] for batch in predicted]), mean)
    top1 = float((mean.argmax(dim=1) == data.val.tensors[1]).float().mean())
    got = run.validate(module, datamodule=data, verbose=False)[0]
    assert 0 < top1 < 1
    assert got["val/top1"] == pytest.approx(top1, abs=1e-6)


def test_loss_of_several_views_is_that_of_their_mean_probability(tmp_path: Path) -> None:
    module, data = tiny(), Toy(views=3)
    run = trainer(tmp_path, max_epochs=4)
    run.fit(module, datamodule=data)
    got = run.validate(module, datamodule=data, verbose=False)[0]
    assert got["val/loss"] == pytest.approx(views_and_loss(module, data)[1], rel=1e-5)


# Where the weights come from


def test_fit_starts_from_the_encoder_with_a_new_small_head(tmp_path: Path) -> None:
    """One step at learning rate 0 (the start of warm-up) shows the initial weights."""
    path = encoder_file(tmp_path)
    module = FineTune(
        Image(16, 4), SingleLabel(50), vit=VIT, checkpoint=str(path), lr=1.0, warmup_epochs=1
    )
    trainer(tmp_path, max_steps=1).fit(module, datamodule=Toy(classes=50))
    got, file = weights(module), torch.load(path, weights_only=True)
    taken = {name: value for name, value in file.items() if not name.startswith("norm.")}
    assert_equal({name: got[name] for name in taken}, taken)
    assert set(got) - set(taken) == {
        f"{n}.{p}" for n in ("fc_norm", "head") for p in ("weight", "bias")
    }
    assert got["head.weight"].std().item() == pytest.approx(2e-5, rel=0.15)  # of 800 values
    assert not got["head.bias"].any()


def test_fit_gives_a_fine_tuned_file_a_new_head(tmp_path: Path) -> None:
    path = tuned_file(tmp_path)
    module = tiny(checkpoint=str(path), warmup_epochs=1, head_init_std=0.001)
    trainer(tmp_path, max_steps=1).fit(module, datamodule=Toy())
    got, file = weights(module), torch.load(path, weights_only=True)
    assert torch.equal(got["fc_norm.weight"], file["fc_norm.weight"])
    assert got["head.weight"].std().item() == pytest.approx(0.001, rel=0.4)  # of 64 values
    assert not got["head.bias"].any()


def test_fit_may_pool_otherwise_than_the_file_since_its_head_is_left_out(tmp_path: Path) -> None:
    path = saved_weights(tmp_path / "timm.pth", global_pool="token")
    module = tiny(checkpoint=str(path), vit={"global_pool": "avg"}, warmup_epochs=1)
    trainer(tmp_path, max_steps=1).fit(module, datamodule=Toy())
    file = torch.load(path, weights_only=True)
    assert torch.equal(weights(module)["cls_token"], file["cls_token"])


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluating_a_fine_tuned_file_keeps_its_head(tmp_path: Path, stage: str) -> None:
    path, data = tuned_file(tmp_path), Toy()
    module = tiny(checkpoint=str(path), r=0)
    getattr(trainer(tmp_path), stage)(module, datamodule=data)
    assert_equal(weights(module), torch.load(path, weights_only=True))


@pytest.mark.parametrize(("which", "taken"), [(None, "live"), ("live", "live"), ("ema", "ema")])
def test_of_live_weights_and_averages_an_option_chooses(
    tmp_path: Path, which: str | None, taken: str
) -> None:
    path = tuned_file(tmp_path)
    live = torch.load(path, weights_only=True)
    sets = {"live": live, "ema": {name: value + 1 for name, value in live.items()}}
    torch.save({"state_dict": sets["live"], "state_dict_ema": sets["ema"]}, path)
    module = tiny(checkpoint=str(path), weights=which)
    trainer(tmp_path).validate(module, datamodule=Toy())
    assert_equal(weights(module), sets[taken])
    assert module.load_report is not None
    assert module.load_report.taken == taken
    assert module.hparams["weights"] == which


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluating_an_encoder_is_refused_every_time(tmp_path: Path, stage: str) -> None:
    module, data = tiny(checkpoint=str(encoder_file(tmp_path))), Toy()
    for _ in range(2):  # asking again must not measure the random head after all
        with pytest.raises(FineTuneError, match=f"no head for 4 classes, so {stage}"):
            getattr(trainer(tmp_path), stage)(module, datamodule=data)


def test_fit_after_a_failed_load_does_not_start_from_random_weights(tmp_path: Path) -> None:
    path = encoder_file(tmp_path)
    module = tiny(checkpoint=str(path), warmup_epochs=1)
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    with pytest.raises(checkpoints.CheckpointError, match="truncated"):
        trainer(tmp_path).fit(module, datamodule=Toy())
    path.write_bytes(content)  # copied anew, and once more
    trainer(tmp_path, max_steps=1).fit(module, datamodule=Toy())
    file = torch.load(path, weights_only=True)
    assert torch.equal(weights(module)["cls_token"], file["cls_token"])


@pytest.mark.parametrize(
    ("make", "prop_attn", "pooling"),
    [
        pytest.param(encoder_file, False, "avg", id="MAE encoder"),
        pytest.param(tuned_file, False, "avg", id="MAE fine-tuned"),
        pytest.param(
            lambda folder: saved_weights(folder / "timm.pth", global_pool="token"),
            True, "token", id="supervised",
        ),
        pytest.param(lambda folder: None, False, "avg", id="none"),
    ],
)  # fmt: skip
def test_proportional_attention_and_pooling_follow_the_checkpoint(
    tmp_path: Path, make: Any, prop_attn: bool, pooling: str
) -> None:
    path = make(tmp_path)
    checkpoint = None if path is None else str(path)
    module = tiny(checkpoint=checkpoint)
    assert (module.model.prop_attn, module.vit.global_pool) == (prop_attn, pooling)
    # what is given wins
    module = tiny(checkpoint=checkpoint, prop_attn=not prop_attn, vit={"global_pool": "avgmax"})
    assert (module.model.prop_attn, module.vit.global_pool) == (not prop_attn, "avgmax")


def test_a_released_tome_model_pools_as_its_own_file_says() -> None:
    """ToMe's DeiT files classify the class token, its other files average."""
    module = FineTune(
        Image(32),
        SingleLabel(4),
        vit={"embed_dim": 192, "num_heads": 3, "depth": 12},
        checkpoint="tome_deit_tiny_r13",
    )
    assert (module.vit.global_pool, module.model.prop_attn) == ("token", True)


# What a checkpoint keeps


def builtin(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and builtin(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(builtin, value))
    return value is None or type(value) in (str, int, float, bool)


def test_a_checkpoint_loads_safely_and_its_hyper_parameters_are_plain(tmp_path: Path) -> None:
    path = fit_and_save(tmp_path, tiny(r=[4, 2], vit={"reg_tokens": 1}, checkpoint=None))
    saved = torch.load(path, weights_only=True)
    assert builtin(dict(saved["hyper_parameters"]))
    assert saved["hyper_parameters"]["r"] == [4, 2]
    assert saved["hyper_parameters"]["vit"] == {**VIT, "reg_tokens": 1, "global_pool": "avg"}
    assert saved["tome_lightning"]["class_names"] == Toy().class_names


def test_a_loaded_module_is_the_one_that_was_saved(tmp_path: Path) -> None:
    path, data = encoder_file(tmp_path), Toy()
    module = FineTune(
        Image(16, 4), SingleLabel(4, mixup=0.5, smoothing=0.1), vit=VIT, checkpoint=str(path),
        r={"r": 4, "inflection": -1.0}, prop_attn=True, lr=0.01, warmup_epochs=0,
    )  # fmt: skip
    run = fit_and_save(tmp_path, module)
    path.unlink()  # the weights it started from are not needed again
    loaded = FineTune.load_from_checkpoint(run)
    assert (loaded.input, loaded.task) == (module.input, module.task)
    assert (type(loaded.input), type(loaded.task)) == (Image, SingleLabel)
    assert (loaded.model.r, loaded.model.prop_attn) == ({"r": 4, "inflection": -1.0}, True)
    assert loaded.class_names == data.class_names
    assert dict(loaded.hparams) == dict(module.hparams)
    x = data.val.tensors[0][:, 0]
    assert torch.equal(loaded.eval()(x), module.eval()(x))


def test_a_module_of_a_named_architecture_loads_without_its_first_weights(tmp_path: Path) -> None:
    path = saved_weights(tmp_path / "timm.pth", global_pool="token", embed_dim=192, num_heads=3)
    module = FineTune(
        Image(16, timm_model="vit_tiny_patch16_224"), SingleLabel(4), checkpoint=str(path),
        vit={"depth": 2, "patch_size": 4}, lr=0.01, warmup_epochs=0,
    )  # fmt: skip
    run = fit_and_save(tmp_path, module, max_steps=1)
    path.unlink()
    loaded = FineTune.load_from_checkpoint(run)
    assert_equal(weights(loaded), weights(module))


def test_r_can_be_overruled_when_loading(tmp_path: Path) -> None:
    module = tiny()
    path = fit_and_save(tmp_path, module)
    dense = FineTune.load_from_checkpoint(path, r=0)
    assert dense.model.plan() == (0, 0)
    x = Toy().val.tensors[0][:, 0]
    assert torch.equal(dense.eval()(x), module.vit.eval()(x))  # without merging it is timm's model
    assert not torch.equal(dense(x), module.eval()(x))


def test_testing_a_loaded_module_keeps_its_trained_weights(tmp_path: Path) -> None:
    init, data = tuned_file(tmp_path), Toy()
    module = tiny(checkpoint=str(init))
    path = fit_and_save(tmp_path, module)
    loaded = FineTune.load_from_checkpoint(path)  # the initial file is still there
    expected = trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert trainer(tmp_path).test(loaded, datamodule=data, verbose=False) == expected
    assert_equal(weights(loaded), weights(module))
    assert not torch.equal(weights(loaded)["cls_token"], torch.load(init)["cls_token"])


def test_testing_with_ckpt_path_takes_that_checkpoint(tmp_path: Path) -> None:
    init = encoder_file(tmp_path)
    module = tiny(checkpoint=str(init))
    path = fit_and_save(tmp_path, module)
    other = tiny(checkpoint=str(init))
    trainer(tmp_path).test(other, datamodule=Toy(), ckpt_path=path, verbose=False)
    assert_equal(weights(other), weights(module))


def test_the_vit_s_weights_fit_a_stock_timm_model(tmp_path: Path) -> None:
    module = tiny()
    fit_and_save(tmp_path, module)
    stock = VisionTransformer(**SIZE, num_classes=4, global_pool="avg").eval()
    stock.load_state_dict(module.vit.state_dict(), strict=True)
    module.model.r = 0
    x = Toy().val.tensors[0][:, 0]
    assert torch.equal(stock(x), module.eval()(x))


@pytest.mark.parametrize("prop_attn", [False, True])
@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("reloaded", [False, True])
def test_a_run_that_starts_from_another_s_checkpoint_is_set_up_like_it(
    tmp_path: Path, prop_attn: bool, pool: str, reloaded: bool
) -> None:
    """Also when that one was itself loaded and trained further."""
    first = tiny(prop_attn=prop_attn, vit={"global_pool": pool})
    path = fit_and_save(tmp_path, first)
    if reloaded:
        first = FineTune.load_from_checkpoint(path)
        path = fit_and_save(tmp_path, first)
    second = tiny(checkpoint=str(path), warmup_epochs=1)
    assert (second.model.prop_attn, second.vit.global_pool) == (prop_attn, pool)
    trainer(tmp_path, max_steps=1).fit(second, datamodule=Toy())  # at learning rate 0
    got, expected = weights(second), weights(first)
    backbone = [name for name in got if not name.startswith("head.")]
    assert_equal({n: got[n] for n in backbone}, {n: expected[n] for n in backbone})


def test_a_resumed_run_ends_like_the_uninterrupted_one(tmp_path: Path) -> None:
    """Accumulated 2 of 5 batches to a step: 3 steps an epoch."""
    settings: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 2}
    data = Toy(batches=5)
    torch.manual_seed(0)
    whole, keep = Probe(), ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, monitor=None)
    module = tiny()
    trainer(tmp_path, whole, keep, **settings).fit(module, datamodule=data)
    torch.manual_seed(1)  # other initial weights, which the checkpoint replaces
    rest, resumed = Probe(), tiny()
    run = trainer(tmp_path, rest, **settings)
    run.fit(resumed, datamodule=data, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert run.global_step == 6
    assert rest.lrs == whole.lrs[3:]
    assert rest.losses == whole.losses[5:]
    assert_equal(weights(resumed), weights(module))


# Averaged weights


def test_a_module_deep_copies(tmp_path: Path) -> None:
    module = tiny()
    twin = copy.deepcopy(module)
    x = Toy().val.tensors[0][:, 0]
    assert torch.equal(twin.eval()(x), module.eval()(x))
    assert twin.model.plan() == module.model.plan() != (0, 0)
    with torch.no_grad():
        twin.vit.cls_token.add_(1)
    twin.model.r = 0
    assert module.model.r == 4
    assert not torch.equal(twin.vit.cls_token, module.vit.cls_token)


def test_averaged_weights_are_those_evaluated_and_saved(tmp_path: Path) -> None:
    probe, ema = Probe(), EMAWeightAveraging(decay=0.5)
    module, data = tiny(), Toy()
    run = trainer(
        tmp_path, probe, ema, ModelCheckpoint(tmp_path, "best", monitor=None), max_epochs=2
    )
    run.fit(module, datamodule=data)
    average = probe.weights[0]
    for new in probe.weights[1:]:
        average = {name: 0.5 * average[name] + 0.5 * new[name] for name in new}
    evaluated = run.callback_metrics["val/loss"]  # in the last validation, during fit
    torch.testing.assert_close(weights(module), average)
    assert not torch.equal(weights(module)["cls_token"], probe.weights[-1]["cls_token"])
    after = run.validate(module, datamodule=data, verbose=False)[0]["val/loss"]
    assert evaluated == pytest.approx(after, rel=1e-6)
    loaded = FineTune.load_from_checkpoint(tmp_path / "best.ckpt")
    assert_equal(weights(loaded), weights(module))


def test_averaging_starts_from_the_loaded_weights(tmp_path: Path) -> None:
    """Until the first average, validation shows what was loaded, not what was initialised."""
    path = encoder_file(tmp_path)
    seen = []

    class Look(Callback):
        def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(weights(pl_module)["cls_token"])

    ema = EMAWeightAveraging(decay=0.5, update_starting_at_step=1000)
    module = tiny(checkpoint=str(path), warmup_epochs=1)
    trainer(tmp_path, ema, Look(), max_steps=1, limit_train_batches=1, limit_val_batches=1).fit(
        module, datamodule=Toy()
    )
    assert len(seen) == 1
    assert torch.equal(seen[0], torch.load(path, weights_only=True)["cls_token"])


# Several processes

DDP = """
import functools
import sys
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from tome_lightning import FineTune, Image, SingleLabel

torch.set_num_threads(1)
devices, out, compiled = int(sys.argv[1]), sys.argv[2], "compiled" in sys.argv
torch.compile = functools.partial(torch.compile, backend="aot_eager")


class Data(LightningDataModule):
    batch_size, num_classes, class_names = 8 // devices, 4, list("abcd")

    def loader(self, seed, *views):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(32, *views, 3, 16, 16, generator=generator)
        data = TensorDataset(x, torch.arange(32) % 4, torch.arange(32))
        sampler = DistributedSampler(data, devices, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, self.batch_size, sampler=sampler)

    def train_dataloader(self):
        return self.loader(1)

    def val_dataloader(self):
        return self.loader(2, 1)


torch.manual_seed(0)
module = FineTune(
    Image(16, 4), SingleLabel(4), vit={"embed_dim": 16, "depth": 2, "num_heads": 2}, r=4,
    base_lr=0.064, warmup_epochs=1, compile=compiled,
)
trainer = Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2,
    logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, num_sanity_val_steps=0, gradient_clip_val=0.1,
    precision="64-true", use_distributed_sampler=False,
)
trainer.fit(module, datamodule=Data())
if trainer.is_global_zero:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    weights = {name: value.clone() for name, value in module.vit.state_dict().items()}
    torch.save({"metrics": metrics, "weights": weights, "peak": module.peak_lr()}, out)
"""


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples are dealt out in turn, so both runs see the same 8 at each step."""
    script = tmp_path / "train.py"
    script.write_text(DDP)
    monkeypatch.setattr(sys, "argv", [str(script), "1", str(tmp_path / "1.pt")])
    monkeypatch.setattr(torch, "compile", torch.compile)  # which the script replaces
    runpy.run_path(str(script), run_name="__main__")
    for words in (("2", "2.pt"), ("2", "compiled.pt", "compiled")):
        run_forks([sys.executable, str(script), *words], 2, tmp_path)
    one, two, compiled = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1", "2", "compiled")
    )
    torch.testing.assert_close(compiled["weights"], two["weights"], rtol=1e-7, atol=1e-9)
    assert one["peak"] == two["peak"] == pytest.approx(0.064 * 8 / 256)
    # all in float64: only the order of sums differs, which AdamW passes on to every weight
    torch.testing.assert_close(two["weights"], one["weights"], rtol=1e-7, atol=1e-9)
    assert two["metrics"]["val/top1"] == pytest.approx(one["metrics"]["val/top1"])
    assert two["metrics"]["val/loss"] == pytest.approx(one["metrics"]["val/loss"], rel=1e-5)
