"""Groups, roles and stores of attacked images, on a classifier whose every answer is known."""

import pytest
import torch
from torch import nn

from helpers.normalizations import CENTRED
from helpers.tiny_detector import SIZE, attacks, features, masks, memorised
from verisal.attacks import FGSM, PGD, GaussianNoise, SignNoise
from verisal.data import EmojiScenes
from verisal.data.image_data import Processes
from verisal.detection.attacked_images import AttackedImages
from verisal.detection.groups import ImageSource
from verisal.detectors import Combined, Logits, Measurement, PooledActivations
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import canonical, state_hash
from verisal.models import Classifier
from verisal.types import Sample

COUNT = 25


def make(root, **settings):
    known = {
        "classifier": memorised(),
        "split": "det_test",
        "count": COUNT,
        "attacked_count": COUNT,
        "attacks": attacks(),
        "noise": {"noise_linf": SignNoise(8 / 255)},
        "noise_like": "pgd",
        "seed": 0,
        "root": root,
    } | settings
    split, count = known.pop("split"), known.pop("count")
    source = known.pop("source", None) or EmojiScenes(split, count, seed=known["seed"], size=SIZE)
    return AttackedImages(known.pop("classifier"), source, **known)


def filled(root, *, measurement=None, **settings):
    scenes = make(root, **settings)
    scenes.fill(Processes(), [measurement or features()], progress=False)
    return scenes


def confidence(scenes):
    return scenes.measured(features())["confidence"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("store"))


def clean_batch(count=COUNT):
    return EmojiScenes("det_test", count, size=SIZE).stack(range(count))


def predicted(images):
    with torch.no_grad():
        return memorised()(images.float() / 255).argmax(dim=1)


def rows_of(table, group):
    return table.image_index[table.group == table.groups.index(group)].tolist()


def test_groups_and_roles_are_those_of_the_images(scenes):
    table, labels = scenes.groups(), clean_batch().labels
    # Whether noise turns one of the images depends on the machine that the network was trained on.
    turned = [f"{noise}_misclassified" for noise in ("noise_linf", "noise_l2")]
    turned = [name for name in turned if name in table.groups]
    assert [name for name in table.groups if name not in turned] == [
        *("clean", "clean_misclassified", "pgd", "pgd_failed", "fgsm", "fgsm_failed"),
        *("weak", "weak_failed", "noise_linf", "noise_l2"),
    ]
    assert dict(table.roles) == {
        "clean": "clean",
        **dict.fromkeys(("clean_misclassified", "noise_linf", "noise_l2", *turned), "benign"),
        **dict.fromkeys(("pgd", "fgsm", "weak"), "attack"),
        **dict.fromkeys(("pgd_failed", "fgsm_failed", "weak_failed"), "failed"),
    }
    right = (predicted((clean_batch().images * 255).round()) == labels).nonzero()[:, 0].tolist()
    assert 15 < len(right) < COUNT
    assert rows_of(table, "clean") == right
    assert rows_of(table, "clean_misclassified") == [index for index in range(COUNT) if index not in right]
    for noise in ("noise_linf", "noise_l2"):
        wrong = f"{noise}_misclassified"
        assert sorted(rows_of(table, noise) + (rows_of(table, wrong) if wrong in turned else [])) == right
    for attack in attacks():
        fooled, withstood = rows_of(table, attack), rows_of(table, f"{attack}_failed")
        assert sorted(fooled + withstood) == right
        for group, wrong in ((attack, True), (f"{attack}_failed", False)):
            rows = table.group == table.groups.index(group)
            found = predicted(table.images[rows])
            assert table.prediction[rows].equal(found)
            assert (found != labels[table.image_index[rows]]).tolist() == [wrong] * int(rows.sum())
    # The plant: one attack nearly always succeeds, another hardly ever.
    assert len(rows_of(table, "pgd")) > 0.9 * len(right)
    assert 0 < len(rows_of(table, "weak")) < 0.5 * len(right)
    assert table.counts() == {group: len(rows_of(table, group)) for group in table.groups}
    assert len(table) == sum(table.counts().values())
    assert table.label.equal(labels[table.image_index])
    assert table.image_index[table.clean].tolist() == right


