"""What happens to files that cannot be read."""

import multiprocessing
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import DataError, ImageNet
from datamodules import samples as samples_module
from datamodules.failures import LOG_BYTES, NO_REASON, BadFiles
from datamodules.filelist import FileList, LabelledFiles
from datamodules.samples import Samples
from datamodules.sounds.tagged import TaggedList


def open_set(root: Path, **settings: object) -> ImageNet:
    data = ImageNet(str(root), batch_size=2, size=16, **settings)  # type: ignore[arg-type]
    data.setup("fit")
    return data


def spoil(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.write_bytes(path.read_bytes()[:60])


def test_a_bad_file_is_replaced_by_another_of_its_class(make_folder) -> None:
    root = make_folder(train=3)
    spoil(root, "train/bee/0.png", "train/bee/2.png")  # indices 3 and 5
    val = open_set(root, num_workers=0).build("val")
    train = open_set(root, num_workers=0).samples("train")
    plain = Samples("train", str(root), train.files, train.read, val.transform)
    x, y, index = plain[3]
    assert torch.equal(x, plain[4][0])
    assert (y, index) == (1, 3)
    assert torch.equal(plain[5][0], plain[4][0])  # 3 is bad as well
    assert plain.bad.count == 2
    assert plain.bad.seen == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_counted_in_the_main_process(make_folder, workers: int) -> None:
    root = make_folder()
    (root / "train/ant/1.png").write_bytes(b"")
    (root / "train/bee/3.png").write_bytes(b"not a picture")
    spoil(root, "train/cat/5.png")
    data = open_set(root, num_workers=workers)
    loader = data.train_dataloader()
    told = r"rank 0, train, epoch 0: 3 reads failed; 3 of 18 files seen.*ant/1.png"
    with pytest.warns(UserWarning, match=told):
        first = torch.cat([x for x, _, _ in loader])
    with pytest.warns(UserWarning, match=told):  # again, since reads fail in every epoch
        assert torch.equal(first, torch.cat([x for x, _, _ in loader]))
    assert data.samples("train").bad.failures == 6
    assert data.corrupt == 3
    errors = data.samples("train").bad.errors()
    assert list(errors) == [1, 9, 17]
    assert errors[9].startswith("UnidentifiedImageError: cannot identify")
    assert "truncated" in errors[17].lower() or "OSError" in errors[17]


def test_replacement_is_the_same_with_and_without_workers(make_folder) -> None:
    root = make_folder()
    spoil(root, "train/ant/0.png", "train/ant/1.png", "val/bee/0.png")
    with pytest.warns(UserWarning, match="cannot be read"):
        first, second = (list(open_set(root, num_workers=n).train_dataloader()) for n in (0, 2))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(u, v) for u, v in zip(a, b, strict=True))


def test_which_file_replaces_a_bad_one_depends_on_seed_epoch_and_id(make_folder) -> None:
    root = make_folder(train=30)
    spoil(root, "train/bee/0.png")  # index 30

    def used(seed: int, epoch: int) -> str:
        data = open_set(root, num_workers=0)
        opened: list[str] = []
        train, val = data.samples("train"), data.build("val")
        read = train.read

        def note(path: str) -> object:
            opened.append(Path(path).stem)
            return read(path)

        samples = Samples("train", str(root), train.files, note, val.transform, seed=seed)
        samples.set_epoch(epoch)
        assert samples[30][1] == 1
        assert opened[0] == "0"
        return opened[1]

    draws = {(seed, epoch): used(seed, epoch) for seed in (0, 1) for epoch in range(3)}
    assert draws == {key: used(*key) for key in draws}
    assert len(set(draws.values())) > 2


def test_an_evaluated_sample_that_cannot_be_read_has_no_label(make_folder) -> None:
    root = make_folder()
    spoil(root, "val/bee/0.png")
    data = open_set(root, num_workers=0)
    loader = data.val_dataloader()
    with pytest.warns(UserWarning, match="1 of 6 files seen so far.*left out of the metrics"):
        labels = torch.cat([y for _, y, _ in loader])
    assert labels.tolist() == [0, 0, -1, 1, 2, 2]
    assert [row["split"] for row in data.bad_files()] == ["val"]


