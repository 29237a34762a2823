import pytest
import torch

from helpers.detector_cases import ToyMasks
from verisal.detectors import CNNDetector
from verisal.detectors.base import epoch_order
from verisal.detectors.network import AttributionCNN, map_stack, scalar_stack
from verisal.errors import ConfigError, DataError
from verisal.functional.statistics import auroc


def planted(count=160, *, seed=0):
    """Attacked rows have a brighter middle in the second stage's map."""
    rng = torch.Generator().manual_seed(seed)
    adversarial = torch.arange(count) >= count // 2
    maps = torch.rand(count, 2, 8, 8, generator=rng)
    maps[adversarial, 1, 2:6, 2:6] += 0.5
    other = torch.rand(count, 1, 4, 4, generator=rng)
    logits = torch.rand(count, 3, generator=rng)
    return {"masks/1": other.half(), "masks/2": maps.half(), "logits": logits}, adversarial


def make(**settings):
    chosen = {"reads": ("masks/*",), "grid": 8, "members": 1, "epochs": 8, "batch_size": 32, "width": 4}
    return CNNDetector(source=ToyMasks(), **(chosen | settings))


def fitted(detector, *, seed=0):
    measured, adversarial = planted()
    detector.fit(measured, adversarial, ~adversarial, seed=seed)
    return detector


def test_planted_pattern_is_found_on_new_images():
    asked, truth = planted(seed=4)
    scores = fitted(make()).judge(asked)
    assert auroc(scores[truth], scores[~truth]) > 0.95


def test_a_scalar_alone_can_tell():
    measured, adversarial = planted()
    noise = {"masks/1": torch.rand(160, 1, 4, 4, generator=torch.Generator().manual_seed(0))}
    given = noise | {"distance": adversarial.float() * 100 + measured["logits"][:, 0]}
    detector = make(scalars=("distance",), epochs=12)
    detector.fit(given, adversarial, ~adversarial)
    scores = detector.judge(given)
    assert auroc(scores[adversarial], scores[~adversarial]) > 0.99


def test_same_seed_same_scores_other_seed_other_scores():
    asked, _ = planted(seed=4)
    first, again, other = (fitted(make(epochs=2), seed=seed).judge(asked) for seed in (3, 3, 4))
    assert first.equal(again)
    assert not first.equal(other)


