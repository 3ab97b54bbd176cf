"""The video data module: lists and folders, class names, clips, views, and dirty files."""

import json
import os
import pickle
import random
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules import DataError, Kinetics400
from datamodules.filelist import FileList
from datamodules.videos.class_names import check_labels, kinetics400, match_folders, plain
from datamodules.videos.clips import SAMPLINGS
from datamodules.videos.decoding import open_video
from datamodules.videos.transforms import resize

from ..clip_files import read_number, write_clip

CLASSES = ("abseiling", "air drumming", "zumba")  # numbers 0, 1 and 399 of Kinetics-400
PLAIN = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "auto_augment": None, "reprob": 0}
MakeVideos = Callable[..., Path]


@pytest.fixture
def make_videos(tmp_path: Path, clip_file: Path) -> MakeVideos:
    """`train|val/<class>/N.mp4`, every file a link to one clip of 48 numbered frames."""

    def make(classes: tuple[str, ...] = CLASSES, train: int = 4, val: int = 2) -> Path:
        for split, count in (("train", train), ("val", val)):
            for name in classes:
                folder = tmp_path / "videos" / split / name
                folder.mkdir(parents=True)
                for number in range(count):
                    os.link(clip_file, folder / f"{number}.mp4")
        return tmp_path / "videos"

    return make


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=48)


def open_videos(root: Path, stage: str | None = "fit", **settings: object) -> Kinetics400:
    given = {"batch_size": 2, "num_workers": 0, "frames": 8, "rate": 2, "size": 64} | settings
    data = Kinetics400(str(root), **given)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most of the 400 classes have no video here
        data.setup(stage)
    return data


def numbers(x: Tensor, mean: float = 0.45, std: float = 0.225) -> list[int]:
    """Frame numbers of a normalised clip [C, T, H, W]."""
    pixels = (x * std + mean) * 255
    return [read_number(frame) for frame in pixels.permute(1, 2, 3, 0)]


def replace(path: Path, content: bytes) -> None:
    path.unlink()  # a hard link: writing into it would spoil them all
    path.write_bytes(content)


def test_folders_have_the_index_of_their_class_in_kinetics_400(make_videos) -> None:
    data = open_videos(make_videos())
    assert data.num_classes == 400
    assert data.class_names == kinetics400()
    assert data.files("train").labels.tolist() == [0] * 4 + [1] * 4 + [399] * 4
    assert data.files("val")[5] == ("val/zumba/1.mp4", 399)


@pytest.mark.parametrize("name", ["air_drumming", "Air Drumming", "air drumming"])
def test_copies_of_the_data_set_spell_class_folders_their_own_way(name, tmp_path) -> None:
    assert match_folders(tmp_path, [name], kinetics400()) == {name: 1}
    for head in ("massaging_person's_head", "massaging persons head"):
        label = kinetics400().index("massaging person's head")
        assert match_folders(tmp_path, [head], kinetics400()) == {head: label}


def test_the_class_list_is_kinetics_400_in_alphabetical_order() -> None:
    names = kinetics400()
    assert len(names) == len(set(names)) == 400
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("abseiling", "zumba")
    assert len({plain(name) for name in names}) == 400  # still distinct


def test_unknown_class_folders_are_explained(make_videos) -> None:
    root = make_videos(("abseiling", "zumbaa"))
    with pytest.raises(
        DataError, match=r"1 of 2 class folders.*'zumbaa', nearest zumba.*class_list"
    ):
        open_videos(root)


def test_classes_of_one_s_own_are_folders_in_alphabetical_order(make_videos) -> None:
    data = open_videos(make_videos(("b", "a")), class_list=None)
    assert data.class_names == ["a", "b"]
    assert data.files("train").labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_lists_of_both_families_are_read(separator, make_videos) -> None:
    root = make_videos()
    for split in ("train", "val"):
        rows = [f"{split}/zumba/{i}.mp4{separator}399" for i in range(2)]
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    data = open_videos(root, class_list="kinetics400")
    assert data.files("train").labels.tolist() == [399, 399]
    assert data.files("test")[1] == ("val/zumba/1.mp4", 399)  # no test.csv: val