def test_a_combination_is_kept_by_its_parts(tmp_path):
    """Stores that one of the sources has filled are not filled again, nor is anything kept twice."""
    settings = {"count": 6, "attacked_count": 6, "attacks": {"pgd": attacks()["pgd"]}, "noise": {}}
    sources = (Logits(), PooledActivations())
    combined = Combined(sources=sources)
    one = filled(tmp_path, measurement=sources[1], **settings)
    before = {path.name for path in tmp_path.iterdir()}
    both = filled(tmp_path, measurement=combined, **settings)
    added = {path.name for path in tmp_path.iterdir()} - before
    assert len(added) == len(both.variants)
    assert all(name.startswith("features-") for name in added)
    found = both.measured(combined)
    for number, source in enumerate(sources):
        for name, tensor in one.measured(source).items() if number else both.measured(source).items():
            assert found.pop(f"{number}/{name}").equal(tensor)
    assert not found


def test_what_two_sources_share_is_one_step(tmp_path):
    images = make(tmp_path, count=6, attacked_count=6)
    sources = (Logits(), PooledActivations())
    alone = images.steps(sources)
    assert images.steps((*sources, Combined(sources=sources))) == alone
    assert len(alone) == 3 + len(sources)


def test_only_attacks_that_succeeded_are_targets(scenes):
    table = scenes.groups()
    attacked = [table.groups.index(name) for name in attacks()]
    assert table.adversarial.tolist() == [group in attacked for group in table.group.tolist()]


def test_a_fit_learns_from_clean_and_noisy_images_and_its_own_attacks(scenes):
    table = scenes.groups()
    benign = {name for name in table.groups if name.startswith(("clean", "noise"))}
    fitted = {*benign, "fgsm"}
    names = [table.groups[group] for group in table.group.tolist()]
    assert table.fitted(["fgsm"]).tolist() == [row for row, name in enumerate(names) if name in fitted]


def test_misclassified_images_are_never_attacked_nor_made_noisy(scenes):
    clean = scenes.images("clean")
    wrong = ~clean["clean_correct"]
    assert int(wrong.sum()) >= 1
    for variant in (*attacks(), "noise_linf", "noise_l2"):
        stored = scenes.images(variant)
        assert stored["image"][wrong].equal(clean["image"][wrong])
        assert stored["l2"][wrong].tolist() == [0.0] * int(wrong.sum())
        assert not stored["success"][wrong].any()


def test_stored_images_have_8_bits_and_keep_to_the_budget(scenes):
    clean = (clean_batch().images * 255).round()
    assert scenes.images("clean")["image"].equal(clean.to(torch.uint8))
    for variant, steps in (("pgd", 8), ("fgsm", 4), ("weak", 1), ("noise_linf", 8)):
        stored = scenes.images(variant)
        assert stored["image"].dtype == torch.uint8
        change = stored["image"].float() - clean
        assert float(change.abs().max()) == steps
        torch.testing.assert_close(stored["linf"] * 255, change.abs().flatten(1).amax(dim=1))
        torch.testing.assert_close(stored["l2"] * 255, change.flatten(1).norm(dim=1), rtol=1e-5, atol=1e-3)
    correct = scenes.images("clean")["clean_correct"]
    # Sign noise moves every value that has room by exactly its eps.
    moved = (scenes.images("noise_linf")["image"].float() - clean)[correct]
    room = ((clean >= 8) & (clean <= 247))[correct]
    assert moved[room].abs().eq(8).all()


def test_gaussian_noise_copies_the_norm_of_each_attacked_image(scenes):
    attacked, noisy = scenes.images("pgd")["l2"], scenes.images("noise_l2")["l2"]
    assert len(attacked.unique()) > COUNT // 2
    assert (noisy <= attacked + 1e-5).all()
    # Reached from below within about one 8-bit step of one value.
    torch.testing.assert_close(noisy, attacked, rtol=0.01, atol=2 / 255)


