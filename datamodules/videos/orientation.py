"""How a display matrix wants a picture turned or mirrored."""

import struct
from typing import NamedTuple

import numpy as np


class Orientation(NamedTuple):
    """One of the 8 ways to lay a rectangle on itself: transposed first, then flipped.

    Attributes:
        transpose: Rows become columns.
        flip_x: Left and right change places.
        flip_y: Top and bottom change places.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether no rotation does the same."""
        return self.transpose ^ self.flip_x ^ self.flip_y

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """A view of a picture `[H, W, ...]`, `[W, H, ...]` if transposed."""
        upright = np.swapaxes(picture, 0, 1) if self.transpose else picture
        return upright[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


UPRIGHT = Orientation()


def read_matrix(matrix: bytes) -> Orientation:
    """The orientation nearest to a display matrix, nine int32 `a b u c d v x y w` of FFmpeg.

    It maps the point (p, q), right and down, to (a p + c q, b p + d q): ISO/IEC 14496-12, 6.2.2. Shifts,
    scales and the rest of an angle that is no multiple of 90 degrees are left out.
    """
    a, b, _, c, d = struct.unpack_from("=5i", matrix)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)
