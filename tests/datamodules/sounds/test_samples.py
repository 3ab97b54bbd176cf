"""Training clips: what is mixed with what, from which draws, and what replaces a bad file."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.sounds.features import FrontEnd
from datamodules.sounds.samples import AudioSamples, EvalSpectrogram, TrainSpectrogram
from datamodules.sounds.tagged import TaggedList
from datamodules.sounds.transforms import SpecAugment, WaveAugment, centre

CLASSES = 4
FRONT_END = FrontEnd(frames=40, mels=16)


def read(path: str) -> Tensor:
    """Noise that the file's number seeds; its length grows with the number."""
    number = int(Path(path).stem)
    noise = np.random.RandomState(number).uniform(-1, 1, 2000 + 100 * number)
    return torch.from_numpy(noise).float()


def waves(
    count: int = 12, mixup: float = 0.5, reader: Callable[[str], Tensor] = read, **settings: Any
) -> AudioSamples:
    """Clips whose x is the mixed waveform itself; clip n has class n modulo 4."""
    files = TaggedList([f"{n}.wav" for n in range(count)], [[n % 4] for n in range(count)], CLASSES)
    given: dict[str, Any] = {"augment": WaveAugment("none", gain=False), "mixup": mixup} | settings
    return AudioSamples("train", "/data", files, reader, lambda wave: wave, **given)


def spectrograms(mixup: float = 0.5, **settings: Any) -> AudioSamples:
    samples = waves(mixup=mixup, augment=WaveAugment("circular", gain=True), **settings)
    samples.transform = TrainSpectrogram(FRONT_END, SpecAugment(4, 8))
    return samples


def test_without_mixup_a_clip_is_itself() -> None:
    samples = waves(mixup=0.0)
    for index in range(12):
        x, y, id = samples[index]
        assert torch.equal(x, centre(read(f"{index}.wav")))
        assert torch.equal(y, torch.eye(4)[index % 4])
        assert id == index


def test_with_mixup_wave_and_target_have_the_same_shares() -> None:
    asked: list[str] = []
    samples = waves(mixup=1.0, reader=lambda path: asked.append(path) or read(path))
    lambdas = []
    for index in range(12):
        x, y, _ = samples[index]
        first, second = (centre(read(path)) for path in asked[-2:])
        own, other = (int(Path(path).stem) % 4 for path in asked[-2:])
        if own == other:
            assert torch.equal(y, torch.eye(4)[own])
            continue
        lam = float(y[own])
        assert torch.allclose(y, lam * torch.eye(4)[own] + (1 - lam) * torch.eye(4)[other])
        longest = torch.zeros(max(len(first), len(second)))
        longest[: len(second)] = second  # padded with silence, or cut
        assert torch.allclose(x, centre(lam * first + (1 - lam) * longest[: len(first)]), atol=1e-6)
        lambdas.append(lam)
    assert len(set(lambdas)) == len(lambdas) > 6


def test_so_many_clips_are_mixed_with_partners_from_the_whole_list() -> None:
    asked: list[str] = []

    def note(path: str) -> Tensor:
        asked.append(Path(path).stem)
        return torch.ones(8)

    samples = waves(count=10, mixup=0.25, reader=note)
    partners: Counter[str] = Counter()
    for epoch in range(40):
        samples.set_epoch(epoch)
        for index in range(10):
            asked.clear()
            samples[index]
            partners.update(asked[1:])
    mixed = sum(partners.values())
    assert abs(mixed - 100) < 4 * 8.7  # a binomial's deviation
    assert len(partners) == 10
    assert max(partners.values()) < 30  # 10 each on average


def test_targets_that_share_a_class_keep_it_whole() -> None:
    files = TaggedList(["0.wav", "1.wav"], [[0, 1], [1, 2]], 3)
    samples = waves(mixup=1.0)
    samples.files = files
    seen = set()
    for epoch in range(20):
        samples.set_epoch(epoch)
        _, y, _ = samples[0]
        assert float(y[1]) == 1
        assert float(y[0] + y[2]) == pytest.approx(1)
        seen.add(float(y[0]) == 1)
    assert seen == {True, False}  # sometimes a clip's partner is the clip


def test_spectrograms_have_the_shapes_models_take() -> None:
    x, y, _ = spectrograms()[3]
    assert x.shape == (1, 40, 16)
    assert y.shape == (4,)
    assert (x.dtype, y.dtype) == (torch.float32, torch.float32)
    assert EvalSpectrogram(FRONT_END)(read("3.wav")).shape == (1, 1, 40, 16)