def test_noise_needs_no_attack(tmp_path):
    """False alarms are counted on more images than are attacked, which lend the others their norms."""
    few = filled(tmp_path, attacked_count=5, noise_count=12, measurement=Logits())
    table, correct = few.groups(), few.images("clean")["clean_correct"]
    for attack in attacks():
        assert all(row < 5 for row in rows_of(table, attack) + rows_of(table, f"{attack}_failed"))
    lent = few.images("pgd")["l2"]
    assert len(lent) == 5
    noisy = few.images("noise_l2")
    expected = torch.stack([lent[row % 5] for row in range(12)])[correct[:12]]
    torch.testing.assert_close(noisy["l2"][correct[:12]], expected, rtol=0.01, atol=2 / 255)
    assert int((noisy["l2"] > 0).sum()) > 5
    for noise in ("noise_linf", "noise_l2"):
        rows = rows_of(table, noise)
        rows += rows_of(table, f"{noise}_misclassified") if f"{noise}_misclassified" in table.groups else []
        assert sorted(rows) == correct[:12].nonzero()[:, 0].tolist()
    assert len(few.measured(Logits())["logits"]) == len(table)
    with pytest.raises(ConfigError, match=r"images must be 0\.\.25, found 5 and 26"):
        make(tmp_path, attacked_count=5, noise_count=26)


def test_success_is_judged_on_the_rounded_image(tmp_path):
    class Faint(nn.Module):
        """Class 0 unless the mean brightness is raised: half an 8-bit step everywhere turns the answer."""

        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = nn.Identity(), nn.Identity(), nn.Linear(1, 24)

        def forward(self, images):
            return self.head(self.two(self.one(images)).mean(dim=(1, 2, 3))[:, None])

    names = EmojiScenes("det_test", 1).class_names
    faint = Classifier(Faint(), ["one", "two"], class_names=names, image_size=SIZE, normalization="none")
    batch = clean_batch()
    # Of one label, so that the planted classifier is right on it and on nothing else.
    label = int(batch.labels[1])
    brightness = float(batch.images[1].mean())
    with torch.no_grad():
        faint.network.head.weight.zero_()
        faint.network.head.bias.fill_(-100.0)
        # The label wins below ``brightness + 0.3 / 255``, its neighbour above.
        faint.network.head.weight[(label + 1) % 24] = 1000.0
        faint.network.head.bias[(label + 1) % 24] = -1000.0 * (brightness + 0.3 / 255)
        faint.network.head.bias[label] = 0.0
    faint.eval().requires_grad_(False)
    scenes = make(
        tmp_path,
        classifier=faint,
        count=2,
        attacked_count=2,
        attacks={"half": FGSM(0.45 / 255), "whole": FGSM(1 / 255)},
        noise_like="whole",
    )
    scenes.fill(Processes(), [features(saliency=masks(steps=4))], progress=False)
    half, whole = scenes.images("half"), scenes.images("whole")
    assert half["clean_correct"][1]
    assert bool(half["success_unrounded"][1])
    assert not bool(half["success"][1])
    assert half["image"].equal(scenes.images("clean")["image"])
    assert bool(whole["success"][1])
    before, after = scenes.groups().attack_rates["half"]
    assert (before, after) == (1.0, 0.0)


def test_values_do_not_depend_on_shards(tmp_path):
    few = {"count": 10, "attacked_count": 10}
    whole, small = filled(tmp_path / "64", **few), filled(tmp_path / "3", shard_size=3, **few)
    assert whole.groups().group.equal(small.groups().group)
    assert whole.groups().image_index.equal(small.groups().image_index)
    assert whole.groups().images.equal(small.groups().images)
    one, two = whole.measured(features()), small.measured(features())
    for name in ("masks/prediction/1", "masks/runner_up/4", "activations/2", "gradient", "confidence"):
        torch.testing.assert_close(one[name].float(), two[name].float(), rtol=1e-3, atol=2e-3, msg=name)


