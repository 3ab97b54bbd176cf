"""Log-mel spectrograms are torchaudio's Kaldi ones, of one size, for waveforms of any length."""

import pickle
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from datamodules.errors import DataError
from datamodules.sounds.features import MEAN, STD, FrontEnd, fbank
from datamodules.sounds.transforms import centre

from ..sound_files import RATE, tone

FILL = 0.46703  # AudioMAE's padding after normalisation


def noise(seconds: float, rate: int = RATE) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(round(seconds * rate), generator=draw)


def by_torchaudio(wave: torch.Tensor) -> torch.Tensor:
    """As AudioMAE's fact sheet words it."""
    return kaldi.fbank(
        (wave - wave.mean())[None],
        htk_compat=True,
        sample_frequency=RATE,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )


@pytest.mark.parametrize(
    ("samples", "frames"), [(16_000, 98), (80_000, 498), (160_000, 998), (400, 1), (560, 2)]
)
def test_a_window_of_25_ms_every_10_ms_is_a_frame(samples: int, frames: int):
    assert fbank(noise(samples / RATE), RATE, frames=None).shape == (1, frames, 128)


def test_the_front_end_is_torchaudio_s_padded_with_zeros():
    wave = noise(5)
    cells = FrontEnd().log_mel(centre(wave))
    assert cells.shape == (1024, 128)
    assert torch.equal(cells[:498], by_torchaudio(wave))
    assert not cells[498:].any()


def test_fbank_is_the_front_end_normalised():
    wave = noise(5)
    x = fbank(wave, RATE)
    assert (x.shape, x.dtype) == ((1, 1024, 128), torch.float32)
    torch.testing.assert_close(x[0, :498], (by_torchaudio(wave) + 4.2677393) / (2 * 4.5689974))
    assert torch.equal(x[0], FrontEnd().normalise(FrontEnd().log_mel(centre(wave))))


def test_padding_becomes_audiomae_s_value():
    x = fbank(noise(5), RATE)
    assert x[0, 498:].unique().tolist() == [pytest.approx(FILL, abs=1e-5)]
    assert FrontEnd().fill == pytest.approx(FILL, abs=1e-5)
    assert FrontEnd(mean=-6.6268077, std=5.358466).fill == pytest.approx(0.61835, abs=1e-5)


def test_what_is_longer_is_cut():
    wave = noise(12)
    x = FrontEnd().log_mel(wave)
    assert torch.equal(x, FrontEnd().log_mel(wave[: round(FrontEnd().seconds * RATE)]))
    assert x[-1].any()
    torch.testing.assert_close(fbank(wave, RATE)[0], fbank(wave, RATE, frames=None)[0, :1024])


@pytest.mark.parametrize("frames", [1, 2, 100, 1024])
def test_seconds_fill_the_frames_and_no_more(frames: int):
    front = FrontEnd(frames)
    samples = round(front.seconds * RATE)
    wave = noise(12)
    assert fbank(wave[:samples], RATE, frames=None).shape[1] == frames
    assert fbank(wave[: samples - 1], RATE, frames=None).shape[1] == max(1, frames - 1)


@pytest.mark.parametrize("samples", [0, 1, 300, 399])
def test_less_than_a_window_is_one_frame(samples: int):
    wave = noise(samples / RATE)
    x = fbank(wave, RATE)
    assert x.shape == (1, 1024, 128)
    assert torch.isfinite(x).all()
    assert x[0, 1:].unique().numel() == 1
    padded = torch.cat([centre(wave), torch.zeros(400 - samples)])
    assert torch.equal(FrontEnd().log_mel(centre(wave)), FrontEnd().log_mel(padded))


def test_silence_is_finite_and_as_low_as_can_be():
    cells = FrontEnd(98).log_mel(torch.zeros(RATE))
    assert cells.unique().tolist() == [pytest.approx(np.log(2.0**-23))]  # float32's epsilon


def test_a_constant_is_silence():
    torch.testing.assert_close(
        fbank(torch.full((RATE,), 0.3), RATE), fbank(torch.zeros(RATE), RATE)
    )


def test_arrays_and_tensors_of_any_precision_give_the_same():
    wave = noise(1)
    x = fbank(wave, RATE)
    for same in (wave.numpy(), wave.double(), wave.numpy().astype(np.float64), wave[None]):
        assert torch.equal(fbank(same, RATE), x)


def test_channels_are_averaged():
    wave, other = noise(1), torch.from_numpy(tone(440))
    stereo = torch.stack([wave, other])
    assert torch.equal(fbank(stereo, RATE), fbank(stereo.mean(0), RATE))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_another_rate_is_resampled(rate: int):
    x, expected = fbank(tone(1000, 1.0, rate), rate), fbank(tone(1000), RATE)
    assert x[0].mean(0).argmax() == expected[0].mean(0).argmax()
    band = expected[0, 10:88].mean(0) > 0  # away from the edges, where there is sound
    assert (x - expected)[0, 10:88][:, band].abs().max() < 0.05


def test_the_loudest_bin_rises_with_the_pitch():
    loudest = [int(fbank(tone(f), RATE)[0, 50].argmax()) for f in (200, 500, 1000, 3000, 7000)]
    assert loudest == sorted(set(loudest))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_not_numbers_are_refused(bad: float):
    wave = noise(1)
    wave[5] = bad
    with pytest.raises(DataError, match="not numbers"):
        fbank(wave, RATE)


@pytest.mark.parametrize(
    ("shape", "told"),
    [((), r"\[T\]"), ((RATE, 2), "channels first"), ((1, 2, 9), "channels first")],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], told: str):
    with pytest.raises(DataError, match=told):
        fbank(torch.zeros(shape), RATE)


def test_whole_numbers_are_refused():
    with pytest.raises(DataError, match="divide 16-bit samples by 32768"):
        fbank(np.zeros(RATE, np.int16), RATE)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"frames": 0}, "frames must be 1 or more, got 0"),
        ({"mels": 3}, "mels must be 4 or more, got 3"),
        ({"std": 0.0}, "std must be above 0, got 0.0"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict, told: str):
    with pytest.raises(DataError, match=told):
        FrontEnd(**settings)
    with pytest.raises(DataError, match=told):
        fbank(noise(1), RATE, **settings)


def test_rates_without_a_meaning_are_refused():
    with pytest.raises(DataError, match="waveform has a sample rate of 16 Hz"):
        fbank(noise(1), 16)


def test_a_front_end_is_a_value():
    front = FrontEnd(512, 64, -6.6, 5.4)
    assert pickle.loads(pickle.dumps(front)) == front
    assert FrontEnd() == FrontEnd(1024, 128, MEAN, STD)
    with pytest.raises(FrozenInstanceError):
        front.frames = 3


def test_integers_written_as_floats_are_refused():
    with pytest.raises(DataError, match=r"up to [\d.]+, and they belong within -1 and 1"):
        fbank(30_000 * noise(1.0), RATE)


def test_without_torchaudio_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(DataError, match="audio needs torchaudio"):
        fbank(torch.zeros(10), RATE)
