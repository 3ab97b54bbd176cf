"""Twelve kinds of sound made from numbers, the room around them and the noise behind them.

Every function here draws from the `RandomState` that it is given: numpy keeps its stream the same for
ever, which it does not promise of Generator. Waveforms are float64 `[samples]`, of root mean square 1
where nothing else is said.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

Random: TypeAlias = np.random.RandomState
Sound: TypeAlias = Callable[[Random, int], np.ndarray]  # (random, rate in Hz) -> samples

TOP = 7000.0  # Hz: what is above is lost at 16 kHz, and would tell the files of other rates apart
LEVELS = (-9.0, 0.0)  # dB, of a sound in a scene
NOISE = (-36.0, -14.0)  # dB, of the background
PEAK = (0.1, 0.9)  # of full scale, of a scene
WET = (0.05, 0.6)  # amplitude of the room's answer
ECHO = (0.05, 0.5)  # seconds in which it falls by 60 dB


def mix(
    random: Random, sounds: Sequence[Sound], seconds: float, rate: int, channels: int
) -> np.ndarray:
    """A scene: sounds at random times and levels, in a room, before a background of noise.

    Args:
        random: Where every draw comes from.
        sounds: What is heard; sounds may overlap.
        seconds: Length of the scene; sounds that are longer are cut.
        rate: Samples a second.
        channels: Each has its own place and its own echo.

    Returns:
        float32 `[samples, channels]` within -1 and 1.
    """
    total = round(seconds * rate)
    scene = np.zeros((total, channels))
    for sound in sounds:
        wave = sound(random, rate)[:total] * decibels(random, *LEVELS)
        start = random.randint(total - len(wave) + 1)
        pan = random.uniform(0.3, 1.0, channels)
        scene[start : start + len(wave)] += wave[:, None] * pan / pan.mean()
    echo, wet = random.uniform(*ECHO), random.uniform(*WET)
    for channel in range(channels):
        scene[:, channel] += wet * reverberation(random, scene[:, channel], echo, rate)
    slope, level = random.uniform(0.0, 2.0), decibels(random, *NOISE)
    scene += level * noise(random, total, rate, 50.0, TOP, slope)[:, None]
    return (scene * (random.uniform(*PEAK) / np.abs(scene).max())).astype(np.float32)


def reverberation(random: Random, wave: np.ndarray, echo: float, rate: int) -> np.ndarray:
    """What a room answers: the wave convolved with noise that falls by 60 dB in `echo` seconds."""
    tail = random.standard_normal(round(echo * rate)) * 10 ** (-3 * times(echo, rate) / echo)
    tail /= np.sqrt(np.sum(tail**2))  # as loud as the wave
    size = 2 ** (len(wave) + len(tail)).bit_length()
    answer = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(tail, size))
    return answer[: len(wave)]


def noise(
    random: Random, samples: int, rate: int, low: float, high: float, slope: float = 0.0
) -> np.ndarray:
    """Noise between two frequencies in Hz whose power falls as frequency ** -slope."""
    size = 2 ** samples.bit_length()  # other sizes take an FFT several times as long
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / rate), 1.0)
    gain = frequency ** (-slope / 2)
    gain /= np.sqrt((1 + (low / frequency) ** 16) * (1 + (frequency / high) ** 16))
    return level(np.fft.irfft(np.fft.rfft(random.standard_normal(size)) * gain)[:samples])


def beep(random: Random, rate: int) -> np.ndarray:
    """A steady tone, three to five times the same."""
    t = times(random.uniform(0.1, 0.2), rate)
    tone = faded(harmonics(random, np.full_like(t, octaves(random, 400, 2500)), rate, 5, 1.0), rate)
    return train(random, [tone] * random.randint(3, 6), rate, (0.04, 0.08))


def bell(random: Random, rate: int) -> np.ndarray:
    """Partials that are no harmonics; the higher ones die earlier."""
    t = times(random.uniform(0.8, 1.2), rate)
    pitch, decay = octaves(random, 300, 1100), random.uniform(2.0, 5.0)
    wave = np.zeros_like(t)
    for partial in (0.5, 1.0, 1.19, 1.5, 2.0, 2.56, 3.01, 4.1):  # a church bell's, about
        frequency = min(pitch * partial * random.uniform(0.98, 1.02), TOP)
        fall = np.exp(-decay * np.sqrt(partial) * t)
        wave += (
            random.uniform(0.3, 1.0) * fall * np.sin(2 * np.pi * (frequency * t + random.rand()))
        )
    return level(faded(wave, rate, 0.003))


def bird(random: Random, rate: int) -> np.ndarray:
    """A handful of whistles, each quickly up or down or over a bow."""
    pitch, bow = octaves(random, 2200, 4500), random.choice([-1.0, 0.0, 1.0])
    whistles = []
    for _ in range(random.randint(6, 10)):
        t = times(random.uniform(0.05, 0.12), rate)
        way = t / t[-1]
        bend = random.uniform(0.2, 0.6) * (np.sin(np.pi * way) if bow == 0 else bow * (way - 0.5))
        whistles.append(faded(sweep(pitch * random.uniform(0.9, 1.1) * 2**bend, rate), rate, 0.01))
    return train(random, whistles, rate, (0.02, 0.06))


def buzz(random: Random, rate: int) -> np.ndarray:
    """A low sawtooth."""
    t = times(random.uniform(0.6, 1.1), rate)
    pitch = octaves(random, 90, 260) * (1 + 0.01 * np.sin(2 * np.pi * random.uniform(1, 4) * t))
    return faded(harmonics(random, pitch, rate, 30, 1.0), rate)


def claps(random: Random, rate: int) -> np.ndarray:
    """Short bursts of noise in an even row."""
    centre = octaves(random, 900, 2800)
    bursts = []
    for _ in range(random.randint(4, 8)):
        t = times(0.08, rate)
        burst = noise(random, len(t), rate, centre / 1.6, centre * 1.6)
        bursts.append(burst * np.exp(-t / random.uniform(0.008, 0.02)) * random.uniform(0.6, 1.0))
    gap = random.uniform(0.04, 0.1)
    return train(random, bursts, rate, (gap, gap + 0.02))


def engine(random: Random, rate: int) -> np.ndarray:
    """A rumble of low harmonics that throbs."""
    t = times(random.uniform(0.7, 1.2), rate)
    pitch = octaves(random, 35, 90) * 2 ** (random.uniform(-0.4, 0.4) * t)
    rumble = harmonics(random, pitch, rate, 14, 0.6)
    rumble += 0.6 * noise(random, len(t), rate, 60, 900, 1.0)
    throb = 1 + random.uniform(0.4, 0.9) * np.sin(2 * np.pi * random.uniform(9, 20) * t)
    return level(faded(rumble * throb, rate, 0.08))


def falling(random: Random, rate: int) -> np.ndarray:
    """One tone on its way down."""
    return rising(random, rate)[::-1]


def hiss(random: Random, rate: int) -> np.ndarray:
    """High noise that swells and goes."""
    samples = len(times(random.uniform(0.5, 1.0), rate))
    low = octaves(random, 1800, 4000)
    wave = noise(random, samples, rate, low, min(low * random.uniform(1.5, 2.5), TOP))
    return level(faded(wave, rate, random.uniform(0.03, 0.15)))


def pluck(random: Random, rate: int) -> np.ndarray:
    """Two to four notes of a string."""
    notes = [string(random, rate) for _ in range(random.randint(2, 5))]
    return train(random, notes, rate, (0.0, 0.0))


def rising(random: Random, rate: int) -> np.ndarray:
    """One tone on its way up, over one to two octaves or more."""
    t = times(random.uniform(0.4, 0.9), rate)
    pitch = octaves(random, 300, 1000) * 2 ** (random.uniform(1.3, 2.3) * t / t[-1])
    return faded(harmonics(random, pitch, rate, 3, 1.5), rate)


def siren(random: Random, rate: int) -> np.ndarray:
    """One tone up and down and up again."""
    t = times(random.uniform(0.8, 1.2), rate)
    swing = np.sin(2 * np.pi * (random.uniform(1.8, 5.0) * t + random.rand()))
    pitch = octaves(random, 600, 1800) * 2 ** (random.uniform(0.2, 0.5) * swing)
    return faded(harmonics(random, pitch, rate, 3, 1.5), rate)


def thump(random: Random, rate: int) -> np.ndarray:
    """A drum: a low tone that sinks and dies, two to four times."""
    beats = []
    for _ in range(random.randint(2, 5)):
        t = times(random.uniform(0.15, 0.3), rate)
        pitch = random.uniform(50, 110) * (1 + random.uniform(0.5, 2.0) * np.exp(-t / 0.03))
        skin = noise(random, len(t), rate, 100, 1200) * np.exp(-t / 0.01)
        fall = np.exp(-t / random.uniform(0.05, 0.12))
        beats.append(sweep(pitch, rate) * fall + random.uniform(0.1, 0.4) * skin)
    return train(random, beats, rate, (0.0, 0.1))


SOUNDS: dict[str, Sound] = {
    "beep": beep,
    "bell": bell,
    "bird": bird,
    "buzz": buzz,
    "claps": claps,
    "engine": engine,
    "falling": falling,
    "hiss": hiss,
    "pluck": pluck,
    "rising": rising,
    "siren": siren,
    "thump": thump,
}


def times(seconds: float, rate: int) -> np.ndarray:
    """The times of the samples in seconds."""
    return np.arange(round(seconds * rate)) / rate


def octaves(random: Random, low: float, high: float) -> float:
    """A frequency between two others, each octave as likely as the next."""
    return float(low * (high / low) ** random.rand())


def decibels(random: Random, low: float, high: float) -> float:
    """An amplitude between two levels in dB."""
    return float(10 ** (random.uniform(low, high) / 20))


def level(wave: np.ndarray) -> np.ndarray:
    """The wave with root mean square 1."""
    return wave / np.sqrt(np.mean(wave**2))


def faded(wave: np.ndarray, rate: int, seconds: float = 0.02) -> np.ndarray:
    """The wave with soft ends, half a cosine each."""
    samples = min(round(seconds * rate), len(wave) // 2)
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(samples) / max(samples, 1))
    return wave * np.concatenate([ramp, np.ones(len(wave) - 2 * samples), ramp[::-1]])


def sweep(pitch: np.ndarray, rate: int) -> np.ndarray:
    """A sine of root mean square 1 whose frequency in Hz is given for each sample."""
    return np.sqrt(2) * np.sin(2 * np.pi * np.cumsum(pitch) / rate)


def harmonics(random: Random, pitch: np.ndarray, rate: int, count: int, fall: float) -> np.ndarray:
    """A tone of up to `count` harmonics below TOP; the k-th has amplitude k ** -fall, about."""
    count = max(1, min(count, int(TOP / pitch.max())))
    phase = np.cumsum(pitch) / rate
    wave = np.zeros_like(pitch)
    for k in range(1, count + 1):
        strength = random.uniform(0.5, 1.0) * k**-fall
        wave += strength * np.sin(2 * np.pi * (k * phase + random.rand()))
    return level(wave)


def string(random: Random, rate: int) -> np.ndarray:
    """Noise in a loop in which neighbours are averaged (Karplus and Strong 1983)."""
    samples = round(random.uniform(0.2, 0.32) * rate)
    loop = noise(random, round(rate / octaves(random, 110, 500)), rate, 50, 3500)
    damping = 0.5 * random.uniform(0.98, 0.998)
    rounds = [loop]
    for _ in range(samples // len(loop)):
        loop = damping * (loop + np.roll(loop, 1))
        rounds.append(loop)
    return faded(level(np.concatenate(rounds)[:samples]), rate, 0.002)


def train(
    random: Random, waves: Sequence[np.ndarray], rate: int, gap: tuple[float, float]
) -> np.ndarray:
    """Waves one after the other with silence of `gap` seconds, from least to most, between them."""
    pieces = [waves[0]]
    for wave in waves[1:]:
        pieces += [np.zeros(round(random.uniform(*gap) * rate)), wave]
    return level(np.concatenate(pieces))