class Counting(Measurement):
    """Features that count the images they are asked for, and fail when they have had enough."""

    def __init__(self, limit=10**9):
        self.real, self.limit, self.seen = features(), limit, 0

    def settings(self):
        return self.real.settings()

    def __call__(self, classifier, images):
        if self.seen + len(images) > self.limit:
            raise KeyboardInterrupt
        self.seen += len(images)
        return self.real(classifier, images)


def test_a_stopped_run_continues_and_a_finished_one_computes_nothing(scenes, tmp_path):
    few = {"count": 8, "attacked_count": 8, "attacks": {"pgd": PGD(8 / 255, steps=4)}, "shard_size": 4}
    stopped = Counting(limit=12)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, measurement=stopped, **few)
    assert stopped.seen == 12  # 8 clean and half of the attacked
    rest = Counting()
    whole = filled(tmp_path, measurement=rest, **few)
    # Attacked and noisy versions of misclassified images stand in no group, so nobody looks at them.
    right = int(whole.images("clean")["clean_correct"].sum())
    assert 5 <= right < 8
    assert rest.seen == 8 + 3 * right - 12
    nothing = Counting(limit=0)
    again = filled(tmp_path, measurement=nothing, **few)
    assert nothing.seen == 0
    fresh = filled(tmp_path / "fresh", **few)
    for scenes_ in (whole, again):
        assert confidence(scenes_).equal(confidence(fresh))


def test_other_settings_make_other_stores_and_share_what_they_can(tmp_path):
    few = {"count": 4, "attacked_count": 3, "attacks": {"pgd": PGD(8 / 255, steps=2)}}

    def folders():
        return {path.name for path in tmp_path.iterdir()}

    filled(tmp_path, **few)
    first = folders()
    assert len(first) == 8  # images and features of clean, pgd, noise_linf and noise_l2
    filled(tmp_path, measurement=features(saliency=masks(reg_weight=0.6)), **few)
    assert {name.split("-")[0] for name in folders() - first} == {"features"}
    assert len(folders()) == 12
    filled(tmp_path, **few | {"attacks": {"pgd": PGD(8 / 255, steps=3)}})
    assert {name.split("-")[2] for name in folders()} == {"clean", "pgd", "noise_linf", "noise_l2"}
    assert len(folders()) == 12 + 4  # pgd and the noise that copies it, images and features
    filled(tmp_path, classifier=memorised(seed=1), **few)
    assert len(folders()) == 16 + 8
    filled(tmp_path, split="det_fit", **few | {"noise": {}})
    assert len(folders()) == 24 + 6


def test_only_the_first_images_are_attacked(tmp_path):
    scenes = filled(tmp_path, count=COUNT, attacked_count=6)
    counts = scenes.groups().counts()
    right = scenes.images("clean")["clean_correct"]
    assert counts["clean"] == int(right.sum())
    assert counts["noise_linf"] == counts["pgd"] + counts["pgd_failed"] == int(right[:6].sum())


def test_none_need_be_attacked(tmp_path):
    table = filled(tmp_path, count=12, attacked_count=0).groups()
    assert table.groups == ("clean", "clean_misclassified")
    assert (len(table), dict(table.attack_rates), bool(table.adversarial.any())) == (12, {}, False)


def test_failed_attacks_can_be_left_out(scenes, tmp_path):
    few = {"count": 12, "attacked_count": 12}
    counting, counted = Counting(), Counting()
    whole, short = (
        filled(tmp_path, measurement=counting, **few),
        filled(tmp_path, keep_failed=False, measurement=counted, **few),
    )
    one, two = whole.groups(), short.groups()
    failed = sum(count for name, count in one.counts().items() if name.endswith("_failed"))
    assert failed > 0
    assert two.counts() == {
        name: 0 if name.endswith("_failed") else count for name, count in one.counts().items()
    }
    assert two.attack_rates == one.attack_rates
    kept = torch.tensor([one.roles[name] != "failed" for name in one.groups])[one.group]
    assert two.image_index.equal(one.image_index[kept])
    torch.testing.assert_close(confidence(short), confidence(whole)[kept], rtol=0, atol=1e-3)
    # Clean and noisy images were there already.
    assert counted.seen == sum(one.counts()[name] for name in attacks())


