"""Sound files of every kind become the same waveform; what is no sound, or damaged, is refused."""

import importlib
import os
import pickle
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.errors import DataError
from datamodules.sounds import reading as audio
from datamodules.sounds.reading import (
    AUDIO_EXTENSIONS,
    AudioError,
    AudioFormat,
    AudioReader,
    probe,
    read_waveform,
    require_torchaudio,
    resample,
)

from ..clip_files import write_clip
from ..sound_files import (
    RATE,
    cut,
    delay,
    encode,
    likeness,
    pitch,
    streamed_wav,
    sweep,
    tone,
    write,
)

av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")

DATA = Path(__file__).parents[2] / "data"
ENCODED = {  # encoder, rate, and samples that a file without edit list or delay header has in front
    "clip.mp3": ("libmp3lame", RATE, 0),
    "clip.m4a": ("aac", RATE, 0),
    "clip.mp4": ("aac", RATE, 0),
    "clip.aac": ("aac", RATE, 1024),
    "clip.webm": ("libopus", 48_000, 0),
    "clip.mkv": ("flac", RATE, 0),
}


@pytest.mark.parametrize(
    ("subtype", "bits"),
    [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 24), ("FLOAT", 24), ("DOUBLE", 24)],
)
def test_samples_of_any_kind_and_depth_read_the_same(subtype: str, bits: int, tmp_path: Path):
    wave = sweep(0.2)
    read = read_waveform(write(tmp_path / "clip.wav", wave, subtype=subtype))
    assert read.dtype == torch.float32
    assert np.abs(read.numpy() - wave).max() <= 2.0 ** (1 - bits)  # a step; float32 has 24 bits


@pytest.mark.parametrize(
    ("codec", "bits"), [("pcm_u8", 8), ("pcm_s16le", 16), ("pcm_s24le", 24), ("pcm_f32le", 24)]
)
def test_pyav_scales_samples_of_any_depth_alike(codec: str, bits: int, tmp_path: Path):
    wave = sweep(0.2)
    read = read_waveform(encode(tmp_path / "clip.mkv", wave, codec))
    assert np.abs(read.numpy() - wave).max() <= 2.0 ** (1 - bits)


@pytest.mark.parametrize("name", ["clip.flac", "clip.ogg", "clip.opus", "CLIP.WAV"])
def test_soundfile_s_formats_decode_to_the_same_waveform(name: str, tmp_path: Path):
    wave = sweep()
    read = read_waveform(write(tmp_path / name, wave))
    assert len(read) == len(wave)
    alike, shift = likeness(read, wave)
    assert alike > 0.99  # as good as Opus is without tuning
    assert shift == 0


@pytest.mark.parametrize("name", ENCODED)
def test_pyav_s_formats_decode_to_the_same_waveform(name: str, tmp_path: Path):
    codec, rate, delay = ENCODED[name]
    wave = sweep()
    read = read_waveform(encode(tmp_path / name, sweep(rate=rate), codec, rate))
    alike, shift = likeness(read, wave)
    assert alike > 0.99
    assert shift == delay
    assert 0 <= len(read) - len(wave) - delay < 1024  # AAC fills its last packet


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_a_resampled_tone_keeps_pitch_length_and_loudness(rate: int, tmp_path: Path):
    read = read_waveform(write(tmp_path / "clip.wav", tone(1000, 1.0, rate), rate))
    assert len(read) == RATE
    middle = read[1000:-1000].numpy()  # without the edges, where the filter sees silence
    expected = tone(1000)[1000:-1000]
    assert np.abs(middle - expected).max() < 0.01


@pytest.mark.parametrize("rate", [15_999, 44_101, 96_001])
def test_unusual_rates_are_resampled_with_few_filters(rate: int):
    wave = resample(torch.from_numpy(tone(1000, 1.0, rate)), rate)
    assert len(wave) == pytest.approx(RATE, rel=1e-3)
    assert pitch(wave) == pytest.approx(1000, abs=2)


