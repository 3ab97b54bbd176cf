"""From examples and their groups to a page or a film; `sound` draws the figures of sounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tome_lightning.commands.visualize.drawing import Pixels, enlarge, film, paint, scale_for, sheet
from tome_lightning.commands.visualize.groups import Groups
from tome_lightning.commands.visualize.reading import Example

MOST_COLUMNS = 8  # frames of a clip on a page


def image_page(
    examples: Sequence[Example], groups: Sequence[Sequence[Groups]], distinct: bool = False
) -> Image.Image:
    """A row for each image: as it is, then its groups."""
    rows = []
    for example, found in zip(examples, groups, strict=True):
        assert example.frames is not None
        scale = scale_for(example.frames)
        row = [(example.name, enlarge(example.frames, scale)[0])]
        row += [(g.label, paint(example.frames, g, scale, distinct)[0]) for g in found]
        rows.append(row)
    return sheet(rows)


def clip_page(
    examples: Sequence[Example], groups: Sequence[Sequence[Groups]], distinct: bool = True
) -> Image.Image:
    """For each clip a row of frames as they are, and below it a row for each r and depth."""
    rows = []
    for example, found in zip(examples, groups, strict=True):
        assert example.frames is not None
        steps = len(found[0].ids)
        tube = len(example.frames) // steps
        times = np.linspace(0, steps - 1, min(steps, MOST_COLUMNS)).round().astype(int)
        shown = times * tube
        scale = -(-scale_for(example.frames) // 2)
        own = enlarge(example.frames[shown], scale)
        rows.append([
            (f"frame {i}" if j else example.name, own[j]) for j, i in enumerate(shown)
        ])  # fmt: skip
        for g in found:
            painted = paint(example.frames, g, scale, distinct)[shown]
            rows.append([(g.label if j == 0 else "", one) for j, one in enumerate(painted)])
    return sheet(rows)


def clip_film(example: Example, groups: Sequence[Groups], distinct: bool = True) -> Pixels:
    """Each frame as it is and, beside it, its groups: uint8 ``[T, H, W, 3]``."""
    assert example.frames is not None
    scale = scale_for(example.frames)
    panels = [(example.name, enlarge(example.frames, scale))]
    panels += [(g.label, paint(example.frames, g, scale, distinct)) for g in groups]
    return film(panels)