def test_a_list_with_commas_may_have_blanks_in_its_paths_and_absolute_ones(make_videos) -> None:
    root = make_videos()
    absolute = root / "train" / "abseiling" / "0.mp4"
    (root / "mine.csv").write_text(f"train/air drumming/0.mp4,1\n{absolute},0\n")
    (root / "val.csv").write_text("val/zumba/0.mp4,399\n")
    data = open_videos(root, train_list="mine.csv", class_list="kinetics400")
    samples = data.samples("train")
    assert samples.path(0) == str(root / "train/air drumming/0.mp4")
    assert samples.path(1) == str(absolute)
    assert {int(y) for _, y, _ in (samples[0], samples[1])} == {0, 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/zumba/0.mp4 400", r"train\.csv, line 2: label 400, but there are 400 classes"),
        ("train/zumba/0.mp4", r"train\.csv, line 2: expected `path,label`"),
        ("label,youtube_id,time_start", r"train\.csv, line 2: expected"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(line, message, make_videos) -> None:
    root = make_videos()
    (root / "train.csv").write_text(f"train/zumba/1.mp4 399\n{line}\n")
    with pytest.raises(DataError, match=message) as error:
        open_videos(root)
    assert "\n" not in str(error.value)


def test_labels_in_another_order_than_the_folders_are_explained(make_videos) -> None:
    root = make_videos()
    rows = [f"train/{name}/0.mp4 {label}" for label, name in enumerate(reversed(CLASSES))]
    (root / "train.csv").write_text("\n".join(rows))
    with pytest.raises(
        DataError, match=r"2 of 3 labels.*'train/zumba/0.mp4' has label 0.*number 399"
    ):
        open_videos(root)


def test_folders_that_are_no_classes_say_nothing_about_labels(tmp_path) -> None:
    files = FileList([f"videos_train/{i}.mp4" for i in range(9)], range(9))
    check_labels(tmp_path, files, kinetics400())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": "nowhere"}, "nowhere is not a folder"),
        ({"train_list": "no.csv"}, r"cannot read the file list .*no\.csv"),
        ({"decoder": "ffmpeg"}, "decord"),
        ({"sampling": "dense"}, "sampling must be one of mae_st, videomae"),
        ({"test_clips": 0}, "test_clips must be 1 or more"),
        ({"frames": 0}, "frames must be 1 or more"),
        ({"read_timeout": 0}, "read_timeout must be above 0"),
        ({"exclude": "scan.json"}, r"cannot read data\.exclude scan\.json"),
        ({"repeat_aug": 0}, "repeat_aug must be 1 or more"),
    ],
)
def test_a_mistake_is_told_in_one_line(settings, message, make_videos) -> None:
    root = make_videos()
    with pytest.raises(DataError, match=message) as error:
        Kinetics400(**{"root": str(root), "num_workers": 0, **settings}).check("fit")
    assert "\n" not in str(error.value)


def test_a_root_without_lists_or_folders_says_what_is_expected(tmp_path) -> None:
    with pytest.raises(DataError, match=r"neither a list train\.csv nor a folder train"):
        Kinetics400(str(tmp_path)).check("fit")


def test_a_list_of_files_that_are_elsewhere_is_refused(make_videos) -> None:
    root = make_videos()
    (root / "train.csv").write_text("clips/1.mp4 0\nclips/2.mp4 1\n")
    with pytest.raises(DataError, match=r"none of 2 files looked for.*videos/clips/1\.mp4.*root"):
        open_videos(root)


def test_training_batches_hold_every_repeat_of_each_video(make_videos) -> None:
    data = open_videos(make_videos(), repeat_aug=2, batch_size=4)
    x, y, ids = next(iter(data.train_dataloader()))
    assert x.shape == (8, 3, 8, 64, 64)
    assert x.dtype == torch.uint8
    assert y.shape == ids.shape == (8,)
    assert torch.equal(ids[:4], ids[4:])
    assert torch.equal(y, torch.from_numpy(data.files("train").labels)[ids])
    assert not torch.equal(x[:4], x[4:])  # each view has draws of its own
    assert not (ids == ids.flip(0)).any()  # mixup's partner is never the same video
    assert data.train_batches() == 3


def test_repeats_are_views_of_the_same_decoded_frames(make_videos) -> None:
    data = open_videos(make_videos(), repeat_aug=2, **PLAIN)
    x, _, _ = next(iter(data.train_dataloader()))
    assert torch.equal(x[:2], x[2:])
    frames = numbers(data.prepare(x[0]))
    assert frames == sorted(frames)
    assert len(set(frames)) == 8


def test_training_clips_move_from_epoch_to_epoch_and_repeat_under_the_same_seed(
    make_videos,
) -> None:
    root = make_videos()

    def starts(epoch: int) -> list[int]:
        data = open_videos(root, repeat_aug=1, **PLAIN)
        samples = data.samples("train")
        samples.set_epoch(epoch)
        return [numbers(data.prepare(samples[i][0][0]))[0] for i in range(6)]

    first, second = starts(0), starts(1)
    assert first == starts(0)
    assert first != second
    assert len(set(first + second)) > 4