def test_a_file_that_hangs_is_not_opened_again_and_too_many_stop_the_run(make_folder) -> None:
    train = open_set(make_folder(train=20), num_workers=0).samples("train")
    opened: list[str] = []

    def hang(path: str) -> object:
        opened.append(path)
        if Path(path).stem == "0":
            raise TimeoutError("no answer within 1 s")
        return train.read(path)

    samples = Samples("train", train.root, train.files, hang, train.transform, max_hung=2)
    samples[0]
    samples[0]
    assert opened.count(samples.path(0)) == 1
    samples[20]  # the first of the second class
    assert samples.bad.hung == 2
    with pytest.raises(DataError, match=r"3 reads hung.*max_hung=2.*read_timeout"):
        samples[40]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_large_a_share_of_bad_files_stops_the_run_in_one_line(make_folder, workers) -> None:
    root = make_folder(train=12)
    names = [f"train/{c}/{i}.png" for c in ("ant", "bee", "cat") for i in range(8)]
    spoil(root, *names)
    data = open_set(root, num_workers=workers)
    others = set(multiprocessing.active_children())
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(DataError, match=r"more than max_corrupt_share=0\.05") as error,
    ):
        list(data.train_dataloader())
    assert set(multiprocessing.active_children()) <= others  # whoever holds the error
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)
    assert type(error.value) is DataError


def test_a_high_enough_share_lets_the_run_go_on(make_folder) -> None:
    root = make_folder(train=12)
    spoil(root, *[f"train/{c}/{i}.png" for c in ("ant", "bee", "cat") for i in range(8)])
    data = open_set(root, num_workers=0, max_corrupt_share=1.0)
    with pytest.warns(UserWarning, match="24 of 36 files"):
        assert len(list(data.train_dataloader())) == 18


def test_retries_end_with_the_first_error_of_the_file(make_folder) -> None:
    root = make_folder(train=6)
    spoil(root, *[f"train/{name}/{i}.png" for name in ("ant", "bee", "cat") for i in range(6)])
    samples = open_set(root, num_workers=0, max_retries=2, max_corrupt_share=1.0).samples("train")
    with pytest.raises(DataError, match=r"ant/5.png after max_retries=2 .*ant/5.png \(") as error:
        samples[5]
    assert samples.bad.count == 5  # itself, two of its class, two of others
    assert "\n" not in str(error.value)


def test_a_class_without_a_readable_file_takes_another_and_its_label(make_folder) -> None:
    root = make_folder(train=2)
    spoil(root, "train/bee/0.png", "train/bee/1.png", "val/bee/0.png", "val/bee/1.png")
    data = open_set(root, num_workers=0)
    samples = data.samples("train")
    _, y, index = samples[2]
    assert (y in (0, 2), index) == (True, 2)
    labels = [data.samples("val")[i][1] for i in range(6)]
    assert labels == [0, 0, -1, -1, 2, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_line_that_stops_a_run_is_whole_whatever_errors_it_quotes(make_folder, workers) -> None:
    class InvalidDataError(ValueError):
        """As PyAV's: its name ends like ours."""

    def refuse(path: str) -> object:
        raise InvalidDataError("invalid data")

    data = open_set(make_folder(train=6), num_workers=workers)
    data.samples("train").read = refuse
    expected = r"^train: \d+ of \d+ files seen cannot be read.*\(InvalidDataError: invalid data\)"
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(DataError, match=expected),
    ):
        list(data.train_dataloader())


def test_draws_do_not_depend_on_what_is_known_of_bad_files(make_folder) -> None:
    root = make_folder(train=8)
    train = open_set(root, num_workers=0).samples("train")

    def hang(path: str) -> object:
        if Path(path).parent.name == "bee" and Path(path).stem in ("0", "1", "2", "3"):
            raise TimeoutError("no answer")
        assert random.random() >= 0  # a reader that draws
        return train.read(path)

    fresh = Samples("train", train.root, train.files, hang, train.transform)
    first = fresh[8]
    for index in (9, 10, 11):  # now it is known that they hang
        fresh[index]
    again = fresh[8]
    assert torch.equal(first[0], again[0])


def test_a_repeat_is_the_same_file_with_other_draws(make_folder) -> None:
    samples = open_set(make_folder(), num_workers=0).samples("train")
    views = [samples[4 + k * len(samples)] for k in range(3)]
    assert [(y, id) for _, y, id in views] == [(0, 4)] * 3
    assert not torch.equal(views[0][0], views[1][0])
    assert not torch.equal(views[1][0], views[2][0])
    assert torch.equal(views[2][0], samples[4 + 2 * len(samples)][0])


