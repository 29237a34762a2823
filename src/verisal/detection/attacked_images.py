"""Clean, noisy and attacked images of one split, and what is measured of them, computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from verisal.attacks import Attack
from verisal.data.guard import ImageDigests
from verisal.data.image_data import Processes
from verisal.data.scenes.emoji import EmojiScenes
from verisal.detection._changes import changed, put_near_border, verdict_on
from verisal.detection._variants import (
    NOISE_L2,
    Part,
    Stage,
    copied_noise,
    joined_parts,
    rates,
    stage_of,
    words_of,
)
from verisal.detection.groups import CLEAN, GroupTable, ImageSource
from verisal.detection.table import Role
from verisal.detectors import Measurement
from verisal.detectors.measurements import distinct_parts
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import state_hash
from verisal.functional.adversarial import gaussian_noise, round_to_8bit
from verisal.functional.seeding import derive_seed
from verisal.models import Classifier
from verisal.progress import Running, Step, Work, work
from verisal.store import FeatureStore
from verisal.types import Batch, check_range

Compute = Callable[[Sequence[int]], dict[str, Tensor]]
_ERR = "_misclassified"
_MISCLASSIFIED = f"{CLEAN}{_ERR}"
# How far beyond the border images near it lie, on the way to the attacked image.
_SHARES = (0.05, 0.25, 0.6)


@final
class AttackedImages:
    """One split of labelled images under several attacks and noise controls, with a store per variant.

    A *variant* is what was done to the images: ``clean``, ``noise_l2``, the name of an attack or noise
    control, or ``near_<attack>``. Images and features are stored apart, so that other mask settings do not
    repeat the attacks.

    Attacks like FGSM and PGD end far behind the decision border; others stop just over it, and what is
    learned from the first kind misses those. ``near_border`` adds, for every image that an attack fools,
    images between the clean one and the attacked one that still fool: see :func:`.near_border`.

    Args:
        classifier: the one that is attacked and explained, frozen.
        source: the clean images, labelled by the classifier's classes and of its size.
        attacked_count: how many of them, from the first, are also attacked.
        noise_count: how many, from the first, are made noisy; None for those that are attacked. Images that
            are not attacked borrow the norms of ``noise_like`` from those that are, in turn.
        attacks: name to attack; names become parts of metric names.
        noise: name to noise control.
        noise_like: name of the attack whose per-image L2 norms the Gaussian noise ``noise_l2`` copies; with
            several names there is one ``noise_l2_<attack>`` for each; None leaves it out.
        keep_failed: True if failed attacks are measured too; they are reported, but never fitted.
        near_border: how many images near the border each attacked image adds, 0 to 3: groups
            ``near_<attack>``, ``near_<attack>_2`` and so on, with the role of attacks. The image's number
            decides which of .05, .25 and .6 of the way from the border to the attacked image comes first.
        seed: of attacks and noise.
        root: folder of the stores, a path or URL.
        shard_size: images per shard.

    Raises:
        ConfigError: counts or names that do not fit; classes or an image size that are not the classifier's.
    """

    def __init__(
        self,
        classifier: Classifier,
        source: ImageSource,
        *,
        attacked_count: int,
        noise_count: int | None = None,
        attacks: Mapping[str, Attack],
        noise: Mapping[str, Attack],
        noise_like: str | Sequence[str] | None,
        keep_failed: bool = True,
        near_border: int = 0,
        seed: int,
        root: Path | str,
        shard_size: int = 64,
    ) -> None:
        noise_count = attacked_count if noise_count is None else noise_count
        check_range(0, attacked_count=attacked_count, noise_count=noise_count)
        check_range(0, len(_SHARES), near_border=near_border)
        check_range(1, shard_size=shard_size)
        split, count = source.split, len(source)
        if max(attacked_count, noise_count) > count:
            raise ConfigError(
                f"{split}: attacked and noisy images must be 0..{count}, found {attacked_count} and"
                f" {noise_count}"
            )
        near = {
            f"near_{name}" + (f"_{copy + 1}" if copy else ""): (name, copy)
            for name in attacks
            for copy in range(near_border)
        }
        copied = copied_noise(noise_like)
        taken = {*copied, CLEAN, _MISCLASSIFIED, NOISE_L2, *near} & {*attacks, *noise}
        if taken or set(attacks) & set(noise):
            raise ConfigError(f"{split}: two attacks or noise controls share a name, or use {sorted(taken)}")
        if unknown := [name for name in copied.values() if name not in attacks]:
            raise ConfigError(f"{split}: noise_like is {unknown[0]!r}, attacks are {sorted(attacks)}")
        if source.class_names != classifier.class_names:
            raise ConfigError(
                f"the classifier knows {classifier.class_names}, the images are of {source.class_names}"
            )
        self.source = source
        self._classifier = classifier
        self._attacked_count, self._noise_count = attacked_count, noise_count
        self._seed, self._keep_failed = seed, keep_failed
        self._attacks, self._noise, self._copied, self._near = dict(attacks), dict(noise), copied, near
        if not attacked_count:
            self._attacks, self._copied, self._near = {}, {}, {}
        if not noise_count:
            self._noise, self._copied = {}, {}
        self._root, self._shard_size = root, shard_size
        self._identity = state_hash(classifier)
        # Pictures rather than settings: also another release of the drawings makes another store.
        first = torch.stack([source[index].image for index in range(min(4, count))])
        height, width = classifier.height_and_width
        if tuple(first.shape[2:]) != (height, width):
            raise ConfigError(
                f"{split}: images are {first.shape[2]} x {first.shape[3]} pixels, the classifier takes"
                f" {height} x {width}; give the source that size"
            )
        self._data_key = {**source.identity(), "first_images": state_hash({"images": round_to_8bit(first)})}

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of everything that is done to the images, ``clean`` first, copied noise last."""
        return (CLEAN, *self._attacks, *self._near, *self._noise, *self._copied)

    def steps(self, measurements: Sequence[Measurement] = ()) -> list[Step]:
        """What :meth:`fill` has to do, in words, with the most items that it may take."""
        planned = []
        for stage in self._stages(measurements):
            counts = {part: self._missing(one, stage.measurement) for one, part in stage.parts.items()}
            if parts := {part: count for part, count in counts.items() if count}:
                planned.append(Step(stage.doing, parts, stage.kind))
        return planned

    def fill(
        self, processes: Processes, measurements: Sequence[Measurement] = (), *, progress: bool | Work = True
    ) -> None:
        """Compute the images and measurements that are missing; several processes each take their share.

        Args:
            processes: those that share the work.
            measurements: what is measured of all images.
            progress: whether the first process shows how far it is; or work that these steps are a part of.
        """
        if isinstance(progress, bool):
            with work(self.steps(measurements), shown=progress and processes.rank == 0) as planned:
                self.fill(processes, measurements, progress=planned)
            return
        for stage in self._stages(measurements):
            what, parts = stage.measurement, stage.parts
            if missing := {one: words for one, words in parts.items() if self._missing(one, what)}:
                with progress.step(stage.doing) as running:
                    for variant, words in missing.items():
                        self._fill(variant, what, processes, running, words)

    def stores(self, measurements: Sequence[Measurement]) -> dict[str, str]:
        """Name of each store that :meth:`fill` reads or makes, to its path or URL."""
        variants = [variant for variant in self.variants if self._count(variant)]
        parts = distinct_parts(measurements).values()
        found = [self._image_store(variant) for variant in variants]
        found += [self._feature_store(variant, part) for variant in variants for part in parts]
        return {store.name: store.location for store in found}

    def groups(self) -> GroupTable:
        """Rows of all groups, once :meth:`fill` has made the images.

        Raises:
            DataError: no attack succeeded on any image.
        """
        parts = [part for variant in self.variants for part in self._parts(variant, None)]
        attacked = [part.mask for part in parts if part.role == "attack"]
        if self._attacks and not any(bool(mask.any()) for mask in attacked):
            raise DataError(
                "no attack succeeded on any image; raise its eps or steps, or check the classifier"
            )
        joined = joined_parts(parts)
        sizes = torch.tensor([int(part.mask.sum()) for part in parts])
        return GroupTable(
            images=joined["image"],
            image_index=joined["image_index"],
            group=torch.arange(len(parts)).repeat_interleave(sizes),
            label=joined["label"],
            prediction=joined["prediction"],
            groups=tuple(part.name for part in parts),
            roles={part.name: part.role for part in parts},
            attack_rates={variant: rates(self._image_store(variant).load()) for variant in self._attacks},
            near={name: attack for name, (attack, _) in self._near.items()},
            noise_of={attack: name for name, attack in self._copied.items()},
        )

    def measured(self, measurement: Measurement) -> dict[str, Tensor]:
        """Measurements by :meth:`fill` of the rows of :meth:`groups`, name to ``(N, ...)``."""
        return measurement.joined(
            [
                joined_parts([group for variant in self.variants for group in self._parts(variant, part)])
                for part in measurement.parts
            ]
        )

    def _parts(self, variant: str, measurement: Measurement | None) -> list[Part]:
        """Groups of a variant with its images, or with what was measured of them."""
        images = self._image_store(variant).load(
            None if measurement is None else ["clean_correct", "success"]
        )
        rows = self._rows(variant, images)
        if len(rows) == 0:
            return []
        if measurement is None:
            tensors = {name: tensor[rows] for name, tensor in images.items()} | {"image_index": rows}
        else:
            tensors = self._feature_store(variant, measurement).load()
        correct, success = images["clean_correct"][rows], images["success"][rows]
        if variant == CLEAN:
            groups: list[tuple[str, Role, Tensor]] = [
                (CLEAN, "clean", correct),
                (_MISCLASSIFIED, "benign", ~correct),
            ]
        elif variant in self._near:
            groups = [(variant, "attack", success)]
        elif variant in self._attacks:
            groups = [(variant, "attack", success), (f"{variant}_failed", "failed", correct & ~success)]
        else:
            groups = [(variant, "benign", correct & ~success)]
            if bool((correct & success).any()):
                # Not false alarms like the others: the classifier errs here.
                groups.append((f"{variant}{_ERR}", "benign", correct & success))
        return [Part(name, role, mask, tensors) for name, role, mask in groups]

    def images(self, variant: str) -> dict[str, Tensor]:
        """Stored images of one variant with labels, predictions, success and norms."""
        return self._image_store(variant).load()

    def image_id(self, index: int) -> str:
        """Name of a clean image."""
        return self.source.image_id(index)

    def digests(self) -> ImageDigests:
        """The clean images, from the store where they are in it already; nothing else is computed."""
        store = self._image_store(CLEAN)
        count = len(self.source)
        names = [self.image_id(index) for index in range(count)]
        if store.complete:
            return ImageDigests.of(store.load(["image"])["image"], names)
        return ImageDigests.joined(
            [
                ImageDigests.of(round_to_8bit(self.source[index].image[None]), [name])
                for index, name in enumerate(names)
            ]
        )

    def _count(self, variant: str) -> int:
        if variant == CLEAN:
            return len(self.source)
        noisy = variant in self._noise or variant in self._copied
        return self._noise_count if noisy else self._attacked_count

    def _stages(self, measurements: Sequence[Measurement]) -> Iterator[Stage]:
        """Everything that is made, in its order."""
        made = "rendering" if isinstance(self.source, EmojiScenes) else "reading"
        split = self.source.split
        yield stage_of(made, len(self.source), split, {CLEAN: ""})
        attacks, noise = words_of(self._attacks, self._noise, self._near, self._copied)
        yield stage_of("attacking", self._attacked_count, split, attacks)
        yield stage_of("adding noise to", self._noise_count, split, noise)
        every = {CLEAN: "clean"} | attacks | noise
        for measurement in distinct_parts(measurements).values():
            yield stage_of(f"measuring {measurement.words} of", None, split, every, measurement)

    def _missing(self, variant: str, measurement: Measurement | None) -> int:
        """Items of a store that are to be made, at most."""
        count, images = self._count(variant), self._image_store(variant)
        if not count or not images.complete:
            return count
        if measurement is None:
            return 0
        rows = len(self._rows(variant, images.load(["clean_correct", "success"])))
        return 0 if not rows or self._feature_store(variant, measurement).complete else rows

    def _fill(
        self,
        variant: str,
        measurement: Measurement | None,
        processes: Processes,
        running: Running,
        words: str,
    ) -> None:
        """Make what is missing of one store, which is a part of the step at hand."""
        if measurement is None:
            store, count = self._image_store(variant), self._count(variant)
            compute = self._images_of(variant)
        else:
            images = self._image_store(variant).load()
            rows = self._rows(variant, images)
            store, count = self._feature_store(variant, measurement), len(rows)
            compute = self._measured_by(measurement, images["image"][rows])
        running.remain(words, count)
        running(0, part=words)
        rank, world_size = processes.rank, processes.world_size
        store.fill(compute, count, rank=rank, world_size=world_size, progress=partial(running, part=words))
        running.remain(words, 0)

    def _key(self, variant: str) -> dict[str, Any]:
        key: dict[str, Any] = {
            "classifier": self._identity,
            "data": self._data_key,
            "images": self._count(variant),
            "variant": None,
        }
        if variant != CLEAN:
            # Drawn data carry the seed already, when it is the one that they were drawn with.
            if self._data_key.get("seed") != self._seed:
                key["seed"] = self._seed
            attack = self._copied.get(variant, variant)
            if variant in self._near:
                attack, copy = self._near[variant]
                key["near_border"] = {"copy": copy, "shares": _SHARES}
            key["variant"] = (self._attacks | self._noise)[attack].settings()
            key["noise_like"] = variant in self._copied
        return key

    def _image_store(self, variant: str) -> FeatureStore:
        prefix = f"images-{self.source.split}-{variant}"
        return FeatureStore(self._root, key=self._key(variant), prefix=prefix, shard_size=self._shard_size)

    def _feature_store(self, variant: str, measurement: Measurement) -> FeatureStore:
        key = self._key(variant) | {"features": measurement.settings()}
        if variant in self._attacks:
            key["failed_attacks"] = self._keep_failed
        prefix = f"features-{self.source.split}-{variant}"
        return FeatureStore(self._root, key=key, prefix=prefix, shard_size=self._shard_size)

    def _images_of(self, variant: str) -> Compute:
        copied = self._copied.get(variant)
        norms = None if copied is None else self._image_store(copied).load(["l2"])["l2"]
        # What was attacked is read once, not for every shard.
        base = self._near.get(variant)
        over = None if base is None else self._image_store(base[0]).load(["image", "success"])

        def compute(items: Sequence[int]) -> dict[str, Tensor]:
            batch = Batch.collate([self.source[index] for index in items])
            images = batch.images
            if norms is not None:
                # One draw an image, whatever attack lends the norm.
                seed = derive_seed(self._seed, NOISE_L2)
                lent = norms[[item % len(norms) for item in items]]
                images = gaussian_noise(images, lent, seed=seed, sample_ids=batch.image_ids)
            elif over is not None and base is not None:
                rows = torch.tensor([*items])
                shares = torch.tensor([_SHARES[(item + base[1]) % len(_SHARES)] for item in items])
                attacked, fooled = over["image"][rows], over["success"][rows]
                images = put_near_border(self._classifier, batch, attacked, fooled, shares)
            elif variant != CLEAN:
                attack = (self._attacks | self._noise)[variant]
                seed = derive_seed(self._seed, variant)
                images = changed(self._classifier, batch, attack, seed=seed)
            return verdict_on(self._classifier, batch, images)

        return compute

    def _rows(self, variant: str, images: Mapping[str, Tensor]) -> Tensor:
        """Images of a variant that are measured: those that stand in some group."""
        if variant == CLEAN:
            return torch.arange(len(images["success"]))
        alone = variant in self._near or (variant in self._attacks and not self._keep_failed)
        chosen = "success" if alone else "clean_correct"
        return images[chosen].nonzero()[:, 0]

    def _measured_by(self, measurement: Measurement, images: Tensor) -> Compute:
        return lambda items: measurement(self._classifier, images[list(items)].float() / 255)
