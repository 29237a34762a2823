import pytest
import torch

from verisal.errors import ConfigError, DataError
from verisal.functional.regions import disturbed_queries
from verisal.functional.regions.disturbed import mosaic_groups, mosaics, present_queries


def asked(logits, labels, present, ids=None, seed=0):
    ids = ids or [f"image/{index}" for index in range(len(logits))]
    return disturbed_queries(
        logits,
        torch.tensor(labels),
        present=[torch.tensor(one, dtype=torch.int64) for one in present],
        image_ids=ids,
        seed=seed,
    )


def falling(count=1, classes=8):
    """Class 0 is likeliest, the last one least likely."""
    return -torch.arange(float(classes)).repeat(count, 1)


def test_queries_are_top_second_outside_the_top_five_and_last():
    found = asked(falling(200), [0] * 200, [[0]] * 200)
    assert found.valid.all()
    assert found.query_class[[0, 1, 3]].unique(dim=1).tolist() == [[0], [1], [7]]
    assert found.query_class[2].unique().tolist() == [5, 6, 7]


def test_ties_go_to_the_lower_class():
    assert asked(torch.zeros(1, 8), [0], [[0]]).query_class[[0, 1, 3], 0].tolist() == [0, 1, 7]


def test_second_class_that_is_annotated_is_left_out():
    found = asked(falling(2), [0, 0], [[0, 1], [0, 3]])
    assert found.valid.tolist() == [[True, True], [False, True], [True, True], [True, True]]


def test_annotated_classes_are_never_drawn_as_absent():
    found = asked(falling(50), [0] * 50, [[0, 6, 7]] * 50)
    assert found.query_class[2].unique().tolist() == [5]
    assert found.valid[2].all()
    assert not found.valid[3].any()


def test_images_that_are_wrong_or_have_no_object_count_for_nothing():
    found = asked(falling(2), [1, 0], [[1], []])
    assert not found.valid.any()


def test_few_classes_leave_nothing_outside_the_top_five():
    found = asked(falling(1, classes=4), [0], [[0]])
    assert found.valid[:, 0].tolist() == [True, True, False, True]


def test_random_class_depends_on_image_and_seed_alone():
    logits, ids = falling(40, classes=24), [f"scene/{index}" for index in range(40)]
    whole = asked(logits, [0] * 40, [[0]] * 40, ids).query_class[2]
    alone = torch.cat([asked(logits[:1], [0], [[0]], [name]).query_class[2] for name in ids])
    assert whole.equal(alone)
    assert not whole.equal(asked(logits, [0] * 40, [[0]] * 40, ids, seed=1).query_class[2])
    assert len(whole.unique()) > 10


def test_lengths_that_differ_are_refused():
    with pytest.raises(DataError, match="found \\(2, 8\\), 1, 2 and 2"):
        asked(falling(2), [0], [[0], [0]])


def test_every_present_class_is_asked_once():
    position, query = present_queries(
        [torch.tensor([5, 3]), torch.tensor([], dtype=torch.int64), torch.tensor([2])]
    )
    assert position.tolist() == [0, 0, 2]
    assert query.tolist() == [3, 5, 2]
    assert [part.tolist() for part in present_queries([])] == [[], []]


def test_groups_are_of_different_classes_and_use_an_image_once():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 2])
    ids = [f"scene/{index}" for index in range(8)]
    for size, most in ((2, 4), (4, 2)):
        groups = mosaic_groups(labels, size, image_ids=ids)
        assert 1 <= len(groups) <= most
        assert groups.unique().numel() == groups.numel()
        assert all(len(set(labels[group].tolist())) == size for group in groups)


def test_groups_do_not_depend_on_the_order_of_the_set():
    labels, ids = torch.tensor([0, 1, 0, 2, 1, 2]), ["a", "b", "c", "d", "e", "f"]

    def named(order):
        groups = mosaic_groups(labels[order], 2, image_ids=[ids[index] for index in order])
        return {tuple(ids[order[place]] for place in group) for group in groups.tolist()}

    assert named([0, 1, 2, 3, 4, 5]) == named([5, 3, 0, 2, 4, 1])


def test_groups_of_one_class_do_not_exist():
    assert mosaic_groups(torch.zeros(5, dtype=torch.int64), 2, image_ids=list("abcde")).shape == (0, 2)
    with pytest.raises(ConfigError, match="at least 2 images, found 1"):
        mosaic_groups(torch.zeros(2, dtype=torch.int64), 1, image_ids=["a", "b"])


def test_mosaics_place_images_and_boxes_in_cells():
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 3) / 4
    boxes = [torch.tensor([[0.0, 0.0, 1.0, 2.0]])] * 4
    found = mosaics(images, boxes, torch.tensor([[3, 1, 0, 2]]), columns=2)
    assert found.images.shape == (1, 3, 4, 6)
    assert found.images[0, 0].mul(4).tolist() == [[3, 3, 3, 1, 1, 1]] * 2 + [[0, 0, 0, 2, 2, 2]] * 2
    assert found.cells.tolist() == [[[0, 0, 3, 2], [3, 0, 6, 2], [0, 2, 3, 4], [3, 2, 6, 4]]]
    assert [box.tolist() for box in found.boxes[0]] == [
        [[0, 0, 1, 2]],
        [[3, 0, 4, 2]],
        [[0, 2, 1, 4]],
        [[3, 2, 4, 4]],
    ]


def test_pairs_lie_side_by_side():
    images = torch.rand(2, 3, 4, 5)
    found = mosaics(images, [torch.zeros(0, 4)] * 2, torch.tensor([[1, 0]]), columns=2)
    assert found.images[0].equal(torch.cat([images[1], images[0]], dim=2))
    assert mosaics(
        images, [torch.zeros(0, 4)] * 2, torch.zeros(0, 2, dtype=torch.int64), columns=2
    ).images.shape == (0, 3, 4, 10)
    with pytest.raises(ConfigError, match="2 images do not fill rows of 3 columns"):
        mosaics(images, [torch.zeros(0, 4)] * 2, torch.tensor([[1, 0]]), columns=3)


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_no_class_lies_outside_the_top_five_of_five(classes):
    """Also where the class that a draw among none would give, class 0, is absent."""
    found = asked(falling(20, classes).flip(1), [classes - 1] * 20, [[classes - 1]] * 20)
    assert not found.valid[2].any()
    assert found.valid[[0, 1, 3]].all()
    assert found.query_class[0].unique().tolist() == [classes - 1]


def test_the_sixth_of_six_classes_is_the_only_one_to_draw():
    found = asked(falling(20, 6).flip(1), [5] * 20, [[5]] * 20)
    assert found.query_class[2].unique().tolist() == [0]
    assert found.valid[2].all()
