"""The measurement of the audio pipeline runs, and makes what training and validation make."""

import pytest
import torch

from datamodules.sounds.features import fbank
from datamodules.sounds.throughput import Ways, main, pair

from ..sound_files import RATE, encode, sweep, write


@pytest.fixture(autouse=True)
def unpinned(monkeypatch):
    """The programs take one core for good: not from the tests that follow."""
    monkeypatch.delattr("os.sched_setaffinity", raising=False)


def test_every_way_makes_what_it_says(tmp_path):
    paths = [write(tmp_path / f"{n}.wav", sweep(1.0, top=2000 + n)) for n in range(2)]
    ways = Ways(paths, 0.5)
    wave = ways.read(paths[0], [])
    assert wave.shape == (8000,)
    view = ways.evaluate(paths[0], [])
    assert view.shape == (1, 1, 1024, 128)
    assert torch.equal(view[0], fbank(wave, RATE))
    assert ways.fbank(paths[0], []).shape == (48, 128)
    assert ways.train(paths[0], [1]).shape == (1, 1024, 128)


def test_half_the_clips_are_mixed_with_the_next():
    assert pair(3) == [[], [], [], [1], [2], [0]]
    assert pair(1) == [[], [0]]


def test_the_table_has_a_row_for_each_kind_of_file(tmp_path, capsys):
    for n in range(2):
        write(tmp_path / f"{n}.wav", sweep())
    encode(tmp_path / "clip.mp3", sweep(), "libmp3lame")
    (tmp_path / "notes.txt").write_text("no sound")
    main(["--files", str(tmp_path), "--seconds", "1", "--repeats", "1"])
    first, heads, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith(f"torch {torch.__version__}, torchaudio 2.11")
    assert heads.split()[:6] == ["kind", "files", "fbank", "read", "evaluate", "train"]
    assert [row.split()[:2] for row in rows] == [[".wav", "2"], [".mp3", "1"]]
    for row in rows:
        bank, _, evaluate, _, share = map(float, row.split()[2:])
        assert share == pytest.approx(evaluate / bank, abs=0.02)


def test_no_sound_is_an_error_of_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--files", str(tmp_path)])
    assert stop.value.code == 2
    assert "matches no sound file" in capsys.readouterr().err