def test_a_loop_over_the_samples_ends(make_folder) -> None:
    samples = open_set(make_folder(), num_workers=0).samples("train")
    assert [id for _, _, id in samples] == list(range(18))


def test_an_error_of_the_transform_is_not_hidden(make_folder) -> None:
    def broken(image: object) -> torch.Tensor:
        raise RuntimeError("my mistake")

    samples = open_set(make_folder(), num_workers=0).samples("train")
    samples.transform = broken
    with pytest.raises(RuntimeError, match="my mistake"):
        samples[0]
    assert samples.bad.count == 0


def test_samples_survive_pickling_so_that_spawned_workers_get_them(make_folder) -> None:
    samples = open_set(make_folder(), num_workers=0).samples("train")
    copy = pickle.loads(pickle.dumps(samples))
    assert torch.equal(copy[4][0], samples[4][0])


def test_only_the_first_error_of_a_file_is_kept() -> None:
    bad = BadFiles(5, workers=0)
    bad.failed(2, OSError("first\nline"))
    bad.failed(2, OSError("second"))
    bad.read(3)
    bad.read(2)
    assert bad.errors() == {2: "OSError: first line"}
    assert (bad.count, bad.seen) == (1, 2)


def test_no_bad_file_is_lost_when_the_log_of_errors_is_full() -> None:
    files = 400
    bad = BadFiles(files, workers=0)
    for index in range(files):
        bad.failed(index, OSError("x" * 500))
    assert bad.count == files
    errors = bad.errors()
    assert list(errors) == list(range(files))
    told = [error for error in errors.values() if error != NO_REASON]
    assert 250 < len(told) <= LOG_BYTES // 200


def test_replacements_of_a_long_list_are_drawn_without_a_pass_over_it(monkeypatch) -> None:
    monkeypatch.setattr(samples_module, "FEW", 10)
    files = FileList((f"{n}.png" for n in range(3000)), np.repeat(np.arange(30), 100))
    tagged = TaggedList(files.paths.strings(), [[n // 100, 30] for n in range(3000)], 31)

    def replacements(files: LabelledFiles, epoch: int) -> list[int]:
        samples = Samples("train", "", files, read=str, transform=torch.tensor)
        return list(samples._candidates(250, (0, epoch, 250)))

    first = replacements(files, 0)
    assert replacements(files, 0) == first
    assert replacements(files, 1) != first
    assert first[0] == 250
    assert [files.label(row) == 2 for row in first[1:]] == [True] * 10 + [False] * 10
    assert len(set(first)) == 21
    share_all = replacements(tagged, 0)  # every file is a peer: none is left for the second ten
    assert len(set(share_all)) == len(share_all) == 11
    for kind in (FileList, TaggedList):
        monkeypatch.setattr(kind, "peers", None)  # what goes over the list
    assert replacements(files, 0) == first


def test_replacements_are_drawn_evenly_and_rare_classes_are_found(monkeypatch) -> None:
    monkeypatch.setattr(samples_module, "FEW", 10)
    monkeypatch.setattr(samples_module, "DRAWN", 64)
    files = FileList(map(str, range(5000)), [0] * 4980 + [1] * 20)
    samples = Samples("train", "", files, read=str, transform=torch.tensor, max_retries=3)
    drawn = [list(samples._candidates(4990, (0, 0, n)))[1:4] for n in range(400)]
    counts = np.bincount(np.ravel(drawn) - 4980, minlength=20)
    assert counts[10] == 0  # itself
    others = np.delete(counts, 10)
    # 1200 draws over 19 files: 63 each, five standard deviations of 7.7
    assert abs(others - 1200 / 19).max() < 39


def test_what_draws_nothing_is_not_seeded_and_what_draws_has_the_numbers_it_had(
    monkeypatch,
) -> None:
    files = FileList(["a"], [0])

    def draws(_: object) -> torch.Tensor:
        return torch.tensor([random.random(), np.random.random(), float(torch.rand(()))])

    x, _, _ = Samples("train", "", files, str, draws, seed=5, read_draws=False)[0]
    # of (seed 5, epoch 0, id 0), as every run so far has drawn them
    assert x.tolist() == pytest.approx([0.1910742, 0.1412260, 0.9281015], abs=1e-6)
    monkeypatch.setattr(samples_module, "seeded", None)
    plain = Samples("val", "", files, str, torch.tensor, read_draws=False, transform_draws=False)
    plain.transform = lambda _: torch.zeros(1)
    assert plain[0][0].tolist() == [0.0]
