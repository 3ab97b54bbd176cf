"""The measurement of reading speed runs, and reads the same frames every way."""

import numpy as np
import pytest

from datamodules.videos.throughput import BARE, Ours, draw_clips, main

from ..clip_files import read_number, write_clip


@pytest.fixture(autouse=True)
def unpinned(monkeypatch):
    """The programs take one core for good: not from the tests that follow."""
    monkeypatch.delattr("os.sched_setaffinity", raising=False)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_every_way_reads_the_same_clip(decoder, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", frames=90, size=(64, 80))
    ((name, indices),) = draw_clips([str(path)], frames=8, rate=4)
    assert np.diff(indices).tolist() == [4] * 7
    own = Ours(decoder, 32)
    assert [read_number(frame) for frame in BARE[decoder](name, indices)] == indices
    assert [read_number(frame) for frame in own.frames(name, indices)] == indices
    assert own.centred(name, indices).shape == (1, 3, 8, 32, 32)
    assert own.augmented(name, indices).shape == (2, 3, 8, 32, 32)


def test_the_table_has_a_row_for_each_decoder(tmp_path, capsys):
    write_clip(tmp_path / "clip.mp4", frames=40)
    main(["--files", str(tmp_path), "--frames", "4", "--size", "16", "--repeats", "1"])
    first, heads, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("1 videos, clips of 4 frames at rate 4, one core")
    assert heads.split()[:3] == ["decoder", "bare", "ours"]
    for row, decoder in zip(rows, ("decord", "pyav"), strict=True):
        name, bare, ours, ratio, *_ = row.split()
        assert name == decoder
        assert float(ratio) == pytest.approx(float(ours) / float(bare), rel=0.1)


def test_no_video_is_an_error_of_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--files", str(tmp_path)])
    assert stop.value.code == 2
    assert "matches no video" in capsys.readouterr().err