def test_frequencies_above_8_khz_are_removed_not_folded(tmp_path: Path):
    read = read_waveform(write(tmp_path / "clip.wav", tone(12_000, 1.0, 48_000), 48_000))
    assert read[100:-100].abs().max() < 0.005


@pytest.mark.parametrize("rate", [0, 20, 10_000_000])
def test_rates_that_no_sound_has_are_refused(rate: int):
    with pytest.raises(AudioError, match=f"sample rate of {rate} Hz"):
        resample(torch.zeros(10), rate)


def test_channels_are_averaged(tmp_path: Path):
    wave = sweep(0.2)
    stereo = np.stack([wave, np.zeros_like(wave)], axis=1)
    read = read_waveform(write(tmp_path / "one.wav", stereo, subtype="FLOAT"))
    torch.testing.assert_close(read, torch.from_numpy(wave / 2))
    opposite = np.stack([wave, -wave], axis=1)
    assert not read_waveform(write(tmp_path / "two.wav", opposite, subtype="FLOAT")).any()


@pytest.mark.parametrize("name", ["clip.aiff", "clip.wav"])
@pytest.mark.parametrize("channels", [6, 8, 16])
def test_channels_are_averaged_however_many(channels: int, name: str, tmp_path: Path):
    waves = np.random.RandomState(channels).uniform(-0.9, 0.9, (2000, channels)).astype(np.float32)
    read = read_waveform(write(tmp_path / name, waves))
    # each rounded to 16 bits, which halves are of the step 2^-15
    assert np.abs(read.numpy() - waves.mean(axis=1)).max() <= 2.0**-15


def test_peaks_beyond_one_are_clipped(tmp_path: Path):
    loud = tone(440, 0.2, peak=1.7)
    read = read_waveform(write(tmp_path / "clip.wav", loud, subtype="FLOAT"))
    assert torch.equal(read, torch.from_numpy(loud).clamp(-1, 1))
    assert read.max() == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_refused(bad: float, tmp_path: Path):
    wave = sweep(0.1)
    wave[77] = bad
    with pytest.raises(AudioError, match="not numbers"):
        read_waveform(write(tmp_path / "clip.wav", wave, subtype="FLOAT"))


@pytest.mark.parametrize("name", ["clip.wav", "clip.ogg"])
def test_a_file_without_samples_is_an_empty_waveform(name: str, tmp_path: Path):
    assert read_waveform(write(tmp_path / name, np.zeros(0, np.float32), 44_100)).shape == (0,)


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.ogg", "clip.opus", "clip.mp3"])
def test_a_name_that_is_no_text_is_read_like_any(name: str, tmp_path: Path):
    path = tmp_path / name
    encode(path, sweep(), "libmp3lame") if name == "clip.mp3" else write(path, sweep())
    odd = path.with_name(f"cl\udcffp{path.suffix}")
    expected, facts = read_waveform(str(path)), probe(str(path))
    try:
        path.rename(odd)
    except OSError:
        pytest.skip("this file system takes text alone")
    assert torch.equal(read_waveform(str(odd)), expected)
    assert probe(str(odd)) == facts


def test_a_video_s_sound_is_read(tmp_path: Path):
    wave = sweep()
    read = read_waveform(encode(tmp_path / "clip.mp4", wave, "aac", video=True))
    assert likeness(read, wave)[0] > 0.99


# ---- what is no sound --------------------------------------------------------------------------


