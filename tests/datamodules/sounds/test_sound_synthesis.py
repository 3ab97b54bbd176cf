"""The sounds: each is what its name says, none is there twice, and the same numbers make the same one."""

import numpy as np
import pytest

from datamodules.sounds.sound_synthesis import (
    NOISE,
    PEAK,
    SOUNDS,
    TOP,
    beep,
    falling,
    harmonics,
    mix,
    noise,
    reverberation,
    rising,
    siren,
    string,
    sweep,
)

RATE = 16_000
SEEDS = range(8)
# Hz between which most of a sound's power lies
BANDS = {
    "beep": (300, 6000),
    "bell": (140, 5000),
    "bird": (1500, 7500),
    "buzz": (80, 4000),
    "claps": (400, 6000),
    "engine": (20, 1000),
    "falling": (250, 7000),
    "hiss": (1500, 8000),
    "pluck": (80, 4000),
    "rising": (250, 7000),
    "siren": (350, 6000),
    "thump": (30, 400),
}


def draw(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed)


def power(wave: np.ndarray, rate: int, low: float, high: float) -> float:
    """Share of the power between two frequencies."""
    spectrum = np.abs(np.fft.rfft(wave)) ** 2
    frequency = np.fft.rfftfreq(len(wave), 1 / rate)
    return float(spectrum[(low <= frequency) & (frequency < high)].sum() / spectrum.sum())


def pitches(wave: np.ndarray, rate: int = RATE) -> np.ndarray:
    """The strongest frequency in Hz in each window of 32 ms that is not silent."""
    size = round(0.032 * rate)
    windows = wave[: len(wave) // size * size].reshape(-1, size)
    windows = windows[np.sqrt((windows**2).mean(axis=1)) > 0.3]
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(size), 8 * size))
    return spectrum.argmax(axis=1) * rate / (8 * size)


def test_there_is_a_band_for_every_sound() -> None:
    assert list(SOUNDS) == sorted(BANDS)


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_sound_is_in_its_band_at_any_rate(name: str, rate: int) -> None:
    for seed in SEEDS:
        wave = SOUNDS[name](draw(seed), rate)
        assert wave.ndim == 1
        assert 0.1 < len(wave) / rate <= 1.35  # the shortest scene is cut a little at most
        assert np.sqrt(np.mean(wave**2)) == pytest.approx(1, abs=0.1)  # fades take a little
        assert power(wave, rate, *BANDS[name]) > 0.8
        assert power(wave, rate, 8000, rate) < 0.02  # else files of other rates would stand out


@pytest.mark.parametrize("name", SOUNDS)
def test_the_same_draws_make_the_same_sound_and_others_another(name: str) -> None:
    waves = [SOUNDS[name](draw(seed), RATE) for seed in (0, 0, 1, 2)]
    assert (waves[0] == waves[1]).all()
    spectra = [np.abs(np.fft.rfft(wave, 1 << 15)) for wave in waves[1:]]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        alike = (spectra[a] @ spectra[b]) / np.sqrt(
            (spectra[a] ** 2).sum() * (spectra[b] ** 2).sum()
        )
        assert alike < 0.97  # pitch, length and envelope, not the level alone


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rising_tone_rises_and_a_falling_one_falls(seed: int) -> None:
    up, down = pitches(rising(draw(seed), RATE)), pitches(falling(draw(seed), RATE))
    assert (np.diff(up) > 0).all()
    assert up[-1] / up[0] * 1.3 > 2  # an octave, less what the ends of the windows hide
    assert (np.diff(down) < 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_siren_goes_up_and_down_and_a_beep_stays(seed: int) -> None:
    turns = np.diff(np.sign(np.diff(pitches(siren(draw(seed), RATE)))))
    assert (turns != 0).sum() >= 2
    assert np.ptp(pitches(beep(draw(seed), RATE))) < 40  # one bin and the ends


@pytest.mark.parametrize("seed", SEEDS)
def test_a_string_has_a_pitch_and_dies(seed: int) -> None:
    wave = string(draw(seed), RATE)
    middle = wave[1000:2000]
    shifted = [wave[1000 + lag : 2000 + lag] for lag in range(RATE // 520, RATE // 100)]
    assert max(np.corrcoef(middle, other)[0, 1] for other in shifted) > 0.9
    assert np.abs(wave[-800:]).mean() < 0.8 * np.abs(wave[:800]).mean()


def test_a_sweep_has_the_frequency_it_is_given() -> None:
    wave = sweep(np.full(RATE, 440.0), RATE)
    assert power(wave, RATE, 439, 441.5) > 0.99
    assert np.mean(wave**2) == pytest.approx(1, abs=1e-3)


def test_harmonics_end_below_the_top() -> None:
    wave = harmonics(draw(0), np.full(44_100, 1000.0), 44_100, 30, 0.0)
    peaks = np.flatnonzero(np.abs(np.fft.rfft(wave)) > 1000)
    assert peaks.tolist() == [1000 * k for k in range(1, int(TOP / 1000) + 1)]


def test_noise_keeps_to_its_band_and_slope() -> None:
    assert power(noise(draw(0), 40_000, RATE, 1000, 2000), RATE, 900, 2200) > 0.9
    wave = noise(draw(0), 40_000, RATE, 20, 8000, slope=2.0)
    octave = [power(wave, RATE, low, 2 * low) for low in (200, 400, 800, 1600)]
    # power density as 1 / f^2 in bands that are twice as wide: half as much in each
    assert np.diff(np.log2(octave)) == pytest.approx([-1] * 3, abs=0.35)


def test_an_echo_is_a_convolution_with_noise_that_falls_by_60_db() -> None:
    click = np.zeros(RATE)
    click[100] = 1.0
    tail = reverberation(draw(0), click, 0.5, RATE)
    assert np.abs(tail[:100]).max() < 1e-12  # nothing before the sound
    assert np.abs(tail[100 + RATE // 2 :]).max() < 1e-12
    assert np.sum(tail**2) == pytest.approx(1)
    early, late = (np.sqrt(np.mean(tail[100 + k : 1100 + k] ** 2)) for k in (0, 4000))
    assert 20 * np.log10(late / early) == pytest.approx(-30, abs=2)  # half of the time
    wave = noise(draw(1), 3000, RATE, 50, TOP)
    expected = np.convolve(wave, tail[100 : 100 + RATE // 2])[:3000]
    np.testing.assert_allclose(reverberation(draw(0), wave, 0.5, RATE), expected, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_scene_fits_the_file_and_is_never_silent(channels: int) -> None:
    scene = mix(draw(0), [SOUNDS["bell"], SOUNDS["bird"]], 1.5, RATE, channels)
    assert (scene.shape, scene.dtype) == ((24_000, channels), np.float32)
    assert PEAK[0] - 1e-6 <= np.abs(scene).max() <= PEAK[1] + 1e-6
    assert len(np.unique(scene, axis=1).T) == channels
    hush = np.sqrt((scene**2).reshape(-1, 400, channels).mean(axis=1)).min()
    assert hush > 1e-4 * 10 ** (NOISE[0] / 20)


def test_sounds_begin_at_different_times_and_a_long_one_is_cut() -> None:
    starts = []
    for seed in range(20):
        scene = mix(draw(seed), [lambda random, rate: np.ones(1600)], 1.0, RATE, 1)[:, 0]
        starts.append(int(np.convolve(scene, np.ones(1600), "valid").argmax()))
    assert min(starts) < 3000
    assert max(starts) > 11_000
    assert len(mix(draw(0), [lambda random, rate: np.ones(99_999)], 1.0, RATE, 1)) == RATE
