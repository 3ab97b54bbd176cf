"""The audio data module: its lists and defaults, its batches, its epochs, and dirty files."""

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from torch import Tensor

from datamodules import AudioSet, BalancedSampler, DataError, sample_weights
from datamodules.sounds import audioset as home
from datamodules.sounds.features import MEAN, STD

from ..audio_tree import CLASSES, IDS, clips, write_json, write_segments, write_tree
from ..test_training import Recorder, trainer

SMALL = {"frames": 64, "mels": 16, "freq_mask": 4, "time_mask": 8}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "audioset")


def make(root: Path, **settings: Any) -> AudioSet:
    given = {"batch_size": 4, "num_workers": 0, **SMALL} | settings
    return AudioSet(str(root), **given)


def opened(root: Path, stage: str | None = "fit", **settings: Any) -> AudioSet:
    data = make(root, **settings)
    data.setup(stage)
    return data


def by_id(loader: Any) -> dict[int, Tensor]:
    """The labels of each clip."""
    batches = list(loader)
    ids = torch.cat([ids for _, _, ids in batches]).tolist()
    return dict(zip(ids, torch.cat([y for _, y, _ in batches]), strict=True))


def spoil(root: Path, split: str, *numbers: int) -> None:
    made = clips(split, 16)
    for number in numbers:
        (root / made[number].path).write_bytes(b"not a sound")


def test_batches_have_spectrograms_and_a_number_for_each_class(tree: Path) -> None:
    data = opened(tree)
    assert data.num_classes == 6
    assert data.class_names == list(CLASSES.values())
    assert data.sample_shape == (1, 64, 16)
    batches = list(data.train_dataloader())
    assert len(batches) == data.train_batches() == 4
    for x, y, ids in batches:
        assert (x.shape, y.shape, ids.shape) == ((4, 1, 64, 16), (4, 6), (4,))
        assert (x.dtype, y.dtype, ids.dtype) == (torch.float32, torch.float32, torch.int64)
    assert sorted(torch.cat([ids for _, _, ids in batches]).tolist()) == list(range(16))
    x, y, ids = next(iter(data.val_dataloader()))
    assert (x.shape, y.shape) == ((4, 1, 1, 64, 16), (4, 6))
    for row, clip in zip(y.tolist(), clips("eval", 6), strict=False):
        assert [label for label, on in enumerate(row) if on] == sorted(clip.labels)
    assert data.describe("val", 6) == "6 clips"


def test_mixed_clips_have_soft_labels_and_others_do_not(tree: Path) -> None:
    for mixup, soft in ((0.0, False), (1.0, True)):
        labels = torch.cat([y for _, y, _ in opened(tree, mixup=mixup).train_dataloader()])
        assert (((labels > 0) & (labels < 1)).any(dim=1).float().mean() > 0.5) == soft
        assert ((labels >= 0) & (labels <= 1)).all()


def test_the_defaults_are_those_of_audiomae(tmp_path: Path) -> None:
    data = AudioSet(str(tmp_path))
    assert data.sample_shape == (1, 1024, 128)
    front_end = data.front_end
    assert (front_end.mean, front_end.std) == (MEAN, STD) == (-4.2677393, 4.5689974)
    assert 10.2 < front_end.seconds < 10.3
    assert (data.mixup, data.draws, data.replacement) == (0.5, None, True)


@pytest.mark.parametrize(
    ("subset", "there", "train", "val"),
    [
        ("20k", ["train.json", "eval.json"], ["train.json"], "eval.json"),
        ("20k", ["balanced_train_segments.csv", "eval_segments.csv"],
         ["balanced_train_segments.csv"], "eval_segments.csv"),
        ("20k", ["train.json", "balanced_train_segments.csv", "train_all.json", "eval.json",
                 "eval_19k.json", "eval_segments.csv"], ["train.json"], "eval_19k.json"),
        ("2m", ["train_all.json", "train.json", "unbalanced_train_segments.csv",
                "balanced_train_segments.csv", "eval.json"], ["train_all.json"], "eval.json"),
        ("2m", ["unbalanced_train_segments.csv", "balanced_train_segments.csv", "train.json",
                "eval_segments.csv"],
         ["unbalanced_train_segments.csv", "balanced_train_segments.csv"], "eval_segments.csv"),
    ],
)  # fmt: skip
def test_lists_of_root_are_found_by_their_usual_names(
    subset: Any, there: list[str], train: list[str], val: str, tree: Path
) -> None:
    for path in [*tree.glob("*.json"), *tree.glob("*segments.csv")]:
        path.unlink()
    for name in there:  # the number of clips tells which list was read
        count = 2 + len(name)
        made = clips("train", 16)
        for n in range(count):
            (tree / f"audio/{name}-{n}.wav").touch()
        write = write_json if name.endswith("json") else write_segments
        label = ",".join(IDS[label] for label in made[0].labels)
        paths = {f"audio/{name}-{n}.wav" for n in range(count)}
        rows = paths if name.endswith("json") else {f"{name}-{n}" for n in range(count)}
        write(tree / name, dict.fromkeys(rows, label))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most classes have no clip
        data = opened(tree, stage=None, subset=subset)
    assert len(data.files("train")) == sum(2 + len(name) for name in train)
    assert len(data.files("val")) == len(data.files("test")) == 2 + len(val)
    assert data.files("test") is data.files("val")