@pytest.mark.parametrize("extension", AUDIO_EXTENSIONS)
@pytest.mark.parametrize("content", [b"", b"<html>404</html>\n" * 300, b"\0" * 9000, "random"])
def test_what_is_no_audio_is_refused_in_one_line(content, extension: str, tmp_path: Path):
    path = tmp_path / f"clip{extension}"
    path.write_bytes(np.random.RandomState(0).bytes(9000) if content == "random" else content)
    for read in (read_waveform, probe):
        with pytest.raises(Exception) as raised:  # noqa: PT011  # decoders have their own
            read(str(path))
        assert str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "share"),
    [
        ("clip.wav", None, RATE, 0.5),
        ("clip.flac", None, RATE, 0.5),
        ("clip.m4a", "aac", RATE, 0.5),  # without its index
        ("clip.m4a", "aac", RATE, 0.985),  # with a part of its index
        ("clip.mkv", "flac", RATE, 0.5),
        ("clip.webm", "libopus", 48_000, 0.5),
        ("clip.aiff", "pcm_s16be", RATE, 0.5),
        ("clip.au", "pcm_s16be", RATE, 0.5),
        ("clip.caf", "pcm_s16be", RATE, 0.5),
        ("clip.wv", "wavpack", RATE, 0.5),
    ],
)
def test_a_file_cut_short_is_refused(name, codec, rate, share, tmp_path: Path):
    wave, path = sweep(4.0, rate), tmp_path / name
    whole = encode(path, wave, codec, rate) if codec else write(path, wave, rate)
    assert len(read_waveform(whole)) >= 4 * RATE
    with pytest.raises(Exception) as raised:  # noqa: PT011
        read_waveform(cut(whole, share))
    assert "\n" not in str(raised.value)


LATE = {"late": 3.0}
PAUSED = {"pause": 3.0}
STORED_LENGTHS = [("a.m4a", "aac", RATE), ("a.webm", "libopus", 48_000), ("a.mkv", "flac", RATE)]


@pytest.mark.parametrize("delays", [LATE, PAUSED, {**LATE, **PAUSED}])
@pytest.mark.parametrize(("name", "codec", "rate"), STORED_LENGTHS)
def test_a_late_start_or_a_pause_is_no_cut(name, codec, rate, delays, tmp_path: Path):
    plain = encode(tmp_path / name, sweep(2.0, rate), codec, rate)
    delayed = delay(plain, tmp_path / f"delayed-{name}", **delays)
    whole = read_waveform(plain)
    for seconds in (None, 1.0, 10.0):  # 10: more than there is, as of a clip shorter than usual
        wanted = len(whole) if seconds is None else min(len(whole), round(seconds * RATE))
        # 100 ms: a codec's delay may be heard or not once packets have other times
        assert abs(len(read_waveform(delayed, seconds)) - wanted) <= RATE / 10
    late = delays.get("late", 0)
    if late and not name.endswith("m4a"):  # which keeps the length of the sound
        assert probe(delayed).seconds == pytest.approx(2.0 + delays.get("pause", 0), abs=0.1)


@pytest.mark.parametrize("delays", [LATE, PAUSED])
@pytest.mark.parametrize(("name", "codec", "rate"), STORED_LENGTHS[1:])
def test_after_a_late_start_or_a_pause_a_cut_is_still_seen(
    name, codec, rate, delays, tmp_path: Path
):
    plain = encode(tmp_path / name, sweep(4.0, rate), codec, rate)
    delayed = delay(plain, tmp_path / f"delayed-{name}", **delays)
    assert len(read_waveform(cut(delayed, 0.8), 1.0)) == RATE
    with pytest.raises(AudioError, match="cut short"):
        read_waveform(delayed)


def test_a_recording_that_starts_late_is_read():
    wave = read_waveform(str(DATA / "late_start.webm"), 10.0)  # 4 s of sound, from 3 s on
    assert len(wave) == 4 * RATE
    assert wave.abs().max() > 0.01


def test_an_index_in_front_does_not_hide_that_the_rest_is_missing(tmp_path: Path):
    path = encode(tmp_path / "a.m4a", sweep(4.0), "aac", container={"movflags": "faststart"})
    with pytest.raises((AudioError, av.error.InvalidDataError)):
        read_waveform(cut(path, 0.5))


def test_what_is_asked_for_may_lie_before_the_cut(tmp_path: Path):
    path = write(tmp_path / "clip.wav", sweep(4.0))
    whole = read_waveform(path, seconds=1.0)
    assert torch.equal(read_waveform(cut(path, 0.5), seconds=1.0), whole)