def test_validation_sees_the_centre_of_the_video(make_videos) -> None:
    data = open_videos(make_videos())
    x, y, ids = next(iter(data.val_dataloader()))
    assert x.shape == (2, 1, 3, 8, 64, 64)
    assert (y.tolist(), ids.tolist()) == ([0, 0], [0, 1])
    assert numbers(x[0, 0]) == SAMPLINGS["mae_st"](8, 2).test(48, 30.0, 1)[0].tolist()


@pytest.mark.parametrize("sampling", ["mae_st", "videomae"])
def test_test_views_are_clips_times_crops_in_the_published_order(sampling, make_videos) -> None:
    data = open_videos(make_videos(), "test", test_clips=3, test_crops=2, sampling=sampling)
    x, _, _ = next(iter(data.test_dataloader()))
    assert x.shape == (1, 6, 3, 8, 64, 64)  # six views are more than eval_batch_size
    expected = SAMPLINGS[sampling](8, 2).test(48, 30.0, 3).tolist()
    assert [numbers(view) for view in x[0]] == [expected[v // 2] for v in range(6)]
    assert data.describe("test", 7) == "7 videos x 3 clips x 2 crops"
    assert data.describe("val", 7) == "7 videos x 1 clips x 1 crops"


@pytest.mark.filterwarnings("ignore:.*classes have no video")
@pytest.mark.parametrize(
    ("sampling", "crops", "split", "resized", "start"),
    [  # 64x84 becomes 49x64 or 56x73: 49 is 7.5 from the end of 64, 3.5 from that of 56
        ("mae_st", 3, "test", 49, (0, 8)),
        ("mae_st", 1, "test", 56, (4, 12)),
        ("mae_st", 3, "val", 49, (0, 8)),
        ("videomae", 3, "test", 49, (0, 7)),
        ("videomae", 1, "test", 49, (0, 7)),
    ],
)
def test_the_middle_crop_is_that_of_the_sampling(
    sampling, crops, split, resized, start, make_videos
) -> None:
    root = make_videos(val=0)
    wide = write_clip(root / "val/abseiling/0.mp4", size=(64, 84))
    data = open_videos(root, "test", test_clips=1, test_crops=crops, sampling=sampling, size=49)
    data.setup("validate")
    view = data.samples(split)[0][0][crops // 2 if split == "test" else 0]
    with open_video(str(wide), "pyav") as video:
        frames = video.frames(data.sampling.test(48, 30.0, 1)[0].tolist())
    whole = resize(frames.permute(3, 0, 1, 2), [resized])
    (y, x), (mean, std) = start, (0.45 * 255, 0.225 * 255)
    expected = (whole[..., y : y + 49, x : x + 49] - mean) / std
    torch.testing.assert_close(view, expected, rtol=0, atol=0.1)  # decoders' colours, 3 of 255


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_batches_do_not_depend_on_workers(decoder, make_videos) -> None:
    root = make_videos()
    runs = []
    for workers in (0, 2):
        data = open_videos(root, num_workers=workers, decoder=decoder)
        runs.append(list(data.train_dataloader()))
    for a, b in zip(*runs, strict=True):
        assert all(torch.equal(u, v) for u, v in zip(a, b, strict=True))


def test_samples_pickle_without_an_open_file(make_videos) -> None:
    samples = open_videos(make_videos()).samples("train")
    before = samples[3][0]
    copy = pickle.loads(pickle.dumps(samples))
    assert torch.equal(copy[3][0], before)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_dirty_files_are_replaced_and_counted_and_never_stall(decoder, make_videos) -> None:
    root = make_videos(train=6)
    good = (root / "train/zumba/5.mp4").read_bytes()
    folder = root / "train/zumba"
    replace(folder / "0.mp4", b"")
    replace(folder / "1.mp4", good[: len(good) // 2])
    replace(folder / "2.mp4", b"no video " * 100)
    (folder / "3.mp4").unlink()
    os.mkfifo(folder / "3.mp4")  # opening it waits for a writer, for ever
    data = open_videos(root, num_workers=1, decoder=decoder, read_timeout=1.0)
    (folder / "4.mp4").unlink()  # missing
    with pytest.warns(UserWarning, match="5 of 18 files seen so far cannot be read"):
        batches = list(data.train_dataloader())
    assert len(batches) == 9  # as many steps as without bad files
    assert sorted(i for _, _, ids in batches for i in ids.tolist()) == sorted([*range(18)] * 2)
    bad = data.samples("train").bad
    assert data.corrupt == len(data.bad_files()) == 5
    assert bad.hung == 1
    assert sorted(bad.errors()) == [12, 13, 14, 15, 16]
    assert "Timeout" in bad.errors()[15]


def test_random_damage_never_ends_a_run(make_videos) -> None:
    root = make_videos(("abseiling", "zumba"), train=50)
    noise = random.Random(0)
    good = (root / "train/zumba/0.mp4").read_bytes()
    for name in ("abseiling", "zumba"):
        for number in range(1, 50):
            content = bytearray(good[: noise.randrange(len(good))] if number % 3 == 0 else good)
            for _ in range(noise.randrange(1, 30) if content else 0):
                content[noise.randrange(len(content))] = noise.randrange(256)
            replace(root / f"train/{name}/{number}.mp4", bytes(content))
    data = open_videos(root, max_corrupt_share=1.0, max_retries=49, read_timeout=5.0)
    with pytest.warns(UserWarning, match="files seen so far cannot be read"):
        batches = list(data.train_dataloader())
    assert len(batches) == 50
    assert 10 < data.corrupt < 99
    assert len(data.samples("train").bad.errors()) == data.corrupt


def test_an_exclude_list_leaves_files_out(make_videos, tmp_path) -> None:
    root = make_videos()
    bad = [{"path": "train/zumba/0.mp4", "reason": "x"}, {"path": "val/zumba/1.mp4", "reason": "y"}]
    (tmp_path / "scan.json").write_text(json.dumps({"files": 18, "bad": bad}))
    data = open_videos(root, exclude=str(tmp_path / "scan.json"))
    assert (len(data.files("train")), len(data.files("val"))) == (11, 5)
    assert "train/zumba/0.mp4" not in [data.files("train")[i][0] for i in range(11)]
    (tmp_path / "scan.json").write_text("[]")
    with pytest.raises(DataError, match=r"no result of `python -m tome_lightning scan`"):
        open_videos(root, exclude=str(tmp_path / "scan.json"))


def test_an_exclude_list_of_another_root_is_noticed(make_videos, tmp_path) -> None:
    root = make_videos()
    bad = [{"path": "elsewhere/0.mp4", "reason": "x"}]
    (tmp_path / "scan.json").write_text(json.dumps({"bad": bad}))
    data = Kinetics400(str(root), num_workers=0, exclude=str(tmp_path / "scan.json"))
    with pytest.warns(UserWarning, match="leaves out 0 of 12 videos of train, though it names 1"):
        data.check("fit")


def test_labels_that_training_does_not_have_are_refused_before_it(make_videos) -> None:
    root = make_videos(("a", "b"))
    (root / "train.csv").write_text("train/a/0.mp4 0\ntrain/b/0.mp4 1\n")
    (root / "val.csv").write_text("val/a/0.mp4 0\nval/b/0.mp4 5\n")
    with pytest.raises(DataError, match=r"val\.csv, line 2: label 5, but there are 2 classes"):
        open_videos(root, class_list=None)


def test_test_videos_without_labels_are_passed_over(make_videos, clip_file) -> None:
    root = make_videos()
    (root / "test").mkdir()
    os.link(clip_file, root / "test" / "abc.mp4")
    data = open_videos(root, "test")
    assert data.files("test")[0] == ("val/abseiling/0.mp4", 0)


def test_test_batches_hold_as_many_videos_as_views_fit(make_videos) -> None:
    data = open_videos(make_videos(), "test", test_clips=2, test_crops=1, eval_batch_size=5)
    assert [len(y) for _, y, _ in data.test_dataloader()] == [2, 2, 2]


def test_a_list_may_start_with_a_byte_order_mark(make_videos) -> None:
    root = make_videos()
    (root / "train.csv").write_bytes(
        b"\xef\xbb\xbftrain/zumba/0.mp4 399\r\ntrain/zumba/1.mp4 399\r\n"
    )
    data = open_videos(root)
    assert data.files("train")[0] == ("train/zumba/0.mp4", 399)


def test_a_quarter_of_a_million_rows_take_flat_arrays(tmp_path) -> None:
    rows = 240_000
    tracemalloc.start()
    files = FileList((f"train/some class/{i:011d}_000001.mp4" for i in range(rows)), [7] * rows)
    tracemalloc.stop()
    assert files.nbytes < 64 * rows
    arrays = [value for value in vars(files).values() if isinstance(value, np.ndarray)]
    assert len(arrays) == len(vars(files))  # nothing that a worker's reference counts would copy


def test_another_decoder_than_the_checkpoint_s_is_mentioned(make_videos) -> None:
    root = make_videos()
    saved = open_videos(root, decoder="decord").state_dict()
    assert saved["decoder"] == "decord"
    with pytest.warns(
        UserWarning, match=r"read by decord, these are read by pyav.*--data\.decoder"
    ):
        open_videos(root, decoder="pyav").load_state_dict(saved)
