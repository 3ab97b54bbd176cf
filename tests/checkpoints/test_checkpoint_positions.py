import pytest
import torch

from checkpoints import CheckpointError, interpolate_positions

ROWS = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 10]).reshape(1, 9, 1)


def test_resampling_is_bicubic_without_antialiasing():
    # Made with the original's call; with antialiasing the first would be 2.240775.
    golden = torch.tensor([1.766861, 3.355621, 6.589996, 8.832581])
    got = interpolate_positions(ROWS, (2, 2), num_prefix=0).flatten()
    torch.testing.assert_close(got, golden, atol=1e-5, rtol=0)


def test_prefix_rows_are_kept_as_they_are():
    prefix = torch.tensor([[[-5.0], [9.0]]])
    got = interpolate_positions(torch.cat([prefix, ROWS], 1), (4, 6), num_prefix=2)
    assert got.shape == (1, 26, 1)
    assert torch.equal(got[:, :2], prefix)
    assert torch.equal(got[:, 2:], interpolate_positions(ROWS, (4, 6), 0))


def test_the_same_grid_is_the_identity():
    assert torch.equal(interpolate_positions(ROWS, (3, 3), 0), ROWS)


def test_rows_stay_rows_and_columns_columns():
    grid = torch.arange(3.0).repeat_interleave(3).reshape(1, 9, 1)  # each row its index
    got = interpolate_positions(grid, (3, 5), 0).reshape(3, 5)
    torch.testing.assert_close(got, torch.arange(3.0)[:, None].expand(3, 5), atol=1e-6, rtol=0)


def test_half_precision_is_resampled_in_float32():
    got = interpolate_positions(ROWS.half(), (2, 2), 0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, interpolate_positions(ROWS, (2, 2), 0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows", [513, 1569, 1])
def test_a_table_that_fills_no_square_is_refused(rows):
    with pytest.raises(CheckpointError, match="fill no square"):
        interpolate_positions(torch.zeros(1, rows, 4), (14, 14), num_prefix=1)