def test_a_header_written_before_the_length_was_known_is_no_cut(tmp_path: Path):
    wave = sweep(0.5)
    (tmp_path / "clip.wav").write_bytes(streamed_wav(wave))
    assert len(read_waveform(str(tmp_path / "clip.wav"))) == len(wave)


@pytest.mark.parametrize("extension", [".wav", ".m4a"])
def test_missing_files_and_folders_say_so(extension: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_waveform(str(tmp_path / f"missing{extension}"))
    (tmp_path / f"folder{extension}").mkdir()
    with pytest.raises(IsADirectoryError):
        read_waveform(str(tmp_path / f"folder{extension}"))


def test_a_video_without_sound_is_refused(tmp_path: Path):
    path = str(write_clip(tmp_path / "clip.mp4", frames=4))
    for read in (read_waveform, probe):
        with pytest.raises(AudioError, match="no audio stream"):
            read(path)


def test_the_first_error_is_kept_where_both_decoders_fail(tmp_path: Path):
    path = tmp_path / "clip.wav"
    path.write_bytes(b"nothing" * 100)
    with pytest.raises(soundfile.LibsndfileError, match="Format not recognised"):
        read_waveform(str(path))


def test_absurd_sizes_are_a_damaged_file_not_the_end_of_the_run(tmp_path: Path, monkeypatch):
    class Failing:
        def __init__(self, format):
            pass

        def resample(self, frame):
            raise av.error.MemoryError(12, "Cannot allocate memory")

    path = encode(tmp_path / "clip.mp3", sweep(0.2), "libmp3lame")
    monkeypatch.setattr(av, "AudioResampler", Failing)
    with pytest.raises(AudioError, match="beyond the memory"):
        read_waveform(path)


# ---- which decoder -----------------------------------------------------------------------------


def test_a_name_may_lie_about_the_format(tmp_path: Path):
    wave = sweep()
    for codec, name in (("aac", "a.m4a"), ("libmp3lame", "b.mp3")):
        path = Path(encode(tmp_path / name, wave, codec)).rename(tmp_path / f"{codec}.wav")
        assert likeness(read_waveform(str(path)), wave)[0] > 0.99
    path = Path(write(tmp_path / "c.wav", wave)).rename(tmp_path / "c.m4a")
    assert likeness(read_waveform(str(path)), wave)[0] > 0.99


@pytest.mark.parametrize("quiet_first", [True, False])
def test_mp3_without_a_length_header_is_read_to_its_end(quiet_first: bool, tmp_path: Path):
    """libsndfile takes all of it to have the bitrate of the first frame."""
    parts = [np.zeros(5 * RATE, np.float32), sweep(5.0)]
    wave = np.concatenate(parts if quiet_first else parts[::-1])
    variable = {"flags": "+qscale", "global_quality": str(5 * 118)}
    settings = {"container": {"write_xing": "0"}, "options": variable}
    read = read_waveform(encode(tmp_path / "clip.mp3", wave, "libmp3lame", **settings))
    assert 0 <= len(read) - len(wave) < 4 * 1152  # whole packets, and the encoder's delay
    assert likeness(read, wave)[0] > 0.99


# ---- how much is read --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.wav", "clip.ogg", "clip.mp3"])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_the_start_of_a_file_is_that_of_the_whole(name: str, rate: int, tmp_path: Path):
    wave, path = sweep(2.0, rate), tmp_path / name
    written = (
        encode(path, wave, "libmp3lame", rate) if name == "clip.mp3" else write(path, wave, rate)
    )
    whole = read_waveform(written)
    for seconds in (0.01, 0.7, 1.2345):
        start = read_waveform(written, seconds)
        assert len(start) == round(seconds * RATE)
        # not bit by bit: the resampling sums in another order for another length
        torch.testing.assert_close(start, whole[: len(start)], atol=1e-6, rtol=0)
    assert torch.equal(read_waveform(written, 9.0), whole)


def test_of_an_hour_only_the_start_is_read(tmp_path: Path, monkeypatch):
    path = str(tmp_path / "hour.flac")
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(60 * 8_000, np.int16))
    assert probe(path).seconds == 3600
    asked = []
    plain = soundfile.SoundFile.read

    def count(self, frames, **settings):
        asked.append(frames)
        return plain(self, frames, **settings)

    monkeypatch.setattr(soundfile.SoundFile, "read", count)
    assert len(read_waveform(path, 10.0)) == 10 * RATE
    assert asked == [80_080]  # and 10 ms for the filter


