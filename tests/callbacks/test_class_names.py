"""Names of classes: told, or as the loader's data set says them."""

import pytest
from torch.utils.data import ConcatDataset, Subset

from helpers.strangers import Stranger, loader, normalised, trainer
from verisal.callbacks import SaliencyPanels
from verisal.callbacks.subject.classes import classes_in
from verisal.errors import ConfigError
from verisal.saliency import Gradient

NAMES = ["left upper", "right upper", "left lower", "right lower"]


def captions(data, **settings):
    callback = SaliencyPanels([Gradient()], max_images=2, **settings)
    trainer(callback).validate(Stranger(), loader(data), verbose=False)
    return " ".join(panel.caption for panel in callback.evaluation.panels)


def named(names=NAMES):
    data = normalised(6)
    data.classes = names
    return data


def test_names_of_the_data_set_stand_below_the_pictures():
    assert "upper" in captions(Subset(named(), range(4)))
    assert "upper" not in captions(normalised(6))
    assert "upper" not in captions(named(["left upper", "right upper"]))
    assert "upper" not in captions(named(), class_names=["a", "b", "c", "d"])


class Feature:
    names = NAMES


def test_names_are_found_in_what_data_sets_are_made_of():
    table = normalised(2)
    table.features = {"image": None, "label": Feature()}
    for datasets in ([named()], [ConcatDataset([named(), normalised(2)])], [table], [named(), table]):
        assert classes_in(datasets, 4) == tuple(NAMES)
    for datasets in ([], [normalised(2)], [named(), named(NAMES[::-1])], [named([0, 1, 2, 3])]):
        assert classes_in(datasets, 4) is None
    assert classes_in([named()], 3) is None


def test_another_number_of_names_than_of_logits_is_refused():
    with pytest.raises(ConfigError, match=r"class_names= holds 2 names \(a, b\), and .* gives 4 logits"):
        captions(normalised(4), class_names=["a", "b"])
