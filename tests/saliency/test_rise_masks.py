import pytest
import torch

from verisal.errors import ConfigError
from verisal.saliency.perturbation.rise import cell_size, upsample_cells


def test_values_by_hand():
    cells = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    # Cells of one pixel, enlarged from 2 to 3 pixels: 1, then half of each neighbour, then 0; cropped to 2.
    first = upsample_cells(cells, torch.tensor([[0, 0]]), (2, 2))
    assert first.allclose(torch.tensor([[[[1.0, 0.5], [0.5, 0.25]]]]))


def test_shift_moves_rows_and_columns_apart():
    # 1 x 2 px cells enlarged to 3 x 6 px: rows 1, 1/2, 0 and columns 1, 1, 2/3, 1/3, 0, 0.
    cells = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]).expand(2, 2, 2)
    masks = upsample_cells(cells.contiguous(), torch.tensor([[0, 0], [0, 1]]), (2, 4))
    columns = torch.tensor([1, 1, 2 / 3, 1 / 3, 0])
    for mask, shifted in zip(masks, (columns[:4], columns[1:]), strict=True):
        assert mask[0].allclose(torch.tensor([1, 0.5])[:, None] * shifted, atol=1e-6)


def test_whole_grid_kept_or_removed_is_constant():
    cells = torch.stack([torch.ones(3, 3), torch.zeros(3, 3)])
    masks = upsample_cells(cells, torch.tensor([[1, 0], [0, 1]]), (6, 4))
    assert masks[0].allclose(torch.ones(1, 6, 4))
    assert masks[1].eq(0).all()


def test_given_memory_is_filled():
    cells, shifts = torch.rand(5, 3, 3), torch.zeros(5, 2, dtype=torch.int64)
    out = torch.full((5, 1, 7, 9), torch.nan)
    assert upsample_cells(cells, shifts, (7, 9), out=out) is out
    assert out.equal(upsample_cells(cells, shifts, (7, 9)))


def test_cell_size_rounds_up_and_refuses_cells_below_a_pixel():
    assert cell_size(7, (224, 225)) == (32, 33)
    with pytest.raises(ConfigError, match=r"found cells=9 for an image of 8 x 16 px"):
        cell_size(9, (8, 16))
    with pytest.raises(ConfigError, match="found cells=0"):
        cell_size(0, (8, 16))
