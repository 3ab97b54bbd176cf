"""Lists of files with several labels each, and what they share with lists of one label each."""

import pickle

import numpy as np
import pytest
import torch

from datamodules import DataError
from datamodules.filelist import LabelledFiles
from datamodules.sounds.tagged import TaggedList

PATHS = ["a/1.wav", "ü ber.flac", "odd\udcff.wav", "b.wav", "c.wav"]
LABELS = [[2, 0], [1], [], [0], [2, 1, 2]]


def tagged() -> TaggedList:
    return TaggedList(PATHS, LABELS, num_classes=4)


def same(first: LabelledFiles, second: LabelledFiles) -> bool:
    rows = range(len(first))
    return len(first) == len(second) and all(first[row] == second[row] for row in rows)


def test_items_come_back_each_class_once() -> None:
    files = tagged()
    assert [files[i] for i in range(5)] == list(
        zip(PATHS, [(0, 2), (1,), (), (0,), (1, 2)], strict=True)
    )
    assert files[-1] == ("c.wav", (1, 2))
    with pytest.raises(IndexError):
        files[5]


def test_targets_are_multi_hot() -> None:
    files = tagged()
    assert [files.target(i).tolist() for i in (0, 2, 4)] == [
        [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0],
    ]  # fmt: skip
    assert files.target(0).dtype == torch.float32
    assert files.unread_target.tolist() == [-1] * 4
    assert files.unread_target.dtype == torch.float32


def test_peers_share_a_label() -> None:
    files = tagged()
    expected = {0: [0, 3, 4], 1: [1, 4], 2: [], 3: [0, 3], 4: [0, 1, 4]}
    assert {i: np.flatnonzero(files.peers(i)).tolist() for i in range(5)} == expected


def test_classes_are_counted_over_all_files_or_some() -> None:
    files = tagged()
    assert files.class_counts(4).tolist() == [2, 2, 2, 0]
    assert files.class_counts(4, np.array([True, False, True, False, True])).tolist() == [
        1,
        1,
        2,
        0,
    ]


def test_rows_are_left_out_by_path() -> None:
    kept = tagged().without({"b.wav", "odd\udcff.wav", "not there"})
    assert same(kept, TaggedList([PATHS[i] for i in (0, 1, 4)], [(0, 2), (1,), (1, 2)], 4))
    assert (
        kept.digest()
        == TaggedList([PATHS[i] for i in (0, 1, 4)], [[0, 2], [1], [1, 2]], 4).digest()
    )
    assert len(tagged().without(set(PATHS))) == 0


def test_it_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(tagged()))
    assert same(copy, tagged())
    assert copy.digest() == tagged().digest()


def test_the_digest_names_paths_order_and_labels() -> None:
    def digest(paths: list[str], labels: list[list[int]]) -> str:
        return TaggedList(paths, labels, 4).digest()

    digests = [
        digest(["a", "b"], [[0], [1]]), digest(["b", "a"], [[0], [1]]), digest(["ab", ""], [[0], [1]]),
        digest(["a", "b"], [[0, 1], []]), digest(["a", "b"], [[0, 1], [1]]),
    ]  # fmt: skip
    assert len(set(digests)) == 5
    assert digest(["a", "b"], [[1, 0], [1, 1]]) == digests[-1]  # sets: order says nothing


def test_a_list_costs_its_characters_and_five_numbers_a_file() -> None:
    count = 1000
    files = TaggedList((f"audio/{i:010d}.wav" for i in range(count)), [[0, 1]] * count, 2)
    assert files.nbytes == count * (20 + 8 + 8 + 2 * 4) + 2 * 8
    assert len(pickle.dumps(files)) < files.nbytes + 1000  # a few objects, not one a file


@pytest.mark.parametrize(("label", "told"), [(4, "4"), (-1, "-1")])
def test_a_label_that_is_no_class_is_refused(label: int, told: str) -> None:
    with pytest.raises(DataError, match=rf"label {told}, but there are 4 classes"):
        TaggedList(["a", "b"], [[0], [1, label]], 4)