@pytest.mark.parametrize("subset", ["20k", "2m"])
def test_without_a_list_the_usual_names_are_told(subset: Any, tree: Path) -> None:
    (tree / "train.json").unlink()
    (tree / "balanced_train_segments.csv").rename(tree / "unbalanced_train_segments.csv")
    names = {
        "20k": r"balanced_train_segments\.csv nor train\.csv; set data\.train_list",
        "2m": r"train_all\.json nor unbalanced_train_segments\.csv and balanced_train_segments\.csv",
    }
    with pytest.raises(DataError, match=names[subset]):
        make(tree, subset=subset).check("fit")
    make(tree, subset=subset).check("validate")
    (tree / "eval.json").unlink()
    (tree / "eval_segments.csv").unlink()
    with pytest.raises(DataError, match=r"eval_19k\.json nor eval\.json nor eval_segments\.csv"):
        make(tree).check("test")


def test_both_kinds_of_lists_give_the_same_clips(tree: Path) -> None:
    named = {"train_list": "balanced_train_segments.csv", "val_list": "eval_segments.csv"}
    first, second, third = opened(tree), opened(tree, **named), opened(tree, clips="audio", **named)
    for split in ("train", "val"):
        assert first.files(split).digest() == second.files(split).digest()
        assert first.files(split).digest() == third.files(split).digest()


def test_several_lists_are_trained_on_together(tree: Path) -> None:
    data = opened(tree, train_list=["train.json", "eval.json"], test_list="train.json", stage=None)
    assert [len(data.files(split)) for split in ("train", "val", "test")] == [22, 6, 16]


def test_a_clip_that_no_ending_tells_of_is_told_with_its_ending(tree: Path) -> None:
    """Found by its id among the files of a folder: 3gp is read, xyz is not, thumbnails are no clips."""
    first, second, third, *_ = clips("train", 16)
    for clip, name in ((first, "{}.3gp"), (second, "{}.xyz"), (third, "@eaDir/{}.wav")):
        target = (tree / clip.path).parent / name.format(clip.id)
        target.parent.mkdir(exist_ok=True)
        (tree / clip.path).rename(target)
    data = make(tree, train_list="balanced_train_segments.csv", clips="audio")
    told = r"audio, searched for them: left out: 1 files with other endings \(\.xyz 1\); 1 hidden, thumb"
    with pytest.warns(UserWarning, match=told):
        assert data.missing("train") == [second.id, third.id]
    assert data.files("train").path(0).endswith(".3gp")


def test_missing_clips_leave_the_list_and_are_told(tree: Path) -> None:
    made = clips("train", 16)
    for number in (1, 6, 9):
        (tree / made[number].path).unlink()
    told = rf"train: 3 of 16 clips listed are not there, e\.g\. {made[1].path}; they are left out"
    with pytest.warns(UserWarning, match=told):
        data = opened(tree, draws=32)
    assert len(data.files("train")) == len(data.samples("train")) == 13
    assert data.missing("train") == [made[number].path for number in (1, 6, 9)]
    assert data.missing("val") == data.missing("test") == []
    sampler = data.train_dataloader().sampler
    assert isinstance(sampler, BalancedSampler)
    kept = [clip.labels for number, clip in enumerate(made) if number not in (1, 6, 9)]
    assert torch.equal(sampler.weights, sample_weights(kept, 6))  # of the clips that are there


def test_a_class_that_lost_all_its_clips_is_told(tree: Path) -> None:
    rows = {clip.path: IDS[0] for clip in clips("train", 16)}
    write_json(tree / "train.json", rows)
    with pytest.warns(UserWarning, match="train: 5 of 6 classes have no clip, e.g. Male speech"):
        opened(tree)


