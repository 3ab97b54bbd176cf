"""Waveforms rotate, mix and grow louder, spectrograms are masked, by torch's CPU generator alone."""

import math
import pickle
from collections import Counter

import pytest
import torch

from datamodules.errors import DataError
from datamodules.sounds.transforms import (
    SpecAugment,
    WaveAugment,
    centre,
    draw_lambda,
    mix_targets,
    mix_waves,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_centring_subtracts_the_mean():
    wave = torch.rand(1000)
    assert centre(wave).mean().abs() < 1e-6
    torch.testing.assert_close(centre(wave), wave - wave.mean())
    assert centre(torch.zeros(0)).shape == (0,)


# ---- roll and gain -----------------------------------------------------------------------------


def test_rolling_moves_every_sample_by_one_offset():
    wave = torch.arange(1000.0)
    offsets = []
    for _ in range(200):
        rolled = WaveAugment("circular", gain=False)(wave)
        offsets.append(int(rolled.argmin()))
        assert torch.equal(rolled, wave.roll(offsets[-1]))
    assert len(set(offsets)) > 150  # of 200 even draws among 1,000: 181 are expected to differ
    assert min(offsets) < 50
    assert max(offsets) > 950


def test_neither_roll_nor_gain_is_the_waveform_itself():
    wave = torch.rand(1000)
    assert torch.equal(WaveAugment("none", gain=False)(wave), wave)


def test_gain_alone_is_one_factor_of_a_half_to_three_halves():
    wave = torch.rand(1000) + 1
    gains = []
    for _ in range(500):
        factors = WaveAugment("none", gain=True)(wave) / wave
        torch.testing.assert_close(factors, factors[:1].expand(1000))
        gains.append(float(factors[0]))
    check_beta([gain - 0.5 for gain in gains])


def test_an_empty_waveform_stays_empty():
    assert WaveAugment("circular", gain=True)(torch.zeros(0)).shape == (0,)


def test_another_roll_is_refused():
    with pytest.raises(DataError, match="roll must be circular or none, got 'linear'"):
        WaveAugment("linear", gain=True)  # type: ignore[arg-type]


# ---- mixing ------------------------------------------------------------------------------------


def check_beta(draws: list[float]) -> None:
    """Draws look like Beta(10, 10): mean 0.5, variance 1 / 84."""
    values = torch.tensor(draws)
    assert 0 < values.min() < values.max() < 1
    assert values.mean() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 84 / len(draws)))
    assert values.var() == pytest.approx(1 / 84, rel=0.3)


def test_lambda_is_beta_ten_ten():
    check_beta([draw_lambda() for _ in range(500)])


def test_a_mix_is_centred_and_weighted():
    first, second = centre(torch.randn(1000)), centre(torch.randn(1000))
    mixed = mix_waves(first, second, 0.3)
    torch.testing.assert_close(mixed, 0.3 * first + 0.7 * second, atol=1e-6, rtol=0)
    assert mixed.mean().abs() < 1e-6
    torch.testing.assert_close(mix_waves(first, first, 0.3), first, atol=1e-6, rtol=0)


def test_a_mix_is_as_long_as_the_first():
    first, second = centre(torch.randn(1000)), centre(torch.randn(400))
    padded = torch.cat([second, torch.zeros(600)])
    torch.testing.assert_close(mix_waves(first, second, 0.6), 0.6 * first + 0.4 * padded)
    mixed = mix_waves(second, first, 0.6)
    torch.testing.assert_close(mixed, centre(0.6 * second + 0.4 * first[:400]))
    assert mixed.mean().abs() < 1e-6  # what is left of the second is not centred itself


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 100), (100, 0)])
def test_empty_waveforms_mix(first: int, second: int):
    mixed = mix_waves(torch.ones(first), torch.ones(second), 0.5)
    assert mixed.shape == (first,)
    assert torch.isfinite(mixed).all()


def test_a_mixed_target_has_each_clip_s_share():
    first, second = torch.tensor([1.0, 1, 0, 0]), torch.tensor([0.0, 1, 1, 0])
    for lam in torch.rand(200).tolist():
        mixed = mix_targets(first, second, lam)
        torch.testing.assert_close(mixed, torch.tensor([lam, 1, 1 - lam, 0]))
        assert mixed[1] == 1  # exactly: a target above 1 is none
        assert mixed[3] == 0
    assert torch.equal(mix_targets(first, first, 0.123), first)


# ---- masks -------------------------------------------------------------------------------------


def test_masks_are_one_band_and_one_stretch_of_zeros():
    log_mel = -1 - torch.rand(256, 64)
    original = log_mel.clone()
    widths, lengths = Counter(), Counter()
    for _ in range(400):
        masked = SpecAugment(freq=8, time=16)(log_mel)
        zero = masked == 0
        assert torch.equal(masked[~zero], log_mel[~zero])
        bins, frames = zero.all(dim=0), zero.all(dim=1)
        assert torch.equal(zero, bins[None, :] | frames[:, None])
        for mask in (bins, frames):
            assert (mask.int().diff() != 0).sum() <= 2  # one piece
        widths[int(bins.sum())] += 1
        lengths[int(frames.sum())] += 1
    assert torch.equal(log_mel, original)
    assert sorted(widths) == list(range(8))  # torchaudio's: below the greatest width
    assert sorted(lengths) == list(range(16))
    assert max(widths.values()) < 2 * min(
        widths.values()
    )  # 75 of each are expected, give or take 8


def test_masks_reach_everywhere_but_the_last_row_and_column():
    """Torchaudio's places are below the size minus a width that it only rounds down afterwards."""
    log_mel = torch.ones(20, 10)
    masked = torch.stack([SpecAugment(freq=5, time=10)(log_mel) == 0 for _ in range(300)])
    bins, frames = masked.all(dim=1).any(dim=0), masked.all(dim=2).any(dim=0)
    assert bins.tolist() == [True] * 9 + [False]
    assert frames.tolist() == [True] * 19 + [False]


def test_zero_switches_a_mask_off():
    log_mel = torch.ones(256, 64)
    assert torch.equal(SpecAugment(0, 0)(log_mel), log_mel)
    for _ in range(20):
        assert not (SpecAugment(8, 0)(log_mel) == 0).all(dim=1).any()
        assert not (SpecAugment(0, 8)(log_mel) == 0).all(dim=0).any()


def test_masks_wider_than_the_spectrogram_are_refused():
    SpecAugment().check(frames=192, mels=48)
    with pytest.raises(DataError, match="time_mask=192 is more than the 100 of the spectrogram"):
        SpecAugment().check(frames=100, mels=128)
    with pytest.raises(DataError, match="freq_mask=48 is more than the 32"):
        SpecAugment()(torch.zeros(1024, 32))
    with pytest.raises(DataError, match="freq_mask must be 0 or more, got -1"):
        SpecAugment(freq=-1)


# ---- where the draws come from -----------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda: WaveAugment("circular", gain=True)(torch.arange(1000.0)),
        lambda: torch.tensor(draw_lambda()),
        lambda: SpecAugment(8, 16)(torch.ones(256, 64)),
    ],
)
def test_torch_s_generator_decides_alone(draw):
    torch.manual_seed(7)
    first, second = draw(), draw()
    torch.manual_seed(7)
    assert torch.equal(draw(), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("made", [WaveAugment("none", gain=True), SpecAugment(8, 16)])
def test_augmentations_are_values(made):
    assert pickle.loads(pickle.dumps(made)) == made
