import pytest
import torch
from torch import nn

from helpers.attack_cases import toy_problem
from verisal.attacks import (
    PGD,
    AdaptivePGD,
    AdversarialPatch,
    Defence,
    EvidenceInside,
    FeatureMatching,
    Orthogonal,
    Selective,
    Weighted,
)
from verisal.attacks.adaptive.target import Target
from verisal.detection.end_to_end import nearest_of_other_class
from verisal.errors import ConfigError, DataError, NumericError

SIZE = 4
EPS = 8 / 255
HALF = 3 * SIZE * SIZE // 2
AIMS = {
    "weighted": Weighted(mu=0.3),
    "selective": Selective(),
    "orthogonal": Orthogonal(),
}


class Linear(nn.Module):
    """Class 0 while 0.4 of the upper half and 1.2 of the lower one are brighter than ``offset``."""

    def __init__(self, offset=-0.25):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, SIZE, SIZE), 0.4))
        self.weight.data[:, SIZE // 2 :] = 1.2
        self.offset = offset

    def forward(self, images):
        margin = ((images - 0.5) * self.weight).flatten(1).sum(dim=1) - self.offset
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def alarm(images):
    """Rises as the upper half darkens: where plain attacks go, and where an adaptive one need not go."""
    return -5 * (images - 0.5)[:, :, : SIZE // 2].flatten(1).sum(dim=1)


def problem(count=4):
    rng = torch.Generator().manual_seed(5)
    images = torch.randint(127, 130, (count, 3, SIZE, SIZE), generator=rng) / 255
    classifier = Linear()
    labels = classifier(images).argmax(dim=1)
    assert labels.tolist() == [0] * count
    return Defence(classifier=classifier, alarm=alarm), images, labels


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def attack(aim, **settings):
    shape = "l2" if isinstance(aim, Orthogonal) else "sign"
    return AdaptivePGD(**{"aim": aim, "eps": EPS, "steps": 60, "restarts": 2, "shape": shape} | settings)


def lowest_possible(images):
    """Both halves at their ends: the lower one dark, which turns the class, the upper one bright."""
    return alarm(images) - 5 * HALF * EPS


@pytest.mark.parametrize("aim", AIMS.values(), ids=AIMS)
def test_adaptive_steps_pass_below_an_alarm_that_notices_plain_ones(aim):
    defence, images, labels = problem()
    plain = PGD(EPS, steps=60)(defence.classifier, images, labels, generator=seeded())
    assert bool(plain.success.all())
    assert float(alarm(plain.images).min()) > 3
    found = attack(aim)(defence, images, labels, generator=seeded())
    assert bool(found.fooled.all())
    assert found.score.tolist() == alarm(found.images).tolist()
    assert bool((found.score < 0).all())
    assert bool((found.score >= lowest_possible(images) - 1e-4).all())


def test_weighted_steps_reach_the_lowest_score_unless_the_weight_is_too_small():
    defence, images, labels = problem()
    scores = {
        mu: attack(Weighted(mu=mu), restarts=1)(defence, images, labels, generator=seeded()).score
        for mu in (0, 0.01, 0.3)
    }
    torch.testing.assert_close(scores[0.3], lowest_possible(images), rtol=0, atol=1e-4)
    assert bool((scores[0.01] > 0).all())
    assert scores[0].equal(scores[0.01])


@pytest.mark.parametrize("aim", AIMS.values(), ids=AIMS)
def test_of_all_fooled_iterates_the_one_of_lowest_score_is_kept(aim):
    defence, images, labels = problem(1)
    seen = []

    def recorded(batch):
        seen.append(batch.detach().clone())
        return alarm(batch)

    watched = Defence(classifier=defence.classifier, alarm=recorded)
    found = attack(aim)(watched, images, labels, generator=seeded())
    iterates = torch.cat(seen)
    fooled = defence.classifier(iterates).argmax(dim=1) != 0
    assert len(iterates) > 30
    assert float(found.score) == float(alarm(iterates[fooled]).min())
    assert bool((iterates[fooled] == found.images).flatten(1).all(dim=1).any())


@pytest.mark.parametrize("aim", AIMS.values(), ids=AIMS)
@pytest.mark.parametrize(
    ("eps", "levels"), [(0.0, 0), (2.6 / 255, 2), (8 / 255, 8), (7.9998 / 255, 7), (0.0313725, 8)]
)
def test_results_are_8bit_images_inside_the_ball(aim, eps, levels):
    defence, images, labels = problem()
    found = attack(aim, eps=eps, steps=10)(defence, images, labels, generator=seeded())
    moved = (found.images - images) * 255
    torch.testing.assert_close(moved, moved.round(), rtol=0, atol=1e-4)
    assert float(moved.abs().max()) == pytest.approx(levels, abs=1e-4)
    verdict = defence.classifier(found.images).argmax(dim=1) != labels
    assert verdict.equal(found.fooled)
    assert found.score.isnan().equal(~found.fooled)
    if eps == 0:
        assert not found.fooled.any()


def test_an_image_that_cannot_be_turned_keeps_the_iterate_of_highest_loss():
    defence, images, labels = problem()
    found = attack(Selective(), eps=1 / 255, steps=20)(defence, images, labels, generator=seeded())
    assert not found.fooled.any()
    torch.testing.assert_close(found.images, images - 1 / 255, rtol=0, atol=1e-6)


def test_of_iterates_as_good_as_each_other_the_first_is_kept():
    _, images, labels = problem()

    def indifferent(batch):
        return torch.tensor([1.0, 0.0]) + 0 * batch.flatten(1)[:, :2]

    found = attack(Selective())(
        Defence(classifier=indifferent, alarm=alarm), images, labels, generator=seeded()
    )
    assert found.images.equal(images)


def slopes(defence, images, labels, rows):
    target = Target(defence, labels, None)
    _, _, error = target.error_slope(images, rows)
    _, noticed = target.alarm_slope(images, rows)
    return error.flatten(1), noticed.flatten(1)


def mixed():
    """Two images that are still right and two that are not."""
    defence, images, _ = problem()
    images = torch.cat([images[:2], images[2:] - 7 / 255])
    return defence, images, torch.zeros(4, dtype=torch.int64), torch.arange(4)


def test_selective_steps_follow_the_loss_until_fooled_and_the_alarm_afterwards():
    defence, images, labels, rows = mixed()
    error, noticed = slopes(defence, images, labels, rows)
    target = Target(defence, labels, None)
    judged, ascent = Selective().ascent(target, images, rows)
    assert judged.fooled.tolist() == [False, False, True, True]
    assert ascent.flatten(1)[:2].equal(error[:2])
    assert ascent.flatten(1)[2:].equal(-noticed[2:])
    # Who is not fooled costs the alarm nothing.
    assert target.n_alarm_bwd.tolist() == [0, 0, 1, 1]
    assert judged.score[2:].equal(alarm(images[2:]))


def test_orthogonal_steps_change_what_they_aim_at_and_leave_the_other_as_it_is():
    defence, images, labels, rows = mixed()
    error, noticed = slopes(defence, images, labels, rows)
    judged, ascent = Orthogonal().ascent(Target(defence, labels, None), images, rows)
    ascent = ascent.flatten(1)
    on_error, on_alarm = (ascent * error).sum(dim=1), (ascent * noticed).sum(dim=1)
    scale = ascent.norm(dim=1)
    assert judged.fooled.tolist() == [False, False, True, True]
    assert bool((on_error[:2] > 0.1 * scale[:2] * error[:2].norm(dim=1)).all())
    assert bool((on_alarm[2:] < -0.1 * scale[2:] * noticed[2:].norm(dim=1)).all())
    assert float((on_alarm[:2] / scale[:2]).abs().max()) < 1e-4
    assert float((on_error[2:] / scale[2:]).abs().max()) < 1e-4


def test_weighted_steps_follow_the_weighted_sum():
    defence, images, labels, rows = mixed()
    error, noticed = slopes(defence, images, labels, rows)
    judged, ascent = Weighted(mu=0.3).ascent(Target(defence, labels, None), images, rows)
    torch.testing.assert_close(ascent.flatten(1), error - 0.3 * noticed)
    assert judged.score.equal(alarm(images))
    target = Target(defence, labels, None)
    _, plain = Weighted(mu=0).ascent(target, images, rows)
    assert plain.flatten(1).equal(error)
    assert target.n_alarm_bwd.tolist() == [0] * 4


def test_feature_matching_goes_towards_the_nearest_guide_of_a_wrong_class():
    def embed(images):
        return (images - 0.5).flatten(1)

    defence, images, labels = problem()
    defence = Defence(classifier=defence.classifier, alarm=alarm, embed=embed)
    pool = images - torch.tensor([0, 7, 9, 0]).view(-1, 1, 1, 1) / 255
    classes = defence.classifier(pool).argmax(dim=1)
    index = nearest_of_other_class(embed(images), labels, embed(pool), classes)
    assert classes.tolist() == [0, 1, 1, 0]
    assert index.tolist() == [1] * 4
    guides = pool[index]
    judged, ascent = FeatureMatching().ascent(Target(defence, labels, guides), images, torch.arange(4))
    torch.testing.assert_close(ascent, 2 * (guides - images) / (2 * HALF))
    assert not judged.fooled.any()
    found = attack(FeatureMatching())(defence, images, labels, guides=guides, generator=seeded())
    assert bool(found.fooled.all())
    assert bool((found.score < alarm(guides) + 0.2).all())


@pytest.mark.parametrize("aim", AIMS.values(), ids=AIMS)
def test_a_result_does_not_depend_on_batch_mates_chunks_or_position(aim):
    defence, images, labels = problem(5)
    ids = list("abcde")
    method = attack(aim, steps=15)
    whole = method(defence, images, labels, generator=seeded(), sample_ids=ids)
    chunked = method(defence, images, labels, generator=seeded(), sample_ids=ids, chunk_size=2)
    order = torch.tensor([3, 0])
    part = method(
        defence, images[order], labels[order], generator=seeded(), sample_ids=[ids[i] for i in order.tolist()]
    )
    for name, value in vars(whole).items():
        torch.testing.assert_close(getattr(chunked, name), value, rtol=0, atol=1e-5, equal_nan=True)
        torch.testing.assert_close(getattr(part, name), value[order], rtol=0, atol=1e-5, equal_nan=True)


def test_more_restarts_never_raise_the_score():
    defence, images, labels = problem()
    scores = [
        attack(Selective(), steps=4, restarts=restarts)(defence, images, labels, generator=seeded()).score
        for restarts in (1, 2, 4)
    ]
    assert bool((scores[1] <= scores[0]).all())
    assert bool((scores[2] <= scores[1]).all())
    assert bool((scores[2] < scores[0]).any())


def test_a_sample_leaves_once_it_passes_below_the_goal():
    defence, images, labels = problem()
    endless = attack(Selective())(defence, images, labels, generator=seeded())
    found = attack(Selective(), stop_below=2.0)(defence, images, labels, generator=seeded())
    assert bool((found.score <= 2).all())
    assert bool((found.n_bwd < endless.n_bwd).all())
    assert bool((found.n_alarm_bwd < endless.n_alarm_bwd).all())
    # 60 gradients, then the last verdict, in each of two restarts.
    assert endless.n_bwd.tolist() == [120] * 4
    assert endless.n_fwd.tolist() == [122] * 4


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_surroundings_change_nothing_and_nothing_is_left_behind(around):
    defence, images, labels = problem()
    expected = attack(Orthogonal(), steps=5)(defence, images, labels, generator=seeded())
    defence.classifier.train()
    state = torch.get_rng_state()
    with around():
        found = attack(Orthogonal(), steps=5)(defence, images.clone(), labels, generator=seeded())
    assert found.images.equal(expected.images)
    assert torch.get_rng_state().equal(state)
    assert defence.classifier.training
    assert defence.classifier.weight.requires_grad
    assert defence.classifier.weight.grad is None


def test_no_image_gives_an_empty_result():
    defence, images, labels = problem()
    found = attack(Selective())(defence, images[:0], labels[:0], generator=seeded())
    assert found.images.shape == (0, 3, SIZE, SIZE)
    assert all(len(value) == 0 for value in vars(found).values())


def test_suite_holds_five_weights_the_selective_and_the_orthogonal_attack():
    suite = AdaptivePGD.suite(eps=EPS, steps=7, restarts=1)
    names = [method.aim.name for method in suite]
    weights = ["0.1", "0.3", "1", "3", "10"]
    assert names == [*(f"weighted_mu{mu}" for mu in weights), "selective", "orthogonal"]
    assert {(method.eps, method.steps, method.restarts) for method in suite} == {(EPS, 7, 1)}
    assert suite[0].settings()["aim"] == {"class": "Weighted", "mu": 0.1}


def test_images_off_the_8bit_levels_are_refused():
    defence, images, labels = problem()
    with pytest.raises(DataError, match=r"judge 8-bit images, and these are up to 0\.001 off"):
        attack(Selective())(defence, images + 0.001, labels, generator=seeded())


@pytest.mark.parametrize(
    ("broken", "kind", "message"),
    [
        (lambda images: images.mean(), ConfigError, r"map 4 images to scores \(4,\), found \(\)"),
        (lambda images: alarm(images) * torch.nan, NumericError, "NaN for 4 of 4 images"),
        (lambda images: alarm(images.detach()), ConfigError, "scores carry no gradient to the image"),
        (
            lambda images: (images * 0).flatten(1).sum(dim=1).sqrt(),
            NumericError,
            "gradient of the alarm is not",
        ),
    ],
)
def test_an_alarm_that_does_not_fit_is_refused(broken, kind, message):
    defence, images, labels = problem()
    with pytest.raises(kind, match=message):
        attack(Weighted(mu=1))(
            Defence(classifier=defence.classifier, alarm=broken), images, labels, generator=seeded()
        )


def test_feature_matching_without_features_or_guides_is_refused():
    defence, images, labels = problem()
    with pytest.raises(ConfigError, match="needs guides"):
        attack(FeatureMatching())(defence, images, labels, generator=seeded())
    with pytest.raises(ConfigError, match="needs features to match"):
        attack(FeatureMatching())(defence, images, labels, guides=images, generator=seeded())
    with pytest.raises(ConfigError, match="guides must be"):
        attack(FeatureMatching())(defence, images, labels, guides=images[:1], generator=seeded())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 2}, "AdaptivePGD.eps must be"),
        ({"steps": 0}, "AdaptivePGD.steps must be"),
        ({"restarts": 0}, "AdaptivePGD.restarts must be"),
        ({"step": 0}, "AdaptivePGD.step must be"),
        ({"shape": "linf"}, "AdaptivePGD.shape must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        attack(Selective(), **settings)
    with pytest.raises(ConfigError, match="mu must be at least 0, found -1"):
        Weighted(mu=-1)


def test_a_patch_changes_its_place_alone_and_is_drawn_where_the_plain_attack_draws_it():
    model, images, labels = toy_problem(6)
    places = AdversarialPatch(0.2, steps=1)(model, images, labels, generator=torch.Generator().manual_seed(3))

    def brightness(images):
        return images.flatten(1).mean(dim=1)

    attack = AdaptivePGD(aim=Weighted(mu=0.1), eps=1.0, steps=15, restarts=2, share=0.2)
    defence = Defence(classifier=model, alarm=brightness)
    result = attack(defence, images, labels, generator=torch.Generator().manual_seed(3))
    assert torch.where(places.mask, 0.0, result.images - images).abs().max() == 0
    assert result.fooled.float().mean() > 0.5
    alone = attack(defence, images[2:3], labels[2:3], generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(alone.images, result.images[2:3])


def test_a_patch_keeps_the_evidence_off_itself():
    model, images, labels = toy_problem(8)

    def maps(images):
        return (images - 0.5).abs().mean(dim=1, keepdim=True)

    def share(result, places):
        return torch.stack(
            [
                (maps(image[None]) * mask).sum() / maps(image[None]).sum()
                for image, mask in zip(result.images, places.mask, strict=True)
            ]
        )

    places = AdversarialPatch(0.2, steps=1)(model, images, labels)
    defence = Defence(classifier=model, alarm=EvidenceInside(maps))
    seen, hidden = (
        AdaptivePGD(aim=Weighted(mu=mu), eps=1.0, steps=25, restarts=1, share=0.2)(defence, images, labels)
        for mu in (0.0, 3.0)
    )
    both = seen.fooled & hidden.fooled
    assert both.any()
    torch.testing.assert_close(share(hidden, places)[both], hidden.score[both])
    assert hidden.score[both].mean() < seen.score[both].mean()


def test_evidence_inside_asks_for_a_patch_and_for_one_map_per_image():
    model, images, labels = toy_problem(2)
    attack = AdaptivePGD(aim=Selective(), eps=1.0, steps=2, restarts=1)
    with pytest.raises(ConfigError, match=r"give AdaptivePGD a share"):
        attack(Defence(classifier=model, alarm=EvidenceInside(lambda images: images)), images, labels)
    attack = AdaptivePGD(aim=Weighted(mu=1.0), eps=1.0, steps=2, restarts=1, share=0.2)
    with pytest.raises(ConfigError, match=r"EvidenceInside\.maps must give one map per image"):
        attack(Defence(classifier=model, alarm=EvidenceInside(lambda images: images)), images, labels)
    with pytest.raises(ConfigError, match="share"):
        AdaptivePGD(aim=Selective(), eps=1.0, share=1.5)
