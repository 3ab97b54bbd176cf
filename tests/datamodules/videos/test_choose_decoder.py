"""Which decoder is taken, and how fast it is."""

import sys
import types

import pytest

from datamodules.errors import DataError
from datamodules.videos.decoding import DECODERS, choose_decoder

from .decoders import clip, run_python


@pytest.mark.parametrize("order", ["decord, av", "av, decord"])
def test_decord_and_pyav_live_in_one_process(order: str) -> None:
    pytest.importorskip("decord")
    program = (
        f"import {order}\n"
        "from datamodules.videos.decoding import open_video\n"
        "for decoder in ('decord', 'pyav', 'decord'):\n"
        f"    with open_video({clip('b-frames')[0]!r}, decoder) as video:\n"
        "        print(type(video).__name__, int(video.frames([9]).sum()))\n"
    )
    lines = run_python("-c", program).split("\n")
    assert lines[0] == lines[2]
    assert lines[0].removeprefix("Decord") == lines[1].removeprefix("PyAV")


def test_an_unknown_decoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"decord, pyav, torchcodec, got 'opencv'"):
        choose_decoder("opencv")


@pytest.mark.parametrize("decord", [None, types.ModuleType("decord")])
def test_pyav_is_the_default_whether_decord_is_installed_or_not(decord, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", decord)  # it brings an FFmpeg that nobody mends
    assert choose_decoder(None) == "pyav"


def test_a_missing_decoder_names_the_way_out(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(DataError, match=r"pip install decord .*--data\.decoder pyav$") as caught:
        choose_decoder("decord")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("decoder", [None, *DECODERS])
def test_every_decoder_needs_pyav(decoder: str | None, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"PyAV.*pip install av$"):
        choose_decoder(decoder)


def test_a_torchcodec_that_cannot_load_ffmpeg_is_refused(monkeypatch) -> None:
    class VideoDecoder:
        def __init__(self, source: bytes) -> None:
            raise RuntimeError("Could not load libtorchcodec.\n\nLikely causes: no FFmpeg")

    decoders = types.ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = VideoDecoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    with pytest.raises(
        DataError, match=r"torchcodec does not work: Could not load.*FFmpeg"
    ) as caught:
        choose_decoder("torchcodec")
    assert "\n" not in str(caught.value)