class Colours:
    """Another source: pictures of one colour, with names of their own."""

    split = "holiday"
    class_names = EmojiScenes("det_test", 1).class_names

    def __init__(self, size=SIZE):
        self.size = size

    def identity(self):
        return {"name": "Colours"}

    def image_id(self, index):
        return f"colour {index}"

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return Sample(
            torch.full((3, self.size, self.size), index / 5),
            index,
            self.image_id(index),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, self.size, self.size, dtype=torch.bool),
            torch.zeros(0, 4),
        )


def test_any_source_of_labelled_images_can_be_attacked(tmp_path):
    source = Colours()
    assert isinstance(source, ImageSource)
    assert isinstance(EmojiScenes("det_test", 1), ImageSource)
    few = {"attacked_count": 2, "attacks": {"pgd": FGSM(8 / 255)}, "noise": {}, "source": source}
    images = filled(tmp_path, **few)
    stored = images.images("clean")
    assert stored["label"].tolist() == [0, 1, 2]
    assert stored["image"].flatten(1).float().mean(dim=1).tolist() == [0.0, 51.0, 102.0]
    assert images.image_id(2) == "colour 2"
    folders = {path.name for path in tmp_path.iterdir()}
    assert {"-".join(name.split("-")[:3]) for name in folders} >= {
        *("images-holiday-clean", "images-holiday-pgd", "images-holiday-noise_l2"),
    }
    # Another seed repeats attacks, but not the predictions on clean images.
    filled(tmp_path, seed=1, **few)
    fresh = {"-".join(path.name.split("-")[:3]) for path in tmp_path.iterdir() if path.name not in folders}
    assert "images-holiday-pgd" in fresh
    assert "images-holiday-clean" not in fresh
    with pytest.raises(ConfigError, match="holiday: images are 16 x 16 pixels, the classifier takes 32"):
        make(tmp_path, **few | {"source": Colours(16)})


def test_keys_of_drawn_scenes_are_those_of_stores_made_before_other_sources_existed(tmp_path):
    scenes = make(tmp_path, count=2, attacked_count=1)
    first = state_hash({"images": (clean_batch(2).images * 255).round().to(torch.uint8)})
    known = {
        "classifier": state_hash(memorised()),
        "data": {"name": "EmojiScenes", "split": "det_test", "seed": 0, "size": SIZE, "first_images": first},
    }
    assert canonical(scenes._key("clean")) == canonical(known | {"images": 2, "variant": None})
    attack = {"images": 1, "variant": attacks()["pgd"].settings()}
    assert canonical(scenes._key("pgd")) == canonical(known | attack | {"noise_like": False})
    assert canonical(scenes._key("noise_l2")) == canonical(known | attack | {"noise_like": True})


def test_images_are_named_as_the_scenes_name_them(scenes):
    assert [scenes.image_id(index) for index in range(COUNT)] == list(clean_batch().image_ids)


BAD = {
    "fewer than none attacked": ({"attacked_count": -1}, "attacked_count must be at least 0, found -1"),
    "more attacked": ({"attacked_count": 26}, r"must be 0\.\.25, found 26"),
    "reserved name": ({"attacks": {"clean": FGSM(0.1)}, "noise_like": "clean"}, r"use \['clean'\]"),
    "shared name": ({"noise": {"pgd": GaussianNoise(1.0)}}, "share a name"),
    "unknown norm": ({"noise_like": "cw"}, r"noise_like is 'cw', attacks are \['fgsm', 'pgd', 'weak'\]"),
}