def test_another_loop_around_the_same_parts_gives_the_same_networks():
    measured, adversarial = planted()
    detector, other = fitted(make(members=2, epochs=2), seed=3), make(members=2)
    networks = other.build({name: tensor[~adversarial] for name, tensor in measured.items()}, seed=3)
    rows = {name: tensor.clone() for name, tensor in measured.items()}
    optimizer = torch.optim.AdamW(networks.parameters(), lr=0.004, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.004, total_steps=10)
    networks.train()
    for step in range(10):
        torch.manual_seed(step)  # The global stream is not read.
        at = epoch_order(160, seed=3, epoch=step // 5)[step % 5 * 32 :][:32]
        # Measured rows and prepared ones are the same to it.
        batch = {name: tensor[at] for name, tensor in rows.items()}
        loss = other.loss(networks, batch, adversarial[at], weights=torch.ones(len(at)), seed=3, step=step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    other.finish(networks)
    networks.train()  # A copy was kept.
    assert all(tensor.equal(other.state()[name]) for name, tensor in detector.state().items())


def test_chosen_channel_statistics_alone_are_read_of_masks_and_no_other_map():
    maps = torch.stack([torch.full((2, 2), float(level)) for level in range(3)])[None]
    measured = {"masks/1": maps, "image": maps, "masks/2": maps[:, :1]}
    stack = map_stack(measured, ("masks/*", "image"), folds=("image",), grid=2, statistics=(2, 0))
    assert stack[0, :, 0, 0].tolist() == [2.0, 0.0, 0.0, 0.0, 1.0, 2.0]
    asked, _ = planted(seed=4)
    three = {"masks/1": asked["masks/2"].repeat(1, 2, 1, 1)[:, :3]}
    detector = make(statistics=("mean", "max"), epochs=1)
    detector.fit(three, torch.arange(160) >= 80, torch.arange(160) < 80)
    assert detector.state()["CNNDetector.0.input_mean"].shape == (1, 2, 1, 1)


def test_a_state_of_other_settings_is_refused():
    state = fitted(make(epochs=1)).state()
    for settings in ({"width": 8}, {"members": 2}):
        with pytest.raises(ConfigError, match="CNNDetector with other settings than members="):
            make(**settings).restore(state)


def test_score_is_the_mean_of_the_members():
    asked, _ = planted(seed=4)
    # A member's seed depends on its number alone, so the first of three is the one of one.
    one, three = (fitted(make(epochs=2, members=members)).judge(asked) for members in (1, 3))
    assert not one.equal(three)
    assert three.std() < 3 * one.std()


def test_maps_are_standardised_by_clean_fit_images_alone():
    measured, adversarial = planted()
    odd = {name: value.float() for name, value in measured.items()}
    for value in odd.values():
        value[adversarial] = 50.0
    detector = make(epochs=1)
    detector.fit(odd, adversarial, ~adversarial)
    clean = map_stack({n: v[~adversarial] for n, v in odd.items()}, ("masks/*",), folds=(), grid=8)
    network = detector._networks[0]
    torch.testing.assert_close(network.input_mean[0, :, 0, 0], clean.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(network.input_std[0, :, 0, 0], clean.std(dim=(0, 2, 3)))


def test_many_rows_are_judged_in_parts_with_the_same_scores(monkeypatch):
    detector, (asked, _) = fitted(make(epochs=1)), planted(seed=4)
    whole = detector.judge(asked)
    monkeypatch.setattr("verisal.detectors.network._ROWS", 50)
    torch.testing.assert_close(detector.judge(asked), whole)


def test_order_of_what_was_measured_does_not_matter():
    detector, (asked, _) = fitted(make(epochs=1)), planted(seed=4)
    turned = dict(reversed(asked.items()))
    assert detector.judge(turned).equal(detector.judge(asked))


def test_stack_resizes_maps_and_folds_pixels_as_blocks():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    stack = map_stack({"image": image, "a/b": image}, ("image", "a/*"), folds=("image",), grid=2)
    assert stack.shape == (1, 5, 2, 2)
    assert stack[0, :4, 0, 0].tolist() == [0.0, 1.0, 4.0, 5.0]
    assert stack[0, 4].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert stack[:, :4].equal(torch.nn.functional.pixel_unshuffle(image, 2))


def test_bytes_are_read_as_images_in_0_1():
    image = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    assert map_stack({"image": image}, ("image",), folds=(), grid=2).flatten().tolist() == pytest.approx(
        [0.2] * 12
    )


def test_sides_that_no_block_divides_are_brought_to_the_grid():
    assert map_stack({"image": torch.rand(2, 3, 7, 7)}, ("image",), folds=("image",), grid=2).shape == (
        2,
        3,
        2,
        2,
    )
    assert map_stack({"image": torch.rand(2, 3, 6, 9)}, ("image",), folds=("image",), grid=2).shape == (
        2,
        27,
        2,
        2,
    )


def test_values_per_class_are_sorted_so_that_no_class_is_named():
    measured = {"logits": torch.tensor([[1.0, 3.0, 2.0]]), "confidence": torch.tensor([7.0])}
    assert scalar_stack(measured, ("conf*", "logits")).tolist() == [[7.0, 3.0, 2.0, 1.0]]
    assert scalar_stack(measured, ()).shape == (1, 0)


def test_names_that_do_not_fit_are_refused():
    measured, adversarial = planted()
    for settings, message in (
        ({"reads": ("mask/*",)}, r"named like 'mask/\*'; measured are logits, masks/1, masks/2"),
        ({"reads": ("logits",)}, r"logits is \(160, 3\), not a map"),
        ({"scalars": ("masks/1",)}, r"masks/1 is \(160, 1, 4, 4\), not \(B,\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(**settings).fit(measured, adversarial, ~adversarial)


@pytest.mark.parametrize(
    "wrong",
    [
        {"reads": ()},
        {"statistics": ()},
        {"statistics": ("median",)},
        {"members": 0},
        {"epochs": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"dropout": 1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"CNNDetector(\.statistics must be of| needs)"):
        make(**wrong)


def test_too_few_images_of_a_kind_are_refused():
    measured, adversarial = planted()
    with pytest.raises(DataError, match="at least 4 adversarial images to fit, found 0"):
        make().fit(measured, torch.zeros_like(adversarial), ~adversarial)


def test_fewer_images_than_a_batch_and_one_step_in_all_are_enough():
    measured, adversarial = planted(count=12)
    detector = make(epochs=1, batch_size=64)
    detector.fit(measured, adversarial, ~adversarial)
    assert bool(detector.judge(measured).isfinite().all())


def test_network_without_scalars_has_the_parameters_that_it_had():
    names = set(AttributionCNN(2, width=2).state_dict())
    assert {"body.0.weight", "head.3.weight", "head.3.bias", "input_mean", "input_std"} <= names
