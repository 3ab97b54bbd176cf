"""The measurement of proportional attention runs, and all its ways compute the same."""

import pytest
import torch

from tome_lightning.speed.attention import channels, error, inputs, main, mask, none

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
def test_what_is_timed_is_exact_to_the_dtypes_rounding(dtype, largest):
    tensors = inputs(2, 2, 33, 16, dtype, CPU)
    assert error(mask, *tensors) < largest
    assert error(channels, *tensors) < largest
    assert error(none, *tensors) > 0.1  # sizes matter


def test_the_table_has_a_row_for_each_way_and_count(capsys):
    words = "--device cpu --batch 1 --heads 2 --head-dim 16 --tokens 9 17 --rounds 1"
    main(words.split())
    heads, *rows = capsys.readouterr().out.splitlines()
    assert heads.split()[:3] == ["tokens", "way", "forward"]
    names = ["none", "mask", "channels"]
    assert [row.split()[:2] for row in rows] == [[n, w] for n in ("9", "17") for w in names]
    assert all(float(row.split()[2]) > 0 for row in rows)


def test_a_device_that_is_not_there_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--device", "cuda:99"])
    assert stop.value.code == 2
    assert "--device cuda:99 cannot be used" in capsys.readouterr().err