@pytest.mark.parametrize("bad", BAD)
def test_settings_that_cannot_work_are_refused(tmp_path, bad):
    settings, words = BAD[bad]
    with pytest.raises(ConfigError, match=words):
        make(tmp_path, **settings)


def test_a_classifier_of_other_classes_is_refused(tmp_path):
    network = memorised().network
    other = Classifier(
        network,
        network.stage_names,
        class_names=[f"class {n}" for n in range(24)],
        image_size=SIZE,
        normalization=CENTRED,
    )
    with pytest.raises(ConfigError, match=r"the classifier knows \('class 0'.*the images are of"):
        make(tmp_path, classifier=other)


def test_attacks_that_never_succeed_are_an_error_that_says_so(tmp_path):
    scenes = filled(tmp_path, count=3, attacked_count=3, attacks={"none": FGSM(0.0)}, noise_like="none")
    with pytest.raises(DataError, match="no attack succeeded on any image; raise its eps"):
        scenes.groups()


def test_images_near_the_border_lie_between_and_still_fool(tmp_path):
    few = {"count": 12, "attacked_count": 12, "attacks": {"pgd": PGD(8 / 255, steps=4)}}
    scenes = filled(tmp_path, near_border=3, **few)
    table, plain = scenes.groups(), filled(tmp_path, **few).groups()
    near = ("near_pgd", "near_pgd_2", "near_pgd_3")
    assert scenes.variants == ("clean", "pgd", *near, "noise_linf", "noise_l2")
    assert dict(table.near) == dict.fromkeys(near, "pgd")
    # What was there stays as it was, and what is added is fitted where its attack is.
    assert {name: table.counts()[name] for name in plain.groups} == plain.counts()
    assert {table.roles[name] for name in near} == {"attack"}
    fitted = {table.groups[group] for group in table.group[table.fitted(["pgd"])].tolist()}
    assert fitted == {name for name in table.groups if table.roles[name] != "failed"}
    assert not set(near) & {table.groups[group] for group in table.group[table.fitted([])].tolist()}
    clean, attacked = (scenes.images(name)["image"].float() for name in ("clean", "pgd"))
    fooled = scenes.images("pgd")["success"]
    distances = {}
    for name in near:
        rows = table.group == table.groups.index(name)
        index = table.image_index[rows]
        assert set(index.tolist()) <= set(fooled.nonzero()[:, 0].tolist())
        assert len(index) > 0.7 * int(fooled.sum())
        assert (table.prediction[rows] != table.label[rows]).all()
        assert predicted(table.images[rows]).equal(table.prediction[rows])
        # Each pixel is between the clean and the attacked one, but for the rounding.
        low, high = torch.minimum(clean, attacked)[index], torch.maximum(clean, attacked)[index]
        images = table.images[rows].float()
        assert ((images >= low) & (images <= high)).all()
        distances |= {
            (number, name): float(image)
            for number, image in zip(
                index.tolist(), (images - clean[index]).flatten(1).norm(dim=1), strict=True
            )
        }
    whole = (attacked - clean).flatten(1).norm(dim=1)
    for number in {number for number, _ in distances}:
        # The image's number decides which share comes first, so that the three differ in order.
        shares = {
            (0.05, 0.25, 0.6)[(number + copy) % 3]: distances.get((number, name))
            for copy, name in enumerate(near)
        }
        found = [shares[share] for share in (0.05, 0.25, 0.6) if shares[share] is not None]
        assert found == sorted(found)
        assert all(one <= float(whole[number]) for one in found)


def test_no_images_near_the_border_without_attacked_ones(tmp_path):
    scenes = make(tmp_path, count=12, attacked_count=0, near_border=2)
    assert scenes.variants == ("clean",)
    with pytest.raises(ConfigError, match="near_border"):
        make(tmp_path, near_border=4)
    with pytest.raises(ConfigError, match="share a name"):
        make(tmp_path, attacks=attacks() | {"near_pgd": FGSM(1 / 255)}, near_border=1)
