"""Images between clean and attacked ones, on a classifier whose border is known."""

import torch
from torch import nn

from verisal.functional.adversarial import near_border


class Brightness(nn.Module):
    """Class 1 from a mean brightness of ``border`` on; counts its passes."""

    def __init__(self, border):
        super().__init__()
        self.border, self.passes = border, 0

    def forward(self, images):
        self.passes += 1
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([self.border - mean, mean - self.border], dim=1)


def of(brightness):
    return torch.tensor(brightness).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()


def test_the_border_is_found_and_the_rest_of_the_way_is_shared():
    model = Brightness(0.3)
    clean, attacked = of([0.1, 0.2, 0.0]), of([0.5, 1.0, 0.4])
    shares = torch.tensor([0.0, 0.25, 1.0])
    found = near_border(model, clean, attacked, torch.zeros(3, dtype=torch.int64), shares, rounds=12)
    # Borders lie at .5, .125 and .75 of the way.
    for row, (start, end, border, share) in enumerate(
        [(0.1, 0.5, 0.5, 0.0), (0.2, 1.0, 0.125, 0.25), (0.0, 0.4, 0.75, 1.0)]
    ):
        at = border + share * (1 - border)
        torch.testing.assert_close(found[row], of([start + at * (end - start)])[0], atol=2e-4, rtol=0)
    assert model.passes == 12
    assert model(found).argmax(dim=1).tolist() == [1, 1, 1]


def test_the_last_point_that_fools_is_taken():
    model = Brightness(0.3)
    clean, attacked = of([0.1]), of([0.5])
    labels = torch.zeros(1, dtype=torch.int64)
    for rounds in (1, 2, 5):
        found = near_border(model, clean, attacked, labels, torch.zeros(1), rounds=rounds)
        assert 0.3 <= float(found.mean()) <= 0.3 + 0.4 / 2**rounds + 1e-6


def test_no_image_is_no_pass():
    model = Brightness(0.3)
    nothing = torch.zeros(0, 3, 4, 4)
    found = near_border(model, nothing, nothing, torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert found.shape == nothing.shape
    assert model.passes == 0
