import pytest
import torch

from verisal.errors import ConfigError
from verisal.saliency import MaskNetwork

CHANNELS = (4, 6, 8)
SHAPES = ((4, 8, 6), (6, 4, 3), (8, 2, 2))


def activations(count=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(count, *shape, generator=generator) for shape in SHAPES]


def network(**settings):
    torch.manual_seed(1)
    return MaskNetwork(CHANNELS, 5, **settings)


def test_training_starts_at_gates_of_one():
    for gate, activation in zip(
        network()(activations(), torch.tensor([0, 4, 5])), activations(), strict=True
    ):
        assert gate.shape == activation.shape
        torch.testing.assert_close(gate, torch.ones_like(gate))


def trained():
    model = network()
    for level in model.levels:
        torch.nn.init.normal_(level.head.weight)
    return model


def test_gates_are_not_negative_and_depend_on_the_class():
    first = trained()(activations(), torch.tensor([0, 1, 2]))
    other = trained()(activations(), torch.tensor([0, 3, 2]))
    for one, two in zip(first, other, strict=True):
        assert one.min() >= 0
        assert one[0].equal(two[0])
        assert (one[1] - two[1]).abs().max() > 1e-2


def test_late_stages_reach_the_first_gate():
    given = activations()
    changed = [given[0], given[1], given[2] + 1]
    before, after = (trained()(inputs, torch.zeros(3, dtype=torch.int64)) for inputs in (given, changed))
    assert (before[0] - after[0]).abs().max() > 1e-3


def test_row_behind_the_last_class_stands_for_no_class():
    assert network().levels[0].modulate.num_embeddings == 6
    with pytest.raises(IndexError):
        network()(activations(), torch.tensor([0, 0, 6]))


def test_width_follows_the_stages_and_the_first_is_half():
    widths = [level.project.out_channels for level in MaskNetwork((16, 32, 64), 5).levels]
    assert widths == [8, 32, 64]
    widths = [level.project.out_channels for level in MaskNetwork((16, 32, 64), 5, width_ratio=0.5).levels]
    assert widths == [4, 16, 32]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channels": ()}, "at least one stage"),
        ({"width_ratio": 0.0}, "width_ratio must be positive, found 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        MaskNetwork(**{"channels": CHANNELS, "num_classes": 5} | settings)
