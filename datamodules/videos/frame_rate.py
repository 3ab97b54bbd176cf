"""Frames per second, as the times of a video's packets have them: pure functions of numbers.

A container's own figure is what a muxer was told, or a guess from the first frames: in Matroska a
video of 12.5 frames per second may well call itself one of 30.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

_ROUNDED = 2  # ticks: a muxer rounds each time, and some add rounded durations to it


def frame_rate(
    times: Sequence[int], tick: Fraction, last: int, nominal: Sequence[Fraction | None]
) -> float:
    """Average number of frames per second; 0 where it is not known.

    A nominal rate that all times follow is taken as it is, since times are rounded: in milliseconds
    30 frames per second would be 29.999 and clips would take other frames. Else frames are divided
    by the time that they are shown for, the last one's included.

    Args:
        times: When each frame is shown, in ticks, in any order.
        tick: Seconds.
        last: How long the last frame is shown, in ticks; 0 where the file does not tell.
        nominal: The container's rates, the likeliest first; None where it has none.
    """
    known = [rate for rate in nominal if rate]
    shown = np.sort(np.asarray(times, dtype=np.int64))
    span = int(shown[-1] - shown[0]) if len(shown) else 0
    if span <= 0:
        return float(known[0]) if known else 0.0
    for rate in known:
        lasting = 1 / float(rate * tick)  # ticks of a frame; half of one is more than rounding
        drift = (shown - shown[0]) - np.arange(len(shown)) * lasting
        if np.ptp(drift) <= min(_ROUNDED, lasting / 2):
            return float(rate)
    held = last if last > 0 else Fraction(span, len(shown) - 1)
    return float(len(shown) / ((span + held) * tick))
