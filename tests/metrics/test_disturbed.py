import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch import distributed, multiprocessing

from helpers.metric_cases import toy_explained, with_saliency
from verisal.errors import ConfigError, DataError
from verisal.functional.statistics import Bootstrap
from verisal.metrics import DisturbedScores, PresentQueries
from verisal.types import SaliencyResult

SIZE = (10, 12)
BOX = torch.tensor([[2.0, 2.0, 8.0, 8.0]])
QUERIES = ("c0", "c1", "c2", "c3")


def filled(box, height=1.0):
    left, top, right, bottom = box
    maps = torch.zeros(1, 1, *SIZE)
    maps[0, 0, top:bottom, left:right] = height
    return maps


ON, OFF, EMPTY = filled((2, 2, 8, 8)), filled((9, 0, 12, 3)), torch.zeros(1, 1, *SIZE)


def results(*maps):
    return {query: SaliencyResult(saliency=one, raw=one) for query, one in zip(QUERIES, maps, strict=True)}


def scored(maps, *, threshold=0.4, valid=None, boxes=(BOX,), metric=None):
    metric = metric or DisturbedScores(threshold=threshold)
    valid = torch.ones(4, len(maps[0]), dtype=torch.bool) if valid is None else valid
    metric.update(results(*maps), boxes, image_ids=[f"i{row}" for row in range(len(maps[0]))], valid=valid)
    return metric.scores(Bootstrap(50))


def values(found, *names):
    return [found[name].value for name in names]


def test_name_says_that_the_protocol_is_ours():
    assert DisturbedScores(threshold=0.25).name == "D-WSOL (our protocol)[tau0.25]"
    assert PresentQueries(threshold=0.25).name == "D-WSOL (our protocol)[present, tau0.25]"
    for kind in (DisturbedScores, PresentQueries):
        with pytest.raises(ConfigError, match="threshold must lie in"):
            kind(threshold=1.0)


def test_a_map_that_ignores_the_query_has_no_margin():
    found = scored([ON, ON, ON, ON])
    assert values(found, "accuracy_c0", "flr_rel_c1", "flr_abs_c1", "margin_rel_c1", "margin_abs_c1") == [
        1,
        1,
        1,
        0,
        0,
    ]
    assert values(found, "response_ratio_c2", "spearman_c2", "ssim_c2") == pytest.approx([1, 1, 1])


def test_a_map_that_answers_the_query_has_the_whole_margin():
    found = scored([ON, OFF, OFF, OFF])
    assert values(found, "flr_rel_c3", "flr_abs_c3", "margin_rel_c3", "margin_abs_c3") == [0, 0, 1, 1]
    assert found["response_ratio_c3"].value == pytest.approx(9 / 36)


def test_weak_response_is_a_false_localisation_by_its_own_maximum_alone():
    """One tenth of the response to the true class, on the same object."""
    found = scored([ON, ON * 0.1, ON * 0.1, ON * 0.5])
    assert values(found, "flr_rel_c1", "flr_abs_c1", "margin_abs_c1") == [1, 0, 1]
    assert values(found, "flr_rel_c3", "flr_abs_c3") == [1, 1]
    assert values(found, "response_ratio_c1", "response_ratio_c3") == pytest.approx([0.1, 0.5])


def test_raw_maps_answer_questions_of_magnitude_and_saliency_those_of_place():
    metric = DisturbedScores(threshold=0.4)
    given = {query: SaliencyResult(saliency=ON, raw=-OFF if query == "c1" else ON * 2) for query in QUERIES}
    metric.update(given, [BOX], image_ids=["a"], valid=torch.ones(4, 1, dtype=torch.bool))
    found = metric.scores()
    assert values(found, "flr_rel_c1", "flr_abs_c1", "response_ratio_c1") == [1, 0, 9 / 72]


