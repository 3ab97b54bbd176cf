"""The image data module: folders, lists, batches and what it refuses."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import seed_everything

from datamodules import DataError, ImageNet, samples
from datamodules.filelist import UNLABELLED
from datamodules.loader import EpochSampler


def small(root: Path, **settings: object) -> ImageNet:
    given = {"batch_size": 4, "size": 16, "num_workers": 0} | settings
    return ImageNet(str(root), **given)  # type: ignore[arg-type]


def write_lists(root: Path, train: str, val: str) -> None:
    (root / "train.txt").write_text(train)
    (root / "val.txt").write_text(val)


def test_the_class_index_is_the_alphabetical_order_of_the_folders(make_folder) -> None:
    data = small(make_folder(classes=("zebra", "Ant", "bee")))
    data.setup("fit")
    assert data.class_names == ["Ant", "bee", "zebra"]
    assert data.num_classes == 3
    files = data.samples("train").files
    assert {(Path(files[i][0]).parent.name, files[i][1]) for i in range(len(files))} == {
        ("Ant", 0), ("bee", 1), ("zebra", 2),
    }  # fmt: skip


def test_batches_keep_the_contract(make_folder) -> None:
    data = small(make_folder(), eval_batch_size=5)
    data.setup()
    x, y, ids = next(iter(data.train_dataloader()))
    assert (x.shape, x.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert (y.shape, y.dtype, ids.shape, ids.dtype) == ((4,), torch.int64, (4,), torch.int64)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        x, y, ids = next(iter(loader))
        assert (x.shape, y.shape, ids.tolist()) == ((5, 1, 3, 16, 16), (5,), [0, 1, 2, 3, 4])
        assert y.tolist() == [0, 0, 1, 1, 2]


def test_training_drops_the_last_incomplete_batch_and_evaluation_does_not(make_folder) -> None:
    data = small(make_folder(train=6, val=2))  # 18 and 6 images
    data.setup("fit")
    train_ids = torch.cat([ids for _, _, ids in data.train_dataloader()])
    val_ids = torch.cat([ids for _, _, ids in data.val_dataloader()])
    assert len(train_ids) == len(train_ids.unique()) == 16
    assert val_ids.tolist() == list(range(6))
    assert data.train_batches() == len(data.train_dataloader()) == 4
    assert data.train_batches(processes=2) == 2


def test_ids_name_the_label_of_their_file(make_folder) -> None:
    data = small(make_folder())
    data.setup("fit")
    for _, y, ids in data.train_dataloader():
        assert y.tolist() == [data.samples("train").files[int(i)][1] for i in ids]


def test_each_epoch_has_an_order_and_draws_of_its_own(make_folder) -> None:
    data = small(make_folder())
    data.setup("fit")
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        x, ids = zip(*[(x, ids) for x, _, ids in loader], strict=True)
        epochs.append((torch.cat(x), torch.cat(ids)))
    (x0, ids0), (x1, ids1), (x2, ids2) = epochs
    assert torch.equal(ids0, ids2)
    assert torch.equal(x0, x2)
    assert not torch.equal(ids0, ids1)
    shared = next(i for i in ids0.tolist() if i in ids1.tolist())
    assert not torch.equal(x0[ids0 == shared], x1[ids1 == shared])


def test_a_seed_gives_the_same_batches_with_any_number_of_workers(make_folder) -> None:
    root = make_folder()

    def epoch(seed: int, workers: int) -> list[torch.Tensor]:
        seed_everything(seed, workers=True, verbose=False)
        data = small(root, num_workers=workers)
        data.setup("fit")
        return [torch.cat(parts) for parts in zip(*data.train_dataloader(), strict=True)]

    expected = epoch(7, workers=0)
    assert all(torch.equal(a, b) for a, b in zip(expected, epoch(7, workers=2), strict=True))
    assert not torch.equal(expected[2], epoch(8, workers=0)[2])


def test_only_what_draws_is_seeded(make_folder, monkeypatch) -> None:
    """Seeding takes 24 microseconds a sample: once for a training image, never for one evaluated."""
    seeded: list[tuple[int, ...]] = []
    real = samples.seeded
    monkeypatch.setattr(samples, "seeded", lambda *key: seeded.append(key) or real(*key))
    data = small(make_folder())
    data.setup("fit")
    data.samples("val")[1]
    assert seeded == []
    data.samples("train")[1]
    assert len(seeded) == 1


def test_two_processes_share_an_epoch_in_equal_steps(make_folder) -> None:
    data = small(make_folder(train=7, val=1))  # 21 and 3 images
    data.setup("fit")

    def ids(split: str, train: bool) -> list[list[int]]:
        samples = data.samples(split)
        return [
            list(EpochSampler(samples, 2, rank, shuffle=train, seed=1, drop_last=train))
            for rank in range(2)
        ]

    first, second = ids("train", train=True)
    assert len(first) == len(second) == 10
    assert not set(first) & set(second)
    assert ids("val", train=False) == [[0, 2], [1, 0]]  # padded: id 0 comes twice


def test_living_workers_see_the_new_epoch(make_folder) -> None:
    root = make_folder()
    expected, found = [], []
    for workers, epochs in ((0, expected), (2, found)):
        data = small(root, num_workers=workers, persistent_workers=True)
        data.setup("fit")
        loader = data.train_dataloader()
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            epochs.append(torch.cat([x for x, _, _ in loader]))
    assert torch.equal(expected[0], found[0])
    assert torch.equal(expected[1], found[1])


def test_test_images_are_val_unless_there_is_a_labelled_test_folder(make_folder) -> None:
    root = make_folder(val=2)
    first = small(root)
    first.setup("test")
    assert first.samples("test").path(0) == str(root / "val/ant/0.png")
    (root / "test").mkdir()
    with pytest.warns(UserWarning, match="testing on val"):
        small(root).setup("test")
    shutil.copytree(root / "val", root / "test", dirs_exist_ok=True)
    last = small(root)
    last.setup("predict")
    assert last.samples("test").path(0) == str(root / "test/ant/0.png")


def test_validation_needs_no_training_images(make_folder) -> None:
    root = make_folder()
    shutil.rmtree(root / "train")
    data = small(root)
    data.setup("validate")
    assert len(data.samples("val")) == 6
    with pytest.raises(DataError, match="train is missing"):
        data.setup("fit")


def test_lists_give_the_same_samples_as_folders(make_folder) -> None:
    root = make_folder()
    folders = small(root)
    folders.setup("fit")
    lines = {}
    for split in ("train", "val"):
        files = folders.samples(split).files
        lines[split] = "\n".join("{},{}".format(*files[i]) for i in range(len(files)))
    write_lists(root, lines["train"], lines["val"])
    (root / "names.txt").write_text("ant\nbee\ncat\n")
    lists = small(root, train_list="train.txt", val_list="val.txt", class_list="names.txt")
    lists.setup("fit")
    assert lists.class_names == folders.class_names
    for split in ("train", "val"):
        assert lists.samples(split).files.digest() == folders.samples(split).files.digest()


def test_classes_of_a_list_are_numbered_when_no_names_are_given(make_folder) -> None:
    root = make_folder()
    write_lists(root, "train/ant/0.png 0\ntrain/bee/0.png 1\n", "val/bee/1.png 1\n")
    data = small(root, train_list="train.txt", val_list="val.txt", batch_size=1)
    data.setup("fit")
    assert data.class_names == ["0", "1"]
    assert next(iter(data.val_dataloader()))[1].tolist() == [1]


def remove_root(root: Path) -> None:
    shutil.rmtree(root)


def remove_val(root: Path) -> None:
    shutil.rmtree(root / "val")


def empty_train(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


def other_class(root: Path) -> None:
    (root / "val" / "bee").rename(root / "val" / "wasp")


def empty_class(root: Path) -> None:
    shutil.rmtree(root / "train" / "bee")
    (root / "train" / "bee").mkdir()


def one_class(root: Path) -> None:
    for split in ("train", "val"):
        for name in ("bee", "cat"):
            shutil.rmtree(root / split / name)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (remove_root, "pictures is not a folder"),
        (remove_val, "val is missing; expected val/<class>"),
        (empty_train, "train has no class folders"),
        (other_class, "val has not the class folders .* 1 missing .bee. and 1 unknown .wasp."),
        (empty_class, "train: 1 of 3 class folders hold no image, for example bee"),
        (one_class, "one class only .ant.: nothing to learn"),
    ],
)
def test_a_broken_folder_is_refused(make_folder, change: Callable[[Path], None], part: str) -> None:
    root = make_folder()
    change(root)
    with pytest.raises(DataError, match=part) as error:
        small(root).setup("fit")
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)


@pytest.mark.parametrize(
    ("train", "val", "part"),
    [
        ("train/ant/0.png 0\ntrain/bee/0.png\n", "val/ant/0.png 0", "train.txt, line 2: expected"),
        ("", "val/ant/0.png 0", "train.txt names no file"),
        ("gone.png 0\ntrain/bee/0.png 1", "val/ant/0.png 0", "gone.png, which is no file"),
        (
            "train/ant/0.png 1\ntrain/bee/0.png 2",
            "val/ant/0.png 1",
            "no file has label 0 of 0",
        ),
        ("train/ant/0.png 0\ntrain/bee/1.png 0", "val/ant/0.png 0", "one class only"),
    ],
)
def test_a_broken_list_is_refused(make_folder, train: str, val: str, part: str) -> None:
    root = make_folder()
    write_lists(root, train, val)
    with pytest.raises(DataError, match=part) as error:
        small(root, train_list="train.txt", val_list="val.txt").setup("fit")
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)


def test_a_label_beyond_the_class_names_is_refused(make_folder) -> None:
    root = make_folder()
    write_lists(root, "train/ant/0.png 0\ntrain/bee/0.png 1", "val/ant/0.png 7")
    (root / "names.txt").write_text("ant\nbee\n")
    with pytest.raises(DataError, match="label 7, but there are 2 classes"):
        small(root, train_list="train.txt", val_list="val.txt", class_list="names.txt").setup("fit")


def test_one_list_alone_is_refused_for_training(make_folder) -> None:
    root = make_folder()
    write_lists(root, "train/ant/0.png 0\ntrain/bee/0.png 1", "")
    with pytest.raises(DataError, match="val_list is not set"):
        small(root, train_list="train.txt").setup("fit")


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"num_workers": -1}, "num_workers must be 0 or more"),
        ({"size": 0}, "size must be 1 or more"),
        ({"channels": 1}, r"mean must be 1 numbers, one a channel, got \(0.485"),
        ({"std": (0.0, 1.0, 1.0)}, "std must be above 0"),
        ({"scale": (1.0, 0.5)}, "scale must be a range"),
        ({"crop_pct": 1.5}, r"crop_pct must be in \(0, 1\]"),
        ({"max_corrupt_share": 2.0}, r"max_corrupt_share must be in \[0, 1\], got 2.0"),
        ({"color_jitter": 0.4}, "color_jitter=0.4 has no effect with auto_augment"),
        ({"interpolation": "magic"}, "interpolation must be bilinear or bicubic, got 'magic'"),
        ({"auto_augment": "nonsense"}, "auto_augment='nonsense'"),
    ],
)
def test_a_meaningless_setting_is_refused_at_once(
    tmp_path: Path, settings: dict[str, object], part: str
) -> None:
    with pytest.raises(DataError, match=part) as error:
        small(tmp_path, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("asked", "given"), [(19, 18), (18, 18), (100, 18)])
def test_a_batch_is_no_larger_than_the_training_split(make_folder, asked, given) -> None:
    data = small(make_folder(), batch_size=asked)
    told = f"18 training samples.*do not fill one batch of {asked} each: batch_size is {given}"
    with contextlib.nullcontext() if asked == given else pytest.warns(UserWarning, match=told):
        data.setup("fit")
    assert data.batch_size == given
    assert data.train_batches() == 1


def test_an_empty_class_of_val_is_only_reported(make_folder) -> None:
    root = make_folder()
    shutil.rmtree(root / "val" / "bee")
    (root / "val" / "bee").mkdir()
    data = small(root)
    with pytest.warns(UserWarning, match="1 of 3 class folders hold no image, for example bee"):
        data.setup("fit")
    assert len(data.samples("val")) == 4


def test_no_more_workers_start_than_cores_or_batches(
    make_folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    data = small(make_folder(train=6, val=2), num_workers=64)  # 4 and 2 batches
    data.setup("fit")
    assert data.workers == 6
    with caplog.at_level("INFO"):
        assert data.train_dataloader().num_workers == 4
        assert data.val_dataloader().num_workers == 2
    for split, workers in (("train", 4), ("val", 2)):
        assert (
            f"{split}: {workers} loader processes instead of num_workers=64, since" in caplog.text
        )


def test_cores_that_are_known_to_be_this_process_s_are_not_divided_again(
    make_folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(12)), raising=False)
    data = small(make_folder(), num_workers=16)
    data.trainer = SimpleNamespace(num_devices=8)  # type: ignore[assignment]
    assert data.workers == 1  # of cores that all may run on
    data.cores = 12
    assert data.workers == 12


def test_too_few_workers_for_big_data_are_reported(
    make_folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr("datamodules.base.BIG", 10)
    with pytest.warns(UserWarning, match="num_workers=2 will probably .* try num_workers=8"):
        small(make_folder(), num_workers=2).setup("fit")


def test_state_is_plain_and_a_checkpoint_of_other_classes_is_refused(make_folder) -> None:
    data = small(make_folder())
    data.setup("fit")
    state = data.state_dict()
    assert state["class_names"] == ["ant", "bee", "cat"]
    assert {type(value) for value in state.values()} == {list, str}
    data.load_state_dict(state)
    with pytest.raises(DataError, match="class 1 is 'bug' there and 'bee' here"):
        data.load_state_dict(state | {"class_names": ["ant", "bug", "cat"]})
    with pytest.raises(DataError, match="4 there, 3 here, class 3 is 'dog' there and None here"):
        data.load_state_dict(state | {"class_names": ["ant", "bee", "cat", "dog"]})
    with pytest.warns(UserWarning, match="training files are not those of the checkpoint"):
        data.load_state_dict(state | {"train_digest": "0"})


def test_classes_of_a_checkpoint_stand_in_for_names_that_are_not_there(make_folder) -> None:
    root = make_folder()
    (root / "new.txt").write_text("val/ant/0.png 2\n")
    lists = {"train_list": "gone.txt", "test_list": "new.txt"}
    data = small(root, class_list="gone.txt", **lists)
    data.take_classes(["x", "y", "z"], 3)
    data.setup("test")
    assert data.class_names == ["x", "y", "z"]
    assert data.samples("test")[0][1] == 2
    (root / "names.txt").write_text("x\ny\nother\n")
    other = small(root, class_list="names.txt", **lists)
    other.take_classes(["x", "y", "z"], 3)
    with pytest.raises(DataError, match="class 2 is 'z' there and 'other' here"):
        other.load_state_dict({"class_names": ["x", "y", "z"]})


def test_a_list_read_for_prediction_is_no_list_to_test_with(make_folder) -> None:
    root = make_folder()
    (root / "new.txt").write_text("val/ant/0.png\nval/bee/0.png\n")
    data = small(root, test_list="new.txt")
    data.setup("predict")
    assert [y for _, y, _ in data.samples("test")] == [UNLABELLED] * 2
    assert data.class_names == ["ant", "bee", "cat"]  # root has them to say what they are
    with pytest.raises(DataError, match=r"new\.txt, line 1: expected .* for predict"):
        data.setup("test")
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match="has no labels, so nothing says what the classes are"):
        small(root, test_list="new.txt").setup("predict")


def test_loaders_before_setup_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train split is not set up"):
        small(tmp_path).train_dataloader()
