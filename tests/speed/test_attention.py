"""The measurement of proportional attention runs, and all its ways compute the same."""

import pytest
import torch
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

from tome_lightning.speed import attention as speed
from tome_lightning.speed.attention import (
    channels,
    error,
    inputs,
    main,
    mask,
    none,
    on_cudnn,
    ways,
)
from tome_lightning.tome.attention import KERNELS, chosen_kernels

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
    assert heads.split() == "tokens way kernel first ms forward ms with backward error".split()
    names = ["none", "mask", "channels"]
    assert [row.split()[:2] for row in rows] == [[n, w] for n in ("9", "17") for w in names]
    assert all(row.split()[2] == "flash" for row in rows)
    assert all(float(number) > 0 for row in rows for number in row.split()[3:])


def test_on_cuda_cudnn_is_measured_beside_the_chosen_kernels(monkeypatch):
    cuda = ways(torch.device("cuda"))  # made, not run
    assert list(cuda) == [
        "none",
        "mask",
        "channels",
        "none+cudnn",
        "mask+cudnn",
        "channels+cudnn",
        "flex",
    ]
    ran = []

    def kernel(q, k, v, **kwargs):
        ran.append(_cur_sdpa_kernel_backends())
        return q

    # as on CUDA, whatever the tensors' device is
    monkeypatch.setattr(speed, "chosen_kernels", lambda _: chosen_kernels(torch.device("cuda")))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", kernel)
    tensors = inputs(1, 2, 9, 16, torch.float32, CPU)
    for name in ("none", "mask", "channels", "none+cudnn", "mask+cudnn", "channels+cudnn"):
        cuda[name](*tensors)
    assert [set(one) for one in ran] == 3 * [set(KERNELS)] + 3 * [{SDPBackend.CUDNN_ATTENTION}]


def test_a_kernel_that_is_not_there_is_a_row_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(speed, "ways", lambda _: {"none": none, "none+cudnn": on_cudnn(none)})
    main("--device cpu --batch 1 --heads 2 --head-dim 16 --tokens 9 --rounds 1".split())
    _, row, missing = capsys.readouterr().out.splitlines()
    assert row.split()[1:3] == ["none", "flash"]
    assert missing.split()[1] == "none+cudnn"
    assert missing.split()[2] == "No"  # "available kernel", "viable backend": torch's words


def test_a_device_that_is_not_there_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--device", "cuda:99"])
    assert stop.value.code == 2
    assert "--device cuda:99 cannot be used" in capsys.readouterr().err