def test_pyav_stops_at_what_was_asked_for(tmp_path: Path, monkeypatch):
    path = encode(tmp_path / "clip.mkv", np.zeros(60 * 8_000, np.float32), "flac", 8_000)
    read = []
    plain = av.AudioResampler

    class Counting:
        def __init__(self, format):
            self.resampler = plain(format=format)

        def resample(self, frame):
            read.append(frame.samples)
            return self.resampler.resample(frame)

    monkeypatch.setattr(av, "AudioResampler", Counting)
    assert len(read_waveform(path, 2.0)) == 2 * RATE
    assert 16_000 <= sum(read) < 32_000


# ---- probe, reader, torchaudio -----------------------------------------------------------------


def test_probe_tells_what_the_header_tells(tmp_path: Path):
    stereo = np.stack([sweep(0.5, 44_100)] * 2, axis=1)
    path = write(tmp_path / "clip.wav", stereo, 44_100, subtype="PCM_24")
    assert probe(path) == AudioFormat(0.5, 44_100, 2, "pcm_24")
    assert probe(write(tmp_path / "clip.ogg", sweep())) == AudioFormat(1.0, RATE, 1, "vorbis")
    path = encode(tmp_path / "clip.mp3", sweep(), "libmp3lame")
    assert probe(path)[1:] == (RATE, 1, "mp3")
    assert probe(path).seconds == pytest.approx(1.0, abs=0.1)  # with the delay before FFmpeg 8
    path = encode(tmp_path / "clip.webm", sweep(rate=48_000), "libopus", 48_000)
    assert probe(path)[1:] == (48_000, 1, "opus")
    assert probe(path).seconds == pytest.approx(1.0, abs=0.02)


def test_a_pickled_reader_reads_the_same(tmp_path: Path):
    path = write(tmp_path / "clip.flac", sweep())
    reader = AudioReader(0.5, timeout=30.0)
    copy = pickle.loads(pickle.dumps(reader))
    assert len(reader(path)) == 8_000
    assert torch.equal(copy(path), reader(path))


def test_a_read_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, release = write(tmp_path / "clip.wav", sweep()), threading.Event()
    reader = AudioReader(1.0, timeout=0.2)
    with monkeypatch.context() as patch:
        patch.setattr(audio, "read_waveform", lambda *_: release.wait())
        with pytest.raises(TimeoutError, match=r"gave up after 0\.2 s"):
            reader(str(path))
    release.set()  # lets the thread go
    reader.deadline.seconds = 30.0
    assert len(reader(path)) == RATE


def test_torchaudio_is_there():
    require_torchaudio()


def test_a_missing_torchaudio_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(DataError, match=r"torch 2\.\d+.*torchaudio 2\.11.*pip install"):
        require_torchaudio()


def test_a_torchaudio_for_another_cuda_is_told_in_one_line(tmp_path: Path, monkeypatch):
    (tmp_path / "torchaudio.py").write_text(
        "raise RuntimeError('PyTorch has CUDA 13.2\\nand so on')"
    )
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(DataError, match=r"\(PyTorch has CUDA 13\.2\); pip install 'torch<2\.15'"):
        require_torchaudio()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("read", [read_waveform, probe])
def test_a_named_pipe_is_refused_before_anything_waits_for_it(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(ValueError, match="pipe or a device"):
        read(str(tmp_path / "pipe.wav"))
