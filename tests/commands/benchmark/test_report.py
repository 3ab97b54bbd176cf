"""Rows in words, as JSON and as a picture."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image as Picture

from tome_lightning.commands.benchmark.measure import measure
from tome_lightning.commands.benchmark.plot import mac_limit, plot
from tome_lightning.commands.benchmark.report import format_report
from tome_lightning.commands.benchmark.rows import Row, Settings
from tome_lightning.commands.benchmark.timm_model import from_timm
from tome_lightning.commands.outputs import write_json


@pytest.fixture(scope="module")
def case():
    return from_timm("test_vit", img_size=64, depth=2)


@pytest.fixture(scope="module")
def rows(case) -> list[Row]:
    rs = (2, {"r": 2, "inflection": -1.0}, {"keep": 0.8}, [3, 1])
    settings = Settings(r=rs, mode="forward", dtype="float32", device=torch.device("cpu"), rounds=1)
    return measure(case, settings, batch=2)


def _made_up(rows, **figures) -> list[Row]:
    """Without noise: times as if measured."""
    known = {"ms_min": 9.0, "ms_max": 11.0, "samples_per_s": 200.0, "peak_mem_mib": 9.0}
    dense = replace(rows[0], ms=10.0, **known)
    return [dense, *(replace(row, **({"ms": 10.0} | known | figures)) for row in rows[1:])]


def test_the_table_has_a_row_each_in_100_columns(rows):
    made_up = _made_up(rows, ms=5.0, speedup=2.0, mac_ratio=2.5, realised=0.8)
    lines = format_report(made_up)
    assert all(len(line) <= 100 for line in lines[2:])
    assert "test_vit" in lines[0]
    assert "batch 2" in lines[0]
    assert torch.__version__ in lines[1]
    names = ["dense", "r=2", "r=2:-1", "keep=0.8", "r=3,1"]
    assert [line.split()[0] for line in lines[3:8]] == names
    assert lines[8] == "r=2: 2.00x of at most 2.50x (80% realised)"


def test_the_attention_that_ran_is_told_of_dense_and_merged(rows):
    assert "attention dense flash, merged flash" in format_report(rows)[1]
    dense, one, other, *_ = rows
    mixed = [dense, one, replace(other, attention="flash+efficient")]
    assert "attention dense flash, merged flash or flash+efficient" in format_report(mixed)[1]


def test_slower_than_dense_is_said_with_a_reason(rows):
    (line,) = [
        line
        for line in format_report(_made_up(rows[:2], speedup=0.8, mac_ratio=1.5, realised=0.53))
        if "at most" in line
    ]
    assert line == (
        "r=2: 0.80x of at most 1.50x: slower than dense, as 17 tokens are few: larger inputs gain more"
    )
    waiting = _made_up(rows[:2], speedup=0.8, mac_ratio=1.5, realised=0.53, host_ms=9.8)
    assert any(
        line.endswith("leaves the GPU waiting for launches") for line in format_report(waiting)
    )


def test_the_host_s_time_is_said_where_it_reaches_the_step_s(rows):
    def told(**figures) -> list[str]:
        return [
            line for line in format_report(_made_up(rows[:2], **figures)) if "launch-bound" in line
        ]

    assert told(host_ms=8.0) == told(host_ms=None) == []  # of 10 ms
    assert told(host_ms=9.8, device_ms=9.5) == []  # it waits for room in the queue of launches
    (line,) = told(host_ms=9.8, device_ms=6.0)
    assert "r=2 9.8 of 10.0 ms" in line
    assert "dense" not in line
    assert line.endswith("raise --batch-size, or give --compile")
    (compiled,) = [line for line in format_report([replace(row, compile=True, host_ms=10.0)
                   for row in _made_up(rows[:2])]) if "launch-bound" in line]  # fmt: skip
    assert "dense 10.0 of 10.0 ms, r=2 10.0 of 10.0 ms" in compiled
    assert compiled.endswith("raise --batch-size")


def test_a_failed_variant_and_a_doubtful_count_are_told(rows):
    failed = replace(rows[1], ms=None, speedup=None, error="out of memory: 2 GiB")
    doubtful = replace(rows[2], counted_macs=2 * rows[2].counted_macs)
    lines = format_report([rows[0], failed, doubtful])
    assert "r=2: out of memory: 2 GiB" in lines
    assert any("the limit may be off" in line for line in lines)
    assert not any("the limit may be off" in line for line in format_report(rows))


def test_each_batch_size_has_a_table(rows):
    lines = format_report([*rows, *(replace(row, batch=4) for row in rows)])
    assert sum(line.startswith("variant") for line in lines) == 2
    assert sum("batch 4" in line for line in lines) == 1


def test_json_holds_every_row(rows, tmp_path):
    path = tmp_path / "rows.json"
    write_json([row.as_dict() for row in rows], path)
    read = json.loads(path.read_text())
    assert [Row(**row) for row in read] == rows
    keys = (
        "variant model img_size r mode device dtype compile prop_attn checkpointing batch tokens_in "
        "tokens_out ms ms_min ms_max samples_per_s speedup mac_ratio realised peak_mem_mib attention "
        "activation_mem_mib macs frames device_name torch rounds token_ratio"
    )
    assert set(keys.split()) <= set(read[0])
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_the_limit_is_that_of_the_rows(case, rows):
    limit = dict(mac_limit(case, training=False, most=8))
    assert limit[0.0] == 1
    assert limit[2.0] == pytest.approx(rows[1].mac_ratio)
    assert sorted(limit.values()) == list(limit.values())
    assert max(mac_limit(case, training=False, most=100))[0] == 8  # half of 16 patches


def test_the_picture_is_written_whatever_failed(case, rows, tmp_path):
    path = tmp_path / "speed.png"
    plot([*rows, replace(rows[1], speedup=None)], mac_limit(case, False, 4), path)
    with Picture.open(path) as picture:
        assert picture.size == (1200, 750)
        assert len(picture.convert("RGB").getcolors(2**20)) > 20
    nothing = [replace(row, speedup=None, error="out of memory") for row in rows]
    plot(nothing, mac_limit(case, False, 4), tmp_path / "none.svg")
    assert (tmp_path / "none.svg").read_text().startswith("<?xml")
