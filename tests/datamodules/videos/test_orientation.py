"""A display matrix moves each pixel where it says."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.videos.orientation import read_matrix

from ..clip_files import write_clip
from .decoders import every_decoder, read

LAID = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)]
TURNED = [(0, 1, -1, 0), (0, -1, 1, 0), (0, 1, 1, 0), (0, -1, -1, 0)]
MIRRORED = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


def matrix(a: float, b: float, c: float, d: float, order: str = "=") -> bytes:
    """As FFmpeg keeps it; with `order` `>` as an mp4 file does."""
    one = 1 << 16
    parts = (int(a * one), int(b * one), 0, int(c * one), int(d * one), 0, 0, 0, 1 << 30)
    return struct.pack(f"{order}9i", *parts)


def moved(picture: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Each pixel (p, q) to (a p + c q, b p + d q), shifted to start at 0: the standard, literally."""
    height, width = picture.shape[:2]
    q, p = np.mgrid[:height, :width]
    x, y = a * p + c * q, b * p + d * q
    x, y = x - x.min(), y - y.min()
    result = np.zeros((y.max() + 1, x.max() + 1, *picture.shape[2:]), picture.dtype)
    result[y, x] = picture
    return result


@pytest.mark.parametrize("parts", [*LAID, *TURNED])
def test_a_matrix_is_applied_as_it_is(parts: tuple[int, int, int, int]):
    picture = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    orientation = read_matrix(matrix(*parts))
    np.testing.assert_array_equal(orientation.apply(picture), moved(picture, *parts))
    assert orientation.mirrored == (parts in MIRRORED)


def test_rounding_scale_and_a_few_degrees_do_not_turn_a_picture():
    assert read_matrix(matrix(0.0001, 0.99998, -0.99998, 0)) == read_matrix(matrix(0, 1, -1, 0))
    assert read_matrix(matrix(2, 0, 0, 2)) == read_matrix(matrix(1, 0, 0, 1))
    assert read_matrix(matrix(0.998, 0.06, -0.06, 0.998)) == read_matrix(matrix(1, 0, 0, 1))


@every_decoder
@pytest.mark.parametrize("parts", [*LAID, *TURNED])
def test_a_video_is_laid_as_its_matrix_says(parts, decoder: str, tmp_path: Path):
    plain = write_clip(tmp_path / "plain.mp4", size=(64, 96), frames=12)
    content = plain.read_bytes()
    assert content.count(matrix(*LAID[0], order=">")) == 2  # of the movie, then of the track
    before, track = content[: content.index(b"tkhd")], content[content.index(b"tkhd") :]
    track = track.replace(matrix(*LAID[0], order=">"), matrix(*parts, order=">"), 1)
    path = tmp_path / "laid.mp4"
    path.write_bytes(before + track)
    frame = read(str(plain), "pyav", [9])[0].numpy()
    expected = torch.from_numpy(moved(frame, *parts))
    assert torch.equal(read(str(path), decoder, [9])[0], expected)