def test_empty_map_is_an_answer_and_counted():
    found = scored([ON, EMPTY, EMPTY + 0.3, ON])
    assert values(found, "flr_rel_c1", "flr_abs_c1", "flr_rel_c2", "flr_abs_c2") == [0, 0, 0, 0]
    assert values(found, "response_ratio_c1", "n_empty_c1", "n_empty_c2", "n_empty_c3") == [0, 1, 1, 0]
    for name in ("spearman_c1", "ssim_c1", "spearman_c2"):
        assert (found[name].n, found[name].undefined) == (0, 1)
    assert found["flr_rel_c1"].n == 1


def test_empty_map_of_the_true_class_is_a_miss_without_a_ratio():
    found = scored([EMPTY, ON, OFF, EMPTY])
    assert values(found, "accuracy_c0", "n_empty_c0", "flr_rel_c1", "flr_abs_c1", "margin_rel_c1") == [
        0,
        1,
        1,
        1,
        -1,
    ]
    assert found["response_ratio_c1"].undefined == 1


def test_map_that_is_not_finite_is_undefined():
    broken = ON.clone()
    broken[0, 0, 0, 0] = math.nan
    found = scored([ON, broken, ON, ON])
    assert {found[name].n for name in found if name.endswith("_c1")} == {0}
    assert {found[name].n for name in found if not name.endswith("_c1")} == {1}
    assert {score.n for score in scored([broken, ON, ON, ON]).values()} == {0}


def test_whole_image_box_stands_beside():
    assert scored([ON, ON, ON, ON])["whole_image_c0"].value == 0.0
    large = torch.tensor([[0.0, 0.0, 12.0, 6.0]])
    assert scored([ON, ON, ON, ON], boxes=(large,))["whole_image_c0"].value == 1.0


def test_query_that_is_not_valid_is_left_out_of_its_margin_too():
    """Image 0 is wrong under c0 and has no c1; image 1 is right and finds the object under c1."""
    maps = [torch.cat([OFF, ON]), torch.cat([ON, ON]), torch.cat([ON, OFF]), torch.cat([OFF, OFF])]
    valid = torch.tensor([[True, True], [False, True], [True, True], [True, True]])
    found = scored(maps, valid=valid, boxes=(BOX, BOX))
    assert values(found, "accuracy_c0", "flr_rel_c1", "margin_rel_c1") == [0.5, 1.0, 0.0]
    assert values(found, "flr_rel_c2", "margin_rel_c2") == [0.5, 0.0]
    assert (found["margin_rel_c1"].n, found["margin_rel_c1"].undefined) == (1, 1)


def test_images_that_do_not_count_leave_no_row():
    maps = [torch.cat([one, one]) for one in (ON, ON, ON, ON)]
    valid = torch.tensor([[True, False]] * 4)
    assert scored(maps, valid=valid, boxes=(BOX, BOX))["accuracy_c0"].n == 1
    with pytest.raises(DataError, match="no image that counts was added"):
        scored([ON] * 4, valid=torch.zeros(4, 1, dtype=torch.bool))


def test_what_does_not_fit_is_refused():
    metric, valid = DisturbedScores(threshold=0.4), torch.ones(4, 1, dtype=torch.bool)
    given = results(ON, ON, ON, ON)
    with pytest.raises(DataError, match="found c0, c1, c2 and"):
        metric.update({name: given[name] for name in QUERIES[:3]}, [BOX], image_ids=["a"], valid=valid)
    with pytest.raises(DataError, match=r"found c0, c1, c2, c3 and \(3, 1\) for 1 images"):
        metric.update(given, [BOX], image_ids=["a"], valid=valid[:3])


def several(count=5):
    generator = torch.Generator().manual_seed(3)
    maps = [torch.rand(count, 1, *SIZE, generator=generator) for _ in QUERIES]
    maps[0][:3] += ON
    valid = torch.ones(4, count, dtype=torch.bool)
    valid[1, 2] = False
    return maps, valid