def test_clips_listed_twice_stay_and_are_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(home, "rank_zero_info", lines.append)
    data = make(tree, train_list=["train.json", "balanced_train_segments.csv"])
    assert len(data.files("train")) == 32
    assert lines == ["train: 16 of 32 clips are listed repeatedly"]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_draws_is_as_long_as_asked_whatever_the_list_is(
    workers: int, tree: Path
) -> None:
    data = opened(tree, draws=30, num_workers=workers)
    loader = data.train_dataloader()
    assert len(loader) == data.train_batches() == 7  # 30 // 4
    assert data.train_batches(processes=3) == 2  # 10 // 4
    ids = torch.cat([ids for _, _, ids in loader])
    assert len(ids) == 28
    assert int(ids.max()) < 16
    assert len(ids.unique()) < 28  # more draws than clips


def test_each_process_has_its_own_share_of_the_draws(tree: Path, monkeypatch) -> None:
    shares = []
    for rank in range(2):
        data = opened(tree, draws=24)
        monkeypatch.setattr(AudioSet, "_processes", 2)
        monkeypatch.setattr(AudioSet, "_rank", rank)
        shares.append(data.sampler("train").indices())
        monkeypatch.undo()
    every = opened(tree, draws=24).sampler("train").indices()
    assert [shares[0], shares[1]] == [every[0::2], every[1::2]]


def test_draws_of_one_clip_in_an_epoch_are_augmented_differently(tree: Path) -> None:
    data = opened(tree, draws=40)
    seen: dict[int, list[Tensor]] = {}
    for x, _, ids in data.train_dataloader():
        for clip, id in zip(x, ids.tolist(), strict=True):
            seen.setdefault(id, []).append(clip)
    repeats = [views for views in seen.values() if len(views) > 1]
    assert repeats
    for first, *others in repeats:
        assert not any(torch.equal(first, other) for other in others)


def test_draws_without_replacement_are_no_more_than_clips(tree: Path) -> None:
    once = by_id(opened(tree, draws=16, replacement=False).train_dataloader())
    assert sorted(once) == list(range(16))
    with pytest.raises(DataError, match=r"draws must be at most the 16 clips there are.*got 17"):
        opened(tree, draws=17, replacement=False)


def test_a_few_draws_make_a_smaller_batch(tree: Path) -> None:
    with pytest.warns(UserWarning, match=r"5 training samples on 1 processes .*batch_size is 4"):
        data = opened(tree, batch_size=8, draws=5)
    assert data.train_batches() == len(data.train_dataloader()) == 1


def test_batches_do_not_depend_on_the_number_of_workers(tree: Path) -> None:
    def batches(workers: int) -> list[Tensor]:
        data = opened(tree, draws=12, num_workers=workers, prefetch_factor=1)
        return [tensor for batch in data.train_dataloader() for tensor in batch]

    expected = batches(0)
    for workers in (1, 2):
        assert all(map(torch.equal, batches(workers), expected))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_clips_are_replaced_in_training_and_not_counted_in_evaluation(
    workers: int, tree: Path
) -> None:
    spoil(tree, "train", 2, 9)
    spoil(tree, "eval", 4)
    data = opened(tree, num_workers=workers, mixup=0.0)
    with pytest.warns(UserWarning, match="2 of 16 files seen so far cannot be read"):
        labels = by_id(data.train_dataloader())
    assert float(labels[2][2]) == 1  # shares class 2
    assert float(labels[9][3] + labels[9][4]) >= 1  # class 3 or 4
    with pytest.warns(UserWarning, match="1 of 6 files seen.*left out of the metrics"):
        y = torch.cat([y for _, y, _ in data.val_dataloader()])
    assert y[4].tolist() == [-1] * 6
    assert (y[[0, 1, 2, 3, 5]] >= 0).all()
    assert data.corrupt == 3
    rows = {(row["split"], row["path"]) for row in data.bad_files()}
    made = {split: clips(split, 16) for split in ("train", "eval")}
    assert rows == {
        ("train", made["train"][2].path), ("train", made["train"][9].path),
        ("val", made["eval"][4].path),
    }  # fmt: skip


