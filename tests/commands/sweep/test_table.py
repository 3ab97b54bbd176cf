"""The verdict in words, and what several sweeps are told apart by."""

import json
from pathlib import Path

import pytest

from tome_lightning.arguments import UsageError
from tome_lightning.commands.sweep.rows import SweepRow, read_rows, series
from tome_lightning.commands.sweep.table import format_report, table, unlike, verdict

from .rows import row

EARLY = {"r": 8, "inflection": -1.0}


def test_the_verdict_is_the_largest_r_that_loses_no_more_than_allowed():
    rows = [row(0), row(2, 0.898, 1.1), row(4, 0.895, 1.2), row(6, 0.893, 1.3)]
    assert verdict(rows, 0.5) == [
        "largest r within 0.5 points of dense: r=4 (-0.50 points, 1.20x)"  # 0.5 is still within
    ]
    assert "r=2" in verdict(rows, 0.3)[0]
    assert "r=6" in verdict(rows, 0.7)[0]
    assert verdict(rows, 0.1) == [
        "no r is within 0.1 points of dense: the nearest, r=2, loses 0.20 points"
    ]


def test_a_faster_schedule_is_told_beside_the_largest_constant_r():
    rows = [row(0), row(4, 0.9, 1.2), row(EARLY, 0.899, 1.5), row({"keep": 0.5}, 0.7, 9.0)]
    first, second = verdict(rows, 0.5)
    assert "largest r" in first
    assert "r=4" in first
    assert second == "fastest within 0.5 points of dense: r=8:-1 (-0.10 points, 1.50x)"


def test_a_loss_of_a_few_samples_is_told_to_be_chance():
    rows = [row(0, samples=1000), row(2, 0.899, samples=1000)]
    assert any("5 of 1,000 samples" in line for line in verdict(rows, 0.5))
    assert not any("chance" in line for line in verdict([row(0), row(2)], 0.5))
    few = [row(r, metric="mAP", samples=200) for r in (0, 2)]
    assert any("mAP of 200 samples" in line for line in verdict(few, 0.5))


def test_dense_alone_has_no_verdict():
    assert verdict([row(0)], 0.5) == []


def test_a_table_fits_the_screen_and_its_columns_line_up():
    rows = [row(0), row(2), row([8, 8, 8, 4, 2, 1]), row({"keep": 0.9}), row(EARLY, value=1.0)]
    rows.append(row(6, value=0.0, samples_per_s=123456.7, macs=61_603_000_000))
    lines = table(rows)
    assert len(lines) == 1 + len(rows)
    assert max(map(len, lines)) <= 100
    ends = {line.index("%") for line in lines[1:]}
    assert len(ends) == 1
    assert max(map(len, format_report(rows))) <= 100


def test_rows_that_wait_for_their_turn_have_gaps():
    waiting = row(4, value=None, delta=None, samples_per_s=None, speedup=None, realised=None)
    assert table([row(0), waiting])[2].split() == "4 50 > 26 0.8 M ... - - -".split()


def test_series_are_told_apart_by_what_differs():
    on, off = [row(0), row(4)], [row(0, prop_attn=False), row(4, prop_attn=False)]
    assert list(series(on)) == ["digits/0"]
    assert list(series([*on, *off])) == ["digits/0, prop_attn on", "digits/0, prop_attn off"]
    other = [row(0, name="audio/1", batch=16)]
    assert list(series([*on, *other])) == ["digits/0, batch 8", "audio/1, batch 16"]
    again = [row(0, checkpoint="other.ckpt")]
    assert list(series([*on, *again])) == ["digits/0", "digits/0'"]


def test_unlike_sweeps_are_told():
    assert unlike([row(0), row(4, speedup=2.0)]) == []
    told = " ".join(unlike([row(0), row(0, device_name="H100", samples=10, name="b")]))
    assert "different devices (CPU, H100)" in told
    assert "different numbers of samples (10, 50000)" in told
    drift = unlike([row(0), row(0, name="b", samples_per_s=120.0)])
    assert "100 and 120 samples/s" in drift[0]
    assert unlike([row(0), row(0, name="b", samples_per_s=105.0)]) == []


def test_rows_come_back_from_json(tmp_path: Path):
    rows = [row(0), row(EARLY), row([1, 2, 3])]
    file = tmp_path / "a.json"
    file.write_text(json.dumps([one.as_dict() for one in rows]))
    assert read_rows(file) == rows
    later = [{**rows[0].as_dict(), "of_a_later_version": 1}]
    file.write_text(json.dumps(later))
    assert read_rows(file) == rows[:1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "no JSON"),
        ("[]", "no rows"),
        ("{}", "no rows"),
        ("[1]", "no rows"),
        ('[{"r": 1}]', "no rows"),
        ('{"r": 1}', "no rows"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(text: str | None, told: str, tmp_path: Path):
    file = tmp_path / "a.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=told):
        read_rows(file)


def test_labels_are_what_the_command_line_takes():
    labels = [one.label for one in (row(0), row(4), row(EARLY), row({"keep": 0.9}), row([2, 1]))]
    assert labels == ["dense", "r=4", "r=8:-1", "keep=0.9", "r=2,1"]
    assert isinstance(row(4), SweepRow)
