"""Ranks with other files, lists or classes than another do not start, whatever the verb."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from datamodules import AudioSet, DataError, ImageNet, Kinetics400
from tome_lightning import FineTune
from tome_lightning.trainer import same_data
from tome_lightning.trainer.same_data import Account, SharedDataError, compare, set_up_together

HERE = socket.gethostname()


def account(place: str, count: int, **more: Any) -> Account:
    return Account(place, {"the val split": f"{count} samples"}, **more)


def test_what_differs_is_one_line_with_the_nodes_and_both_counts() -> None:
    nodes = [account(f"node {n // 2} (n{n // 2})", 199 if n >= 6 else 200) for n in range(8)]
    with pytest.raises(SharedDataError) as refused:
        compare(nodes)
    assert str(refused.value).startswith(
        "the val split is not the same on all processes: 200 samples on node 0 (n0), node 1 (n1), node 2 "
        "(n2); 199 samples on node 3 (n3). Give all of them the same files"
    )


def test_processes_are_named_where_those_of_a_node_differ_and_no_more_than_some_nodes() -> None:
    with pytest.raises(
        SharedDataError, match=r"5 samples on process 0 of a, b; 6 samples on process 1 of a\. "
    ):
        compare([account("a", 5), account("a", 6), account("b", 5)])
    with pytest.raises(SharedDataError, match=r"1 samples on n0, n1, n2, n3 and 56 more; 2 samp"):
        compare([*(account(f"n{n}", 1) for n in range(60)), account("n60", 2)])


def test_a_fault_of_one_ends_all_and_a_fault_of_all_is_told_as_it_is() -> None:
    lost, own = account("b", 0, fault="no such folder"), DataError("no such folder")
    for error in (None, own):
        with pytest.raises(SharedDataError, match=r"^process 1 of b: no such folder$"):
            compare([account("a", 5), lost], error)
    with pytest.raises(SharedDataError, match=r"^no such folder$"):
        compare([lost, lost], own)


def test_what_is_no_mistake_of_the_user_keeps_its_traceback_and_ends_the_others_with_1() -> None:
    accounts = [account("a", 5), account("b", 0, fault="KeyError: 3", known=False)]
    bug = KeyError(3)
    with pytest.raises(KeyError) as raised:
        compare(accounts, bug)
    assert raised.value is bug
    with pytest.raises(SystemExit) as left:
        compare(accounts)
    assert left.value.code == 1


def test_equal_accounts_say_nothing() -> None:
    compare([account("a", 5), account("b", 5)])


def test_our_module_has_its_data_set_up_together() -> None:
    """In every verb: Lightning calls the hook before the data module's own set-up."""
    for processes in (1, 2):
        data = ImageNet("none")
        trainer = SimpleNamespace(
            datamodule=data, world_size=processes, callbacks=["resume", "guard"]
        )
        module: Any = SimpleNamespace(trainer=trainer, resume="resume", guard="guard")
        assert FineTune.configure_callbacks(module) == []
        assert isinstance(data.setup, same_data._Together) == (processes > 1)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def images(
    root: Path, classes: str = "ab", train: int = 4, val: int = 2, **settings: Any
) -> ImageNet:
    names = [f"train/{c}/{n}.png" for c in classes for n in range(train)]
    touch(root, *names, *(f"val/{c}/{n}.png" for c in classes for n in range(val)))
    return ImageNet(str(root), **{"batch_size": 2, "num_workers": 0, "size": 16} | settings)


def videos(root: Path, rank: int) -> Kinetics400:
    """A list that one node has in another order."""
    names = ["a.mp4", "b.mp4"]
    touch(root, *names)
    for split in ("train", "val"):
        rows = [f"{name} {label}" for label, name in enumerate(names)]
        (root / f"{split}.txt").write_text(
            "\n".join(rows[::-1] if rank and split == "val" else rows)
        )
    lists = {"train_list": "train.txt", "val_list": "val.txt", "class_list": None}
    return Kinetics400(str(root), batch_size=1, num_workers=0, **lists)


def sounds(root: Path, rank: int) -> AudioSet:
    """Lists of the same length with another label."""
    touch(root, "a.wav", "b.wav")
    (root / "labels.csv").write_text("index,mid,display_name\n0,/m/0,A\n1,/m/1,B\n")
    for split in ("train", "val"):
        label = "/m/1" if rank else "/m/0"
        rows = [{"wav": "a.wav", "labels": label}, {"wav": "b.wav", "labels": "/m/1"}]
        (root / f"{split}.json").write_text(json.dumps({"data": rows}))
    lists = {"train_list": "train.json", "val_list": "val.json", "label_csv": "labels.csv"}
    return AudioSet(str(root), batch_size=1, num_workers=0, **lists)