def test_the_bad_files_of_a_scan_are_left_out(tree: Path) -> None:
    bad = clips("train", 16)[3].path
    (tree / "scan.json").write_text(json.dumps({"bad": [{"path": bad, "reason": "x"}]}))
    data = opened(tree, exclude=str(tree / "scan.json"))
    assert len(data.files("train")) == 15
    assert bad not in [data.files("train").path(row) for row in range(15)]
    assert len(data.files("val")) == 6
    (tree / "scan.json").write_text("{}")
    with pytest.raises(DataError, match=r"is no result of `python -m tome_lightning scan`"):
        opened(tree, exclude=str(tree / "scan.json"))
    with pytest.raises(DataError, match=r"cannot read data\.exclude .*none\.json"):
        opened(tree, exclude=str(tree / "none.json"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset": "50k"}, "subset must be one of 20k, 2m, got '50k'"),
        ({"draws": 0}, "draws must be 1 or more, or null, got 0"),
        ({"train_list": []}, r"train_list must be a path, or a list of one or more, got \[\]"),
        ({"mixup": 1.5}, r"mixup must be in \[0, 1\], got 1.5"),
        ({"std": 0.0}, "std must be above 0"),
        ({"roll": "random"}, "roll must be circular or none"),
        ({"time_mask": 192}, "time_mask=192 is more than the 64"),
        ({"read_timeout": 0}, "read_timeout must be above 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: Any, message: str, tmp_path) -> None:
    with pytest.raises(DataError, match=message) as error:
        make(tmp_path, **settings)
    assert "\n" not in str(error.value)


def test_a_missing_root_or_label_csv_is_told(tree: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder; expected class_labels_indices"):
        make(tree / "nowhere").check("fit")
    with pytest.raises(DataError, match=r"cannot read .*/classes\.csv: No such file"):
        make(tree, label_csv="classes.csv").check("fit")
    (tree / "one.csv").write_text("index,mid,display_name\n0,/m/a,x\n")
    with pytest.raises(DataError, match=r"one\.csv has one class only"):
        make(tree, label_csv="one.csv").check("fit")


def test_torchaudio_is_asked_for_before_any_list_is_read(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise DataError("audio needs torchaudio")

    monkeypatch.setattr(home, "require_torchaudio", refuse)
    monkeypatch.setattr(home, "read_lists", None)
    with pytest.raises(DataError, match="audio needs torchaudio"):
        make(tree).setup("fit")


def test_a_checkpoint_of_other_classes_is_refused(tree: Path) -> None:
    state = opened(tree).state_dict()
    assert state["class_names"] == list(CLASSES.values())
    fewer = opened(tree)
    fewer.load_state_dict(state)
    with pytest.raises(DataError, match=r"class 1 is 'x' there and 'Male speech"):
        fewer.load_state_dict({**state, "class_names": ["Speech", "x"]})
    (tree / clips("train", 16)[0].path).unlink()
    with pytest.warns(UserWarning, match="1 of 16 clips listed"):
        other = opened(tree)
    with pytest.warns(UserWarning, match="training files are not those of the checkpoint"):
        other.load_state_dict(state)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(("workers", "stop"), [(0, 2), (2, 4)])
def test_a_resumed_run_draws_what_the_uninterrupted_one_drew(
    tree: Path, tmp_path: Path, workers: int, stop: int
) -> None:
    """3 batches an epoch: stopped in epoch 0 and in epoch 1."""
    path = tmp_path / "stopped.ckpt"
    whole, rest = Recorder(save_at=stop, path=path), Recorder()
    settings: dict[str, Any] = {"draws": 14, "num_workers": workers}
    trainer(tmp_path, max_epochs=3).fit(whole, datamodule=make(tree, **settings))
    assert [epoch for epoch, _, _ in whole.seen] == [0] * 3 + [1] * 3 + [2] * 3
    resumed: Trainer = trainer(tmp_path, max_epochs=3)
    resumed.fit(rest, datamodule=make(tree, **settings), ckpt_path=path)
    assert rest.seen == whole.seen[stop:]


def test_it_survives_pickling_so_that_spawned_processes_get_it(tree: Path) -> None:
    data = opened(tree)
    samples = pickle.loads(pickle.dumps(data.samples("train")))
    assert all(map(torch.equal, samples[3][:2], data.samples("train")[3][:2]))


def test_the_command_line_builds_it_and_explains_every_argument(tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(AudioSet, "data")
    assert [a.dest for a in parser._actions if a.dest != "help" and not a.help] == []
    words = [f"--data.root={tmp_path}", "--data.train_list=[a.json, b.csv]", "--data.draws=200000"]
    config = parser.parse_args([*words, "--data.subset=2m"])
    again = parser.parse_string(parser.dump(config))
    module = parser.instantiate_classes(again).data
    assert module.lists["train"] == ["a.json", "b.csv"]
    assert module.draws == 200_000