def test_an_evaluated_clip_is_its_plain_features() -> None:
    wave = read("3.wav")
    expected = FRONT_END.normalise(FRONT_END.log_mel(wave - wave.mean()))
    assert torch.equal(EvalSpectrogram(FRONT_END)(wave)[0, 0], expected)


def test_padding_is_0_before_it_is_normalised() -> None:
    x, _, _ = spectrograms()[0]  # 2000 samples: 11 frames
    assert (x[0, 11:] == FRONT_END.fill).all()
    assert not (x[0, :11] == FRONT_END.fill).all()


def test_the_draws_depend_on_seed_epoch_and_number_alone() -> None:
    def content(seed: int, epoch: int, number: int) -> bytes:
        samples = spectrograms(seed=seed)
        samples.set_epoch(epoch)
        x, y, id = samples[number]
        assert id == number % 12
        return x.numpy().tobytes() + y.numpy().tobytes()

    keys = [(s, e, n) for s in range(2) for e in range(2) for n in (5, 17, 29)]  # clip 5 thrice
    made = {key: content(*key) for key in keys}
    torch.manual_seed(123)  # other draws in between
    assert made == {key: content(*key) for key in reversed(keys)}
    assert len(set(made.values())) == len(keys)  # repeats are augmented anew


def test_the_main_process_keeps_its_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    spectrograms(mixup=1.0)[0]
    assert torch.equal(torch.rand(3), expected)


def test_workers_make_no_difference() -> None:
    def batches(workers: int) -> list[Tensor]:
        order = [3, 15, 1, 7, 27, 3 + 36, 11, 0]  # with repeats
        loader = DataLoader(spectrograms(), batch_size=2, sampler=order, num_workers=workers)
        return [tensor for batch in loader for tensor in batch]

    expected = batches(0)
    for workers in (1, 2):
        found = batches(workers)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_plain_loop_over_the_samples_ends() -> None:
    assert [id for _, _, id in waves(count=3)] == [0, 1, 2]


def test_a_bad_partner_is_replaced_like_any_file() -> None:
    def refuse(path: str) -> Tensor:
        if Path(path).stem in ("4", "8"):
            raise OSError("broken")
        return read(path)

    samples = waves(mixup=1.0, reader=refuse, max_corrupt_share=1.0)
    for index in range(12):
        _, y, _ = samples[index]
        assert float(y.sum()) == pytest.approx(1)
    assert list(samples.bad.errors()) == [4, 8]
    assert float(samples[4][1][0]) > 0.1  # in place of a bad file one of its class, 0


def test_both_clips_of_a_pair_are_augmented() -> None:
    """With the gain alone, a mix of waveforms that are multiples of two others has both gains."""
    asked: list[str] = []
    samples = waves(
        mixup=1.0,
        augment=WaveAugment("none", gain=True),
        reader=lambda path: asked.append(path) or read(path),
    )
    gains = []
    for index in range(12):
        x, y, _ = samples[index]
        first, second = (centre(read(path)) for path in asked[-2:])
        own, other = (int(Path(path).stem) % 4 for path in asked[-2:])
        if own == other:
            continue
        padded = torch.zeros(max(len(first), len(second)))
        padded[: len(second)] = second
        parts = torch.stack([first, centre(padded[: len(first)])], dim=1)
        factors = torch.linalg.lstsq(parts, x[:, None]).solution.flatten()
        shares = torch.stack([y[own], y[other]])
        gains.append((factors / shares).tolist())
    found = np.array(gains)  # [pairs, 2]
    assert len(found) > 6
    assert ((found > 0.5) & (found < 1.5)).all()
    assert (found.std(axis=0) > 0.02).all()  # neither is 1 each time


def test_a_partner_that_cannot_be_read_takes_its_replacement_s_labels() -> None:
    def odd_only(path: str) -> Tensor:
        if int(Path(path).stem) % 2 == 0:
            raise ValueError("no sound")
        return torch.full((8,), float(int(Path(path).stem) % 4))

    samples = waves(mixup=1.0, reader=odd_only, max_corrupt_share=1.0)
    samples.transform = lambda wave: wave
    for index in range(1, 12, 2):
        _, y, _ = samples[index]
        assert float(y.sum()) == pytest.approx(1)
        assert y[[0, 2]].sum() == 0  # no file of these classes was ever heard
