"""Groups over a spectrogram."""

import numpy as np
import pytest
import torch

from tome_lightning.commands.visualize.groups import Groups
from tome_lightning.commands.visualize.reading import example
from tome_lightning.commands.visualize.sound import (
    SHIFT,
    TICKS,
    figure_pixels,
    fill,
    patch_bounds,
    sound_figure,
)
from tome_lightning.inputs import Spectrogram


@pytest.mark.parametrize(("size", "count", "patch", "stride"), [(64, 4, 16, 16), (64, 5, 16, 10)])
def test_each_cell_belongs_to_the_patch_whose_middle_is_nearest(
    size: int, count: int, patch: int, stride: int
):
    bounds = patch_bounds(size, count, patch, stride)
    middles = np.arange(count) * stride + patch / 2
    end = (count - 1) * stride + patch
    for cell in range(end):
        owner = int(np.searchsorted(bounds, cell, side="right")) - 1
        distance = np.abs(middles - (cell + 0.5))
        assert distance[owner] == distance.min()
    assert bounds[-1] == end


def test_groups_have_their_mean_level_and_what_no_patch_covers_is_left():
    levels = np.random.default_rng(0).random((10, 9))
    groups = Groups(1, 1, 3, np.array([[0, 1], [1, 1]]))
    colours = fill(levels, groups, (4, 4))
    flat = fill(np.full((10, 9), levels[:4, :4].mean()), groups, (4, 4))
    assert np.abs(colours[:4, :4] - flat[:4, :4]).max() < 0.02
    assert (colours[:4, 4:8] == colours[4, 0]).all()
    own = fill(levels, Groups(0, 1, 91, np.arange(90).reshape(10, 9)), (1, 1))
    assert np.abs(colours[8:] - own[8:]).max() < 0.02
    distinct = fill(levels, groups, (4, 4), distinct=True)
    assert np.abs(distinct[:4, :4] - levels[:4, :4, None]).max() < 1e-9  # merged with none
    assert np.ptp(distinct[5, 5]) > 0.1 * levels[5, 5]  # has a hue


def test_axes_are_seconds_and_hertz_and_every_tone_lies_at_its_frequency():
    torchaudio = pytest.importorskip("torchaudio")
    assert torchaudio
    from datamodules.sounds.features import FrontEnd

    front = FrontEnd(frames=64, mels=128)
    tick = TICKS.index(2000)
    wave = torch.sin(2 * torch.pi * 2000 * torch.arange(16_000) / 16_000)
    x = front.normalise(front.log_mel(wave))[None]
    shown = example("2 kHz", x, Spectrogram(64, 128), (front.mean,), (front.std,))
    assert shown.cells is not None
    torch.testing.assert_close(torch.from_numpy(shown.cells), front.log_mel(wave))
    groups = Groups(1, 1, 31, np.arange(32).reshape(4, 8) // 2)
    figure = sound_figure([shown], [[groups]])
    loudest = shown.cells[10].argmax() + 0.5
    assert abs(figure.axes[0].get_yticks()[tick] - loudest) < 1
    assert figure.axes[0].get_xlim() == (0, 64 * SHIFT)
    assert figure.axes[1].get_xlabel() == "seconds"
    assert figure.axes[1].get_title(loc="left") == "r 1, block 1: 31 tokens"
    assert figure_pixels(figure).std() > 20


def test_lines_are_between_groups_only():
    shown = example("a", torch.randn(1, 32, 32), Spectrogram(32, 32), (0.0,), (1.0,))
    for ids, count in (([[0, 0], [0, 0]], 0), ([[0, 0], [1, 1]], 4), ([[0, 1], [2, 3]], 8)):
        figure = sound_figure([shown], [[Groups(1, 1, 1, np.array(ids))]])
        assert len(figure.axes[1].collections[0].get_segments()) == count


@pytest.mark.parametrize("name", ["odd\udcff.wav", "$x^.wav", "日本.wav"])
def test_any_name_of_a_file_can_be_a_title(name: str):
    read = Spectrogram(frames=64, mels=32)
    shown = example(name, torch.zeros(1, 64, 32), read, (0.0,), (0.5,))
    groups = Groups(1, 1, 8, np.arange(8).reshape(4, 2))
    figure = sound_figure([shown], [[groups]])
    assert figure_pixels(figure).ndim == 3
    assert figure.axes[0].get_title(loc="left") == name.replace("\udcff", "\\udcff")
