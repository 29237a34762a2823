"""Names of classes: told, or as the loader's data set says them."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, ToTensor
from torchvision.transforms.functional import to_pil_image

from helpers.strangers import MEAN, STD, Pictures, Stranger, loader, normalised, trainer
from verisal.attacks import FGSM
from verisal.callbacks import RobustValidation, SaliencyPanels
from verisal.callbacks.subject.classes import classes_in
from verisal.errors import ConfigError
from verisal.models import Classifier
from verisal.saliency import Explainer, Gradient
from verisal.types import SaliencyResult

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


def test_attacked_images_and_plots_have_the_names_and_what_is_predicted_under_the_noise():
    callback = RobustValidation([FGSM(0.3)], pictures=6)
    module = Stranger()
    trainer(callback).validate(module, loader(named()), verbose=False)
    words = [panel.caption for panel in callback.evaluation.panels]
    assert len(words) == 6
    place = "(?:left|right) (?:upper|lower)"
    for caption in words:
        label, before, after, fate = re.fullmatch(
            f"labelled ({place}), predicted ({place}) without noise and ({place}) under fgsm: (.+)", caption
        ).groups()
        expected = "fools the classifier" if label != after else "does not fool it"
        assert fate == (expected if label == before else "wrong from the start")
    assert any("wrong from the start" in caption for caption in words)
    images = torch.rand(2, 3, 16, 16)
    classifier = Classifier(module.net.eval(), normalization="none", class_names=NAMES)
    query, maps = [0, 3], torch.zeros(2, 1, 16, 16)

    def titles(result, **settings):
        return [axes.get_title() for axes in result.plot(images, **settings).axes[:2]]

    told = titles(Explainer(classifier, Gradient())(images, torch.tensor(query)))
    assert told[0].startswith("class left upper, up to 0.")
    assert told[1].startswith("class right lower, up to 0.")
    empty = SaliencyResult(maps, maps, query_class=torch.tensor(query))
    assert titles(empty, class_names=NAMES) == [
        "class left upper, 0 everywhere",
        "class right lower, 0 everywhere",
    ]
    assert titles(empty) == ["class 0, 0 everywhere", "class 3, 0 everywhere"]


def test_pictures_are_called_like_the_files_of_an_image_folder(tmp_path):
    data = Pictures(6)
    for place, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        path = tmp_path / f"class {label}" / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        to_pil_image(image).save(path)
    folder = ImageFolder(tmp_path, Compose([ToTensor(), Normalize(MEAN, STD)]))
    part = Subset(Subset(folder, [5, 4, 3, 2]), [3, 1, 0])
    callbacks = [SaliencyPanels([Gradient()], max_images=None), RobustValidation([FGSM(0.1)])]
    trainer(*callbacks).validate(Stranger(), loader(part, batch_size=2), verbose=False)
    names = [f"class {folder.targets[place]}/{Path(folder.samples[place][0]).name}" for place in (2, 4, 5)]
    assert [panel.image_id for panel in callbacks[0].evaluation.panels] == names
    attacked = {panel.image_id for panel in callbacks[1].evaluation.panels}
    assert attacked == {f"{name} fgsm" for name in names}
    # In another order, or with samples left out, nobody knows the file.
    for settings in (
        {"sampler": [2, 0, 1]},
        {"batch_sampler": [[2, 0], [1]]},
        {"batch_size": 3, "collate_fn": lambda samples: default_collate(samples[1:])},
    ):
        other = SaliencyPanels([Gradient()], max_images=None)
        trainer(other).validate(Stranger(), DataLoader(part, **settings), verbose=False)
        assert other.evaluation.panels
        assert not any("class" in panel.image_id for panel in other.evaluation.panels)
