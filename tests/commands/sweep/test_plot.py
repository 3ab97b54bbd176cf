"""The picture: what it shows, read back from its axes."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tome_lightning.commands.sweep.plot import plot

from .rows import row

ROWS = [row(0), row(4, 0.898, 1.3), row(2, 0.899, 1.1), row(6, 0.85, 1.6),
        row({"keep": 0.9}, 0.897, 1.2)]  # fmt: skip


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`drawn(rows)`: the axes of the picture."""
    kept: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **kwargs: Any) -> None:
        kept.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(rows: Any) -> Axes:
        plot(rows, tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        return kept[-1].axes[0]

    return draw


def test_the_line_goes_through_dense_and_constant_r_in_their_order(drawn: Any):
    line = drawn(ROWS).get_lines()[0]
    assert list(line.get_xdata()) == pytest.approx([100, 110, 130, 160])
    assert list(line.get_ydata()) == pytest.approx([90, 89.9, 89.8, 85])


def test_each_point_has_its_r_and_no_label_hides_another(drawn: Any):
    axes = drawn(ROWS)
    labels = {text.get_text(): text for text in axes.texts}
    assert labels.keys() >= {"dense", "r=2", "r=4", "r=6", "keep=0.9"}
    boxes = [text.get_window_extent() for text in labels.values()]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_several_runs_have_a_legend_and_a_colour_each(drawn: Any):
    other = [row(0, 0.8, name="other/1"), row(4, 0.7, 2.0, name="other/1")]
    axes = drawn([*ROWS, *other])
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["digits/0", "other/1", "dense", "schedule over depth"]
    first, second = (axes.get_lines()[i].get_color() for i in (0, 5))
    assert first != second


def test_rows_not_measured_in_full_are_left_out(drawn: Any):
    axes = drawn([*ROWS, row(8, value=None), row(7, samples_per_s=None)])
    labels = [text.get_text() for text in axes.texts]
    assert "r=8" not in labels
    assert "r=7" not in labels
