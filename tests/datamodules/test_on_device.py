"""What workers leave to the device: few bytes on the way, the same pixels, the same draws."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from datamodules import DataError, ImageNet
from datamodules.on_device import DeviceTransform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RAW = (0.0,) * 3, (1.0,) * 3
KEYS = [(0, 0, number, 0) for number in range(8)]
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def plain(count: int, *shape: int) -> Tensor:
    return torch.full((count, 3, *shape), 200, dtype=torch.uint8)


def erased(x: Tensor) -> Tensor:
    """Where pixels are not the 200 of `plain`, with `RAW` scale."""
    return (x - 200 / 255).abs() > 1e-6


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (2, 7, 3, 5, 6)])
def test_any_number_of_views_is_normalised_by_channel(shape: tuple[int, ...]) -> None:
    x = torch.randint(0, 256, shape, dtype=torch.uint8)
    y = DeviceTransform(MEAN, STD, 2)(x)
    assert (y.shape, y.dtype) == (x.shape, torch.float32)
    for channel in range(3):
        expected = (x.select(-3, channel).double() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(y.select(-3, channel), expected.float())


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_an_erased_box_is_the_same_in_all_frames(mode: str) -> None:
    views = DeviceTransform(*RAW, 3, reprob=1.0, remode=mode)(plain(8, 4, 40, 40), KEYS)
    boxes = erased(views)
    for view, box in zip(views, boxes, strict=True):
        assert (box == box[:1, :1]).all()
        rows, columns = box[0, 0].nonzero(as_tuple=True)
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert len(rows) == height * width  # it is a box
        frames = view[:, :, rows, columns]  # [C, T, pixels]
        if mode == "const":
            assert (frames == 0).all()
        elif mode == "rand":
            assert (frames == frames[..., :1]).all()
        else:
            assert (frames[:, 0] != frames[:, 1]).any(-1).all()  # the noise is redrawn
    assert len(boxes[:, 0, 0].unique(dim=0)) == len(boxes)  # each view has a box of its own


def test_noise_of_the_erased_box_is_standard_normal_in_normalised_pixels() -> None:
    black = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    x = DeviceTransform(MEAN, STD, 2, reprob=1.0)(black, KEYS)
    outside = -torch.tensor(MEAN) / torch.tensor(STD)
    inside = x[(x - outside.view(3, 1, 1)).abs() > 1e-6]
    assert len(inside) > 1000
    assert abs(float(inside.mean())) < 0.1
    assert float(inside.std()) == pytest.approx(1, abs=0.1)


def test_a_quarter_is_erased_at_a_probability_of_a_quarter() -> None:
    keys = [(0, 0, number, 0) for number in range(400)]
    x = DeviceTransform(*RAW, 2, reprob=0.25)(plain(400, 16, 16), keys)
    assert 65 <= int(erased(x).flatten(1).any(1).sum()) <= 135  # four standard deviations


def test_evaluation_and_a_probability_of_zero_erase_nothing() -> None:
    for transform, keys in (
        (DeviceTransform(*RAW, 2, reprob=1.0), None),
        (DeviceTransform(*RAW, 2, reprob=0.0), KEYS),
    ):
        assert not erased(transform(plain(8, 16, 16), keys)).any()


def test_what_is_erased_depends_on_the_key_and_not_on_the_batch() -> None:
    transform = DeviceTransform(*RAW, 2, reprob=0.7)
    whole = transform(plain(8, 16, 16), KEYS)
    halves = [transform(plain(4, 16, 16), keys) for keys in (KEYS[4:], KEYS[:4])]
    assert torch.equal(torch.cat(halves[::-1]), whole)
    for place in range(4):  # seed, epoch, id, view
        others = [(*key[:place], key[place] + 9, *key[place + 1 :]) for key in KEYS]
        assert not torch.equal(transform(plain(8, 16, 16), others), whole)


def test_erasing_leaves_the_generators_of_the_process_alone() -> None:
    random.seed(3), torch.manual_seed(3)
    expected = random.random(), float(torch.rand(()))
    random.seed(3), torch.manual_seed(3)
    DeviceTransform(*RAW, 2, reprob=1.0)(plain(8, 16, 16), KEYS)
    assert (random.random(), float(torch.rand(()))) == expected


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"reprob": -0.1}, "reprob must be in"),
        ({"remode": "grey"}, "remode must be pixel, rand or const, got 'grey'"),
        ({"recount": 0}, "recount must be 1 or more, got 0"),
    ],
)
def test_a_setting_without_meaning_is_one_clear_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError, match=line) as error:
        DeviceTransform(MEAN, STD, 2, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_way_over_cuda_waits_for_nothing_and_repeats_itself() -> None:
    x = torch.randint(0, 256, (8, 3, 4, 32, 32), dtype=torch.uint8)
    transform = DeviceTransform(MEAN, STD, 3, reprob=0.7)
    on_gpu = x.cuda()
    first = transform(on_gpu, KEYS)
    before = torch.cuda.get_rng_state()
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = transform(on_gpu, KEYS)
        kept = transform(on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, second)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    torch.testing.assert_close(kept.cpu(), transform(x))
    # the boxes are those of the CPU, the noise in them is the device's own
    assert torch.equal((first != kept).cpu(), transform(x, KEYS) != transform(x))


def open_images(root: Path, **settings: Any) -> ImageNet:
    return ImageNet(str(root), **{"batch_size": 4, "size": 16, "num_workers": 0} | settings)


def test_a_worker_sends_a_quarter_of_the_bytes(make_folder: Any) -> None:
    data = open_images(make_folder(), num_workers=1)
    data.setup("fit")
    for loader, view in ((data.train_dataloader(), ()), (data.val_dataloader(), (1,))):
        x, _, _ = next(iter(loader))
        assert (x.shape, x.dtype) == ((4, *view, 3, 16, 16), torch.uint8)
        ready = data.prepare(x)
        assert (ready.shape, ready.dtype) == (x.shape, torch.float32)
        assert 4 * x.nbytes == ready.nbytes
        assert data.prepare(ready) is ready  # what is ready stays as it is


def test_views_of_a_sample_are_erased_apart(make_folder: Any) -> None:
    data = open_images(make_folder(), mean=RAW[0], std=RAW[1], reprob=1.0)
    data.setup("fit")
    ids = torch.tensor([5, 2, 5, 2])
    boxes = erased(data.prepare(plain(4, 16, 16), train_ids=ids))
    assert len(boxes.unique(dim=0)) == 4
    again = erased(data.prepare(plain(2, 16, 16), train_ids=ids[1:3]))
    assert torch.equal(again, boxes[[1, 0]])  # the first view of each
    data.samples("train").set_epoch(1)
    assert not torch.equal(erased(data.prepare(plain(4, 16, 16), train_ids=ids)), boxes)


class Watcher(LightningModule):
    """Writes down the batches that its steps get."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: dict[str, list[tuple[Tensor, list[int]]]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        self.seen["train"].append((batch[0], batch[2].tolist()))
        return self.layer(batch[0].mean().to(self.layer.weight).reshape(1)).sum()

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.seen["val"].append((batch[0], batch[2].tolist()))

    def predict_step(self, batch: list[Tensor], index: int) -> None:
        self.seen["test"].append((batch[0], batch[2].tolist()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(folder: Path, **settings: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, max_epochs=2, **settings,
    )  # fmt: skip


def test_in_a_trainer_training_erases_and_nothing_else_does(
    make_folder: Any, tmp_path: Path
) -> None:
    """Each batch is the loader's own, by hand: also after the validation in mid-epoch."""
    root = make_folder()
    settings: dict[str, Any] = {"reprob": 1.0, "remode": "const", "auto_augment": None}
    seen = Watcher()
    runner = trainer(tmp_path, val_check_interval=2, num_sanity_val_steps=1)
    runner.fit(seen, datamodule=open_images(root, **settings))
    runner.predict(seen, datamodule=open_images(root, **settings))
    data = open_images(root, **settings)
    data.setup()
    expected = []
    loader = data.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        expected += [(data.prepare(x, train_ids=ids), ids.tolist()) for x, _, ids in loader]
    assert len(seen.seen["train"]) == len(expected) == 8
    for (x, ids), (ready, same_ids) in zip(seen.seen["train"], expected, strict=True):
        assert ids == same_ids
        assert torch.equal(x, ready)
        assert (x == 0).flatten(1).any(1).all()
    val, test = list(data.val_dataloader()), list(data.test_dataloader())
    assert len(seen.seen["val"]) == 1 + 4 * len(val)
    for (x, ids), (pixels, _, same_ids) in zip(
        seen.seen["val"] + seen.seen["test"], [val[0], *4 * val, *test], strict=True
    ):
        assert ids == same_ids.tolist()
        assert torch.equal(x, data.prepare(pixels))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)]
)
def test_pixels_arrive_in_the_precision_of_the_run(
    make_folder: Any, tmp_path: Path, precision: Any, dtype: torch.dtype
) -> None:
    seen = Watcher()
    trainer(tmp_path, precision=precision, limit_train_batches=1, limit_val_batches=1).fit(
        seen, datamodule=open_images(make_folder())
    )
    assert {x.dtype for x, _ in seen.seen["train"] + seen.seen["val"]} == {dtype}