def add(metric, rows):
    maps, valid = several()
    given = results(*(one[rows] for one in maps))
    metric.update(given, [BOX] * len(rows), image_ids=[f"i{row}" for row in rows], valid=valid[:, rows])


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, score in found.items():
        other = expected[name]
        assert (score.n, score.undefined) == (other.n, other.undefined), name
        for one, two in ((score.value, other.value), (score.low, other.low), (score.high, other.high)):
            assert one == pytest.approx(two, nan_ok=True, abs=1e-12), name


def test_batches_order_copies_pickles_and_resets_change_nothing():
    whole, parts = (DisturbedScores(threshold=0.4) for _ in range(2))
    add(parts, [1])
    parts.table.reset()
    add(whole, [0, 1, 2, 3, 4])
    for rows in ([4, 2], [0], [3, 1, 0]):
        add(parts, rows)
    assert_same(pickle.loads(pickle.dumps(parts)).scores(), whole.scores())  # noqa: S301 - our own bytes


# Which rows each of two processes gets: uneven shares with a padding copy, and none at all for the second.
SHARES = ([[0, 2, 4], [1, 3, 0]], [[0, 1, 2, 3, 4], []])


def _work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = []
    for shares in SHARES:
        metric = DisturbedScores(threshold=0.4)
        if shares[rank]:
            add(metric, shares[rank])
        found.append({name: vars(score) for name, score in metric.scores().items()})
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_uneven_shares_equal_one(tmp_path):
    multiprocessing.spawn(_work, args=(tmp_path,), nprocs=2)
    whole = DisturbedScores(threshold=0.4)
    add(whole, [0, 1, 2, 3, 4])
    expected = whole.scores()
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt"):
            assert_same({name: type(expected[name])(**score) for name, score in found.items()}, expected)


def present(maps, boxes, masks=None, threshold=0.4):
    explained = with_saliency(toy_explained(len(maps)), maps)
    metric = PresentQueries(threshold=threshold)
    metric.update(replace(explained, boxes=boxes, object_masks=masks))
    return metric.scores(Bootstrap(50))


def on_canvas(*boxes):
    maps = torch.zeros(1, 1, 16, 12)
    for left, top, right, bottom in boxes:
        maps[0, 0, top:bottom, left:right] += 1.0
    return maps


OWN = torch.tensor([[1.0, 1.0, 5.0, 5.0]])


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(1, 1, 5, 5)], [1, 1, 1]),
        ([(1, 1, 5, 5), (7, 8, 10, 13)], [1, 1, 1]),  # 16 of 31 inside
        ([(1, 1, 5, 5), (7, 8, 11, 12)], [0, 0, 1]),  # 16 of 32 is not more than half
        ([(1, 1, 3, 3)], [0, 1, 0]),  # in the right place, the box is too small
        ([(7, 8, 11, 12)], [0, 0, 0]),
    ],
)
def test_hit_needs_energy_and_box(boxes, expected):
    found = present(on_canvas(*boxes), (OWN,))
    assert values(found, "hit", "energy_hit", "box_hit") == expected


def test_cell_of_a_mosaic_is_the_region_where_the_box_is_the_object():
    """All energy in the own cell, a quarter of it on the own object."""
    cell = torch.zeros(1, 16, 12, dtype=torch.bool)
    cell[:, :, :6] = True
    maps = on_canvas((1, 1, 5, 5)) + 0.9 * on_canvas((0, 9, 6, 16))
    assert values(present(maps, (OWN,), cell, threshold=0.95), "hit", "energy_hit", "box_hit") == [1, 1, 1]
    assert values(present(maps, (OWN,), None, threshold=0.95), "hit", "energy_hit", "box_hit") == [0, 0, 1]


def test_empty_map_is_a_miss():
    found = present(torch.cat([torch.zeros(1, 1, 16, 12), on_canvas((1, 1, 5, 5))]), (OWN, OWN))
    assert values(found, "hit", "energy_hit", "box_hit", "empty") == [0.5, 0.5, 0.5, 0.5]
    assert (found["hit"].n, found["hit"].undefined) == (2, 0)