def excluding(root: Path, rank: int) -> Kinetics400:
    """One node leaves a video out of a list that is the same."""
    data = videos(root, 0)
    (root / "scan.json").write_text(json.dumps({"bad": [{"path": "a.mp4", "reason": ""}] * rank}))
    data.exclude = str(root / "scan.json")
    return data


def unlabelled(root: Path, rank: int) -> ImageNet:
    touch(root, "a.png", *(["b.png"] if rank else []))
    data = ImageNet(str(root), batch_size=2, num_workers=0, size=16)
    data.take_classes(["ant", "bee"], 2)
    return data


def broken(root: Path, rank: int) -> ImageNet:
    data = images(root)
    if rank:
        data.build = lambda split: 1 // 0  # type: ignore[method-assign, assignment, return-value]
    return data


ON = f"on node 0 ({HERE}); ", f" on node 1 ({HERE}). Give"
CASES: dict[str, tuple[Callable[[Path, int], Any], str, tuple[str, ...]]] = {
    "counts": (
        lambda root, rank: images(root, val=2 - rank),
        "validate",
        ("the val split", "4 samples (list ", ON[0], "2 samples (list ", ON[1]),
    ),
    "classes": (
        lambda root, rank: images(root, "ac" if rank else "ab"),
        "fit",
        ("2 classes (list ", *ON),
    ),
    "train": (  # the smaller one makes its batches smaller
        lambda root, rank: images(root, train=4 - rank, batch_size=8),
        "fit",
        ("the train split", "8 samples", ON[0], "6 samples", ON[1]),
    ),
    "order": (videos, "test", ("the test split", "2 samples (list ", *ON)),
    "labels": (sounds, "fit", ("the train split", "2 samples (list ", *ON)),
    "exclude": (excluding, "fit", ("the train split", "2 samples", ON[0], "1 samples", ON[1])),
    "unlabelled": (unlabelled, "predict", ("the test split", "1 samples", ON[0], "2 samples")),
    "batch": (
        lambda root, rank: images(root, batch_size=2 - rank),
        "fit",
        (f"data.batch_size is not the same on all processes: 2 {ON[0]}1{ON[1]}",),
    ),
    "missing": (
        lambda root, rank: ImageNet(str(root / "none")) if rank else images(root),
        "fit",
        (f"process 1 of node 1 ({HERE}): ", "none"),
    ),
}


def outcome(data: Any, stage: str, rank: int) -> str:
    """What a process is told as a run of two sets up its data."""
    trainer = SimpleNamespace(datamodule=data, world_size=2, node_rank=rank)
    set_up_together(SimpleNamespace(trainer=trainer))  # type: ignore[arg-type]
    try:
        data.setup(stage)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return f"set up with {getattr(data, 'cores', None)} cores"


def _rank(rank: int, folder: Path) -> None:
    """All cases in one group."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    told = {}
    for name, (make, stage, _) in CASES.items():
        data = make(folder / name / str(rank), rank)
        data.prepare_data()
        told[name] = outcome(data, stage, rank)
    told["broken"] = outcome(broken(folder / "broken" / str(rank), rank), "fit", rank)
    same = images(folder / "same" / str(rank))
    told["same"] = outcome(same, "fit", rank)
    if rank == 0:  # once set up in a run, it is a user's own again: on one process alone
        same.setup("fit")
    for name, cores in {"bound": [{0, 1, 2, 3}, {4, 5, 6, 7}], "free": [set(range(8))] * 2}.items():
        same_data.usable_cores = lambda cores=cores: tuple(cores[rank])
        told[name] = outcome(images(folder / "same" / str(rank)), "validate", rank)
    (folder / f"{rank}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list[dict[str, str]]:
    """What each of two processes was told of each case."""
    if sys.platform != "linux":
        pytest.skip("forks")
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(_rank, args=(folder,), nprocs=2, start_method="fork")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_processes_that_set_up_other_data_all_end_with_the_same_line(told, name) -> None:
    assert told[0][name] == told[1][name]
    assert told[0][name].startswith("SharedDataError: ")
    assert "\n" not in told[0][name]
    for part in CASES[name][2]:
        assert part in told[0][name]


def test_an_error_of_ours_on_one_process_is_raised_there_and_ends_the_other(told) -> None:
    assert told[1]["broken"].startswith("ZeroDivisionError")
    assert told[0]["broken"] == "SystemExit: 1"


def test_the_same_data_on_all_are_set_up_as_ever(told) -> None:
    assert told[0]["same"] == told[1]["same"]
    assert told[0]["same"].startswith("set up with")


def test_cores_that_tasks_are_bound_to_are_theirs_and_those_of_all_are_shared(told) -> None:
    assert [one["bound"] for one in told] == ["set up with 4 cores"] * 2
    assert [one["free"] for one in told] == ["set up with 4 cores"] * 2
