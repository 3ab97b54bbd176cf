"""``visualize``: files in, pictures out."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tome_lightning import FineTune
from tome_lightning.__main__ import main as command_line
from tome_lightning.inputs import Clip, Spectrogram
from tome_lightning.inputs import Image as ImageInput
from tome_lightning.tasks import MultiLabel, SingleLabel

from ...datamodules.shards.shard_files import in_tar, write_tar

av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
MODULES: dict[str, Any] = {
    "image": lambda: FineTune(ImageInput(size=32, patch=8), SingleLabel(4), VIT, r=2),
    "clip": lambda: FineTune(Clip(frames=4, size=32, patch=8), SingleLabel(4), VIT, r=8),
    "sound": lambda: FineTune(Spectrogram(frames=64, mels=64), MultiLabel(4), VIT, r=2),
}


def main(words: list[str]) -> int:
    return command_line(["visualize", *words])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of three models and a file for each."""
    folder = tmp_path_factory.mktemp("visualize")
    for name, make in MODULES.items():
        module = make()
        content: dict[str, Any] = {
            "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams),
            "pytorch-lightning_version": "2.6.0", "epoch": 3, "tome_lightning": {"family": "mae"},
        }  # fmt: skip
        torch.save(content, folder / f"{name}.ckpt")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[..., 0]).save(folder / "grey.jpg")
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 60, 40, "yuv420p"
        for i in range(12):
            frame = np.roll(pixels, i, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    wave = np.sin(np.arange(16_000) * 0.3).astype(np.float32)
    soundfile.write(folder / "a.wav", wave, 16_000)
    return folder


CASES = {
    "image": ["--input", "a.png", "grey.jpg", "--r", "0", "2", "keep=0.7", "--depth", "1", "2"],
    "clip": ["--input", "a.mp4", "--r", "4", "8:-1.0"],
    "sound": ["--input", "a.wav"],
}


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_is_drawn(
    kind: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(place)
    out = tmp_path / "out.png"
    assert main(["--ckpt", f"{kind}.ckpt", *CASES[kind], "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.width > 400
        assert np.asarray(picture.convert("L")).std() > 10  # something is drawn
    told = capsys.readouterr().out
    assert f"{kind}.ckpt, epoch 3" in told
    assert f"written: {out}" in told
    if kind == "image":
        assert told.count("nothing merges") == 4
        assert "a.png, r 2, block 1: 17 -> 15 tokens, " in told
        assert "groups hold several patches" in told


@pytest.mark.parametrize("kind", CASES)
def test_colours_may_be_chosen(
    kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(place)
    words = ["--ckpt", f"{kind}.ckpt", *CASES[kind][:2]]
    pages = []
    for colours in ("mean", "distinct"):
        out = tmp_path / f"{colours}.png"
        assert main([*words, "--colours", colours, "--out", str(out)]) == 0
        pages.append(np.asarray(Image.open(out)))
    assert pages[0].shape == pages[1].shape
    assert (pages[0] != pages[1]).any()


@pytest.mark.parametrize("kind", CASES)
def test_a_member_of_a_tar_file_is_drawn_as_the_file(
    kind: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    name = CASES[kind][1]
    listed = in_tar(Path(shutil.copy(place / name, tmp_path)))  # as a table of predictions has it
    typed = listed.partition("@")[0]
    pages = []
    for file in (str(place / name), listed, typed):
        out = tmp_path / f"{len(pages)}.png"
        words = ["--ckpt", str(place / f"{kind}.ckpt"), "--input", file, "--out", str(out)]
        assert main(words) == 0
        assert f"  {file}, r " in capsys.readouterr().out
        pages.append(np.asarray(Image.open(out)))  # with the name of the file as its title
    assert np.array_equal(pages[0], pages[1])
    assert np.array_equal(pages[0], pages[2])


def test_what_a_tar_file_does_not_hold_is_told(place: Path, tmp_path: Path, capsys: Any):
    still = (place / "a.png").read_bytes()
    shard = write_tar(tmp_path / "a.tar", [("./b/c.png", still), ("d.png", b"<html>")])
    write_tar(tmp_path / "empty.tar", [])
    (tmp_path / "text.tar").write_text("404")
    rest = ["--out", str(tmp_path / "out.png"), "--r", "1", "--input"]
    run = ["--ckpt", str(place / "image.ckpt"), *rest]
    for name in ("b/c.png", "./b/c.png"):
        assert main([*run, f"{shard}::{name}", "--force"]) == 0
    mistakes = {
        f"{shard}::c.png": "a.tar holds no c.png; its first is ./b/c.png",
        f"{shard}::b/c.png@7+9": "is not where its shard had it",
        f"{shard}::d.png": "cannot identify image file 'd.png'",
        f"{tmp_path}/empty.tar::c.png": "it is empty",
        f"{tmp_path}/text.tar::c.png": "text.tar cannot be read as a tar file",
        f"{tmp_path}/gone.tar::c.png": "No such file or directory",
        f"{tmp_path}/gone.tar::c.png@512+9": "gone.tar is no file",
        f"{tmp_path}/a.parquet::image/c.png": "named with its place",
        f"{tmp_path}/a::c.png": "a::c.png is no file",
    }
    for file, words in mistakes.items():
        capsys.readouterr()
        assert main([*run, file, "--force"]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert words in told[-1]
        assert told[-1].startswith("error: ")
    clip = ["--ckpt", str(place / "clip.ckpt"), *rest]
    assert main([*clip, f"{shard}::b/c.png", "--force"]) == 2
    assert "one still picture" in capsys.readouterr().err


def test_that_nothing_merged_is_told(place: Path, tmp_path: Path, capsys: Any):
    argv = ["--ckpt", str(place / "image.ckpt"), "--input", str(place / "a.png"), "--r", "0"]
    assert main([*argv, "--out", str(tmp_path / "out.png")]) == 0
    assert "nothing has merged: ask for more with --r" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".GIF"])
def test_a_clip_becomes_a_film(suffix: str, place: Path, tmp_path: Path):
    out = tmp_path / f"film{suffix}"
    argv = ["--ckpt", str(place / "clip.ckpt"), "--input", str(place / "a.mp4"), "--out", str(out)]
    assert main(argv) == 0
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 4
    height, width = frames[0].shape[:2]
    assert width > 1.8 * height  # the clip and its groups
    for half in (np.s_[30:, : width // 2], np.s_[30:, width // 2 :]):
        assert (frames[0][half] != frames[3][half]).any()


def test_random_weights_are_the_same_each_time(place: Path, tmp_path: Path):
    argv = ["--model", "vit_tiny_patch16_224", "--random-weights", "--img-size", "64", "--r", "2"]
    state, pages = torch.get_rng_state(), []
    for name in ("one.png", "two.png"):
        assert main([*argv, "--input", str(place / "a.png"), "--out", str(tmp_path / name)]) == 0
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_page_too_large_for_its_format_is_refused(place: Path, tmp_path: Path, capsys: Any):
    files = [str(place / "a.png")] * 50  # of 346 pixels each; webp ends at 16,383
    out = tmp_path / "out.webp"
    argv = ["--ckpt", str(place / "image.ckpt"), "--input", *files, "--out", str(out)]
    assert main(argv) == 2
    assert f"{out} cannot be written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_timm_model_of_another_size(place: Path, tmp_path: Path):
    argv = ["--model", "vit_tiny_patch16_224", "--random-weights", "--img-size", "96", "--r", "4"]
    out = tmp_path / "out.jpg"
    assert main([*argv, "--input", str(place / "a.png"), "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.format == "JPEG"


RUN = ["--ckpt", "image.ckpt", "--input", "a.png"]
MISTAKES: list[tuple[list[str], str]] = [
    (["--ckpt", "image.ckpt", "--input", "a.wav", "--out", "x.png"], "cannot be read as a picture"),
    (["--ckpt", "sound.ckpt", "--input", "a.png", "--out", "x.png"], "cannot be read as a sound"),
    (["--ckpt", "clip.ckpt", "--input", "a.wav", "--out", "x.png"], "cannot be read as a video"),
    (["--ckpt", "image.ckpt", "--input", "b.png", "--out", "x.png"], "b.png is no file"),
    (["--ckpt", "clip.ckpt", "--input", "a.png", "--out", "x.png"], "one still picture"),
    ([*RUN, "--r", "9", "--out", "x.png"], "at most 8"),
    ([*RUN, "--r", "many", "--out", "x.png"], "--r is tokens merged"),
    ([*RUN, "--depth", "3", "--out", "x.png"], "--depth is 1 to 2"),
    ([*RUN, "--out", "x.bmp"], "--out writes .png"),
    ([*RUN, "--out", "x.gif"], "reads no clips"),
    ([*RUN, "--out", "nowhere/x.png"], "no folder nowhere"),
    ([*RUN, "--out", "grey.jpg"], "--force"),
    ([*RUN, "--out", "x.png", "--ot", "y"], "Nearest: --out"),
    (["--ckpt", "clip.ckpt", "--input", "a.mp4", "a.mp4", "--out", "x.gif"], "a film of one clip"),
    (["--input", "a.png", "--out", "x.png"], "Which model?"),
    (["--model", "vit_tiny_patch16_22", "--random-weights", *RUN[2:], "--out", "x.png"], "Nearest"),
    (["--model", "convnext_tiny", "--random-weights", *RUN[2:], "--out", "x.png"],
     "not timm's VisionTransformer"),
    (["--model", "swin_tiny_patch4_window7_224", "--random-weights", *RUN[2:], "--out", "x.png"],
     "windows"),
    (["--ckpt", "a.png", *RUN[2:], "--out", "x.png"], "a.png"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "words"), MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(
    argv: list[str],
    words: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(place)
    before = {file.name: file.stat().st_mtime_ns for file in place.iterdir()}
    assert main(argv) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert words in told[-1]
    assert told[-1].startswith("error: ")
    assert before == {file.name: file.stat().st_mtime_ns for file in place.iterdir()}


@pytest.mark.parametrize("kind", CASES)
def test_a_name_that_is_no_text_is_drawn_and_told(
    kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = place / CASES[kind][1]
    odd = tmp_path / f"odd\udcff{file.suffix}"
    try:
        shutil.copy(file, odd)
    except OSError:
        pytest.skip("this file system takes text alone")
    screen = io.TextIOWrapper(io.BytesIO(), "utf-8")  # as a terminal: strict
    monkeypatch.setattr("sys.stdout", screen)
    words = ["visualize", "--ckpt", str(place / f"{kind}.ckpt"), "--input", str(odd)]
    assert command_line([*words, "--out", str(tmp_path / "out.png"), "--r", "1"]) == 0
    screen.flush()
    assert "odd\\udcff" in screen.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert (tmp_path / "out.png").is_file()
