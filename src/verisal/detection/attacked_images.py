"""Clean, noisy and attacked images of one split, and their features, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.attacks import Attack
from verisal.data.guard import ImageDigests
from verisal.data.image_data import Processes
from verisal.detection.table import Role
from verisal.detectors import Measurement
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import state_hash
from verisal.functional.adversarial import gaussian_noise, judge_8bit, round_to_8bit
from verisal.functional.outputs import ask
from verisal.functional.seeding import derive_seed
from verisal.models import Classifier
from verisal.store import FeatureStore
from verisal.types import Batch, Sample

__all__ = ["AttackedImages", "GroupTable", "ImageSource"]

Part = tuple[str, Role, Tensor, dict[str, Tensor]]
Compute = Callable[[Sequence[int]], dict[str, Tensor]]
_ERR = "_misclassified"
_CLEAN, _MISCLASSIFIED, _NOISE_L2 = "clean", f"clean{_ERR}", "noise_l2"


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images of one split, all of the classifier's size; ``EmojiScenes`` is one."""

    @property
    def split(self) -> str:
        """Name of the split; part of messages and of the names of stores."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Plain data that names these images among all others; part of the key of a store."""
        ...

    def image_id(self, index: int) -> str:
        """Name of image ``index`` without reading it."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Image ``index`` with its label."""
        ...


@final
@dataclass(frozen=True)
class GroupTable:
    """Rows of one split: every image of every group, with the features that were asked for.

    Attributes:
        features: name to ``(N, ...)``.
        image_index: ``(N,)`` position of the clean image in its split.
        group: ``(N,)`` index into ``groups``.
        target: ``(N,)`` float, 1 for successful attacks.
        groups: names of the groups.
        roles: group name to ``clean``, ``attack``, ``failed`` or ``benign``.
        attack_rates: attack name to its success rate before and after 8-bit rounding.
    """

    features: Mapping[str, Tensor]
    image_index: Tensor
    group: Tensor
    target: Tensor
    groups: tuple[str, ...]
    roles: Mapping[str, Role]
    attack_rates: Mapping[str, tuple[float, float]]

    def __len__(self) -> int:
        return len(self.group)

    def counts(self) -> dict[str, int]:
        """Group name to its number of images."""
        return {name: int((self.group == index).sum()) for index, name in enumerate(self.groups)}

    def originals(self) -> Tensor:
        """Rows of the clean images, whether the classifier gets them right or not."""
        clean = [index for index, name in enumerate(self.groups) if name in (_CLEAN, _MISCLASSIFIED)]
        return torch.isin(self.group, torch.tensor(clean)).nonzero()[:, 0]


@final
class AttackedImages:
    """One split of labelled images under several attacks and noise controls, with a store per variant.

    A *variant* is what was done to the images: ``clean``, ``noise_l2``, or the name of an attack or noise
    control. Images and features are stored apart, so that other mask settings do not repeat the attacks.

    Args:
        classifier: the one that is attacked and explained, frozen.
        source: the clean images, labelled by the classifier's classes and of its size.
        attacked_count: how many of them, from the first, are also attacked and made noisy.
        attacks: name to attack; names become parts of metric names.
        noise: name to noise control.
        features: what is computed of each image.
        noise_like: name of the attack whose per-image L2 norm ``noise_l2`` copies; None leaves it out.
        keep_failed: whether failed attacks get features too; they are reported, but never fitted.
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
        attacks: Mapping[str, Attack],
        noise: Mapping[str, Attack],
        features: Measurement,
        noise_like: str | None,
        keep_failed: bool = True,
        seed: int,
        root: Path | str,
        shard_size: int = 64,
    ) -> None:
        check_range(1, attacked_count=attacked_count, shard_size=shard_size)
        split, count = source.split, len(source)
        if not 1 <= attacked_count <= count:
            raise ConfigError(f"{split}: attacked images must be 1..{count}, found {attacked_count}")
        taken = {_CLEAN, _MISCLASSIFIED, _NOISE_L2} & {*attacks, *noise}
        if taken or set(attacks) & set(noise):
            raise ConfigError(f"{split}: two attacks or noise controls share a name, or use {sorted(taken)}")
        if noise_like is not None and noise_like not in attacks:
            raise ConfigError(f"{split}: noise_like is {noise_like!r}, attacks are {sorted(attacks)}")
        if source.class_names != classifier.class_names:
            raise ConfigError(
                f"the classifier knows {classifier.class_names}, the images are of {source.class_names}"
            )
        self.source = source
        self._classifier, self._features = classifier, features
        self._attacked_count, self._seed, self._keep_failed = attacked_count, seed, keep_failed
        self._attacks, self._noise, self._noise_like = dict(attacks), dict(noise), noise_like
        self._root, self._shard_size = root, shard_size
        self._identity = state_hash(classifier)
        # Pictures rather than settings: also another release of the drawings makes another store.
        first = torch.stack([source[index].image for index in range(min(4, count))])
        if first.shape[2:] != (classifier.image_size, classifier.image_size):
            raise ConfigError(
                f"{split}: images are {first.shape[2]} x {first.shape[3]} pixels, the classifier takes"
                f" {classifier.image_size}; give the source that size"
            )
        self._data_key = {**source.identity(), "first_images": state_hash({"images": round_to_8bit(first)})}

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of everything that is done to the images, ``clean`` first, ``noise_l2`` last."""
        copied = () if self._noise_like is None else (_NOISE_L2,)
        return (_CLEAN, *self._attacks, *self._noise, *copied)

    def fill(self, processes: Processes, *, progress: bool = True) -> None:
        """Compute what is missing; several processes each take their share."""
        for variant in self.variants:
            store = self._image_store(variant)
            if not store.complete:
                self._fill(store, self._images_of(variant), self._count(variant), processes, progress)
        for variant in self.variants:
            store = self._feature_store(variant)
            images = self._image_store(variant).load()
            rows = self._rows(variant, images)
            if len(rows) and not store.complete:
                self._fill(store, self._features_of(images["image"][rows]), len(rows), processes, progress)

    def table(self, names: Sequence[str] | None) -> GroupTable:
        """Rows of all groups with the named features, all if None; ``image`` is the 8-bit image itself."""
        names = None if names is None else [name for name in names if name != "image"]
        parts: list[Part] = []
        rates = {}
        for variant in self.variants:
            images = self._image_store(variant).load()
            rows = self._rows(variant, images)
            if variant in self._attacks:
                rates[variant] = _rates(images)
            if len(rows) == 0:
                continue
            features = self._feature_store(variant).load(names)
            features |= {"image": images["image"][rows], "image_index": rows}
            correct, success = images["clean_correct"][rows], images["success"][rows]
            if variant == _CLEAN:
                parts.append((_CLEAN, "clean", correct, features))
                parts.append((_MISCLASSIFIED, "benign", ~correct, features))
            elif variant in self._attacks:
                parts.append((variant, "attack", success, features))
                parts.append((f"{variant}_failed", "failed", correct & ~success, features))
            else:
                parts.append((variant, "benign", correct & ~success, features))
                if bool((correct & success).any()):
                    # Not false alarms like the others: the classifier errs here.
                    parts.append((f"{variant}{_ERR}", "benign", correct & success, features))
        return _join(parts, rates)

    def images(self, variant: str) -> dict[str, Tensor]:
        """Stored images of one variant with labels, predictions, success and norms."""
        return self._image_store(variant).load()

    def image_id(self, index: int) -> str:
        """Name of a clean image."""
        return self.source.image_id(index)

    def digests(self) -> ImageDigests:
        """The clean images, from the store where they are in it already; nothing else is computed."""
        store = self._image_store(_CLEAN)
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
        return len(self.source) if variant == _CLEAN else self._attacked_count

    def _fill(
        self, store: FeatureStore, compute: Compute, count: int, processes: Processes, progress: bool
    ) -> None:
        store.fill(
            compute,
            count,
            rank=processes.rank,
            world_size=processes.world_size,
            progress=progress,
        )

    def _key(self, variant: str) -> dict[str, Any]:
        key: dict[str, Any] = {
            "classifier": self._identity,
            "data": self._data_key,
            "images": self._count(variant),
            "variant": None,
        }
        if variant != _CLEAN:
            # Drawn data carry the seed already, when it is the one that they were drawn with.
            if self._data_key.get("seed") != self._seed:
                key["seed"] = self._seed
            attack = self._noise_like if variant == _NOISE_L2 and self._noise_like else variant
            key["variant"] = (self._attacks | self._noise)[attack].settings()
            key["noise_like"] = variant == _NOISE_L2
        return key

    def _image_store(self, variant: str) -> FeatureStore:
        prefix = f"images-{self.source.split}-{variant}"
        return FeatureStore(self._root, key=self._key(variant), prefix=prefix, shard_size=self._shard_size)

    def _feature_store(self, variant: str) -> FeatureStore:
        key = self._key(variant) | {"features": self._features.settings()}
        if variant in self._attacks:
            key["failed_attacks"] = self._keep_failed
        prefix = f"features-{self.source.split}-{variant}"
        return FeatureStore(self._root, key=key, prefix=prefix, shard_size=self._shard_size)

    def _images_of(self, variant: str) -> Compute:
        copied = self._noise_like if variant == _NOISE_L2 else None
        norms = None if copied is None else self._image_store(copied).load(["l2"])["l2"]

        def compute(items: Sequence[int]) -> dict[str, Tensor]:
            batch = Batch.collate([self.source[index] for index in items])
            attacked = batch.images
            if norms is not None:
                seed = derive_seed(self._seed, variant)
                attacked = gaussian_noise(attacked, norms[list(items)], seed=seed, sample_ids=batch.image_ids)
            elif variant != _CLEAN:
                attacked = self._attacked(variant, batch)
            verdict = judge_8bit(self._classifier, batch.images, attacked, batch.labels)
            return {
                "image": verdict.images,
                "label": batch.labels,
                "prediction": verdict.prediction,
                "clean_correct": verdict.clean_correct,
                "success": verdict.success,
                "success_unrounded": verdict.success_unrounded,
                "l2": verdict.l2,
                "linf": verdict.linf,
            }

        return compute

    def _attacked(self, variant: str, batch: Batch) -> Tensor:
        """Attacked images; those that the classifier gets wrong anyway stay clean, since they never count."""
        attack = (self._attacks | self._noise)[variant]
        clean = round_to_8bit(batch.images).float() / 255
        with torch.no_grad():
            correct = (ask(self._classifier, clean).argmax(dim=1) == batch.labels).nonzero()[:, 0]
        result = attack(
            self._classifier,
            clean[correct],
            batch.labels[correct],
            generator=torch.Generator().manual_seed(derive_seed(self._seed, variant)),
            sample_ids=[batch.image_ids[index] for index in correct.tolist()],
        )
        return clean.index_copy(0, correct, result.x_adv)

    def _rows(self, variant: str, images: Mapping[str, Tensor]) -> Tensor:
        """Which images of a variant get features: only those that stand in some group."""
        if variant == _CLEAN:
            return torch.arange(len(images["success"]))
        chosen = "success" if variant in self._attacks and not self._keep_failed else "clean_correct"
        return images[chosen].nonzero()[:, 0]

    def _features_of(self, images: Tensor) -> Compute:
        return lambda items: self._features(self._classifier, images[list(items)].float() / 255)


def _rates(images: Mapping[str, Tensor]) -> tuple[float, float]:
    correct = images["clean_correct"]
    before = float(images["success_unrounded"][correct].float().mean())
    return before, float(images["success"][correct].float().mean())


def _join(parts: Sequence[Part], rates: Mapping[str, tuple[float, float]]) -> GroupTable:
    if rates and not any(bool(mask.any()) for _, role, mask, _ in parts if role == "attack"):
        raise DataError("no attack succeeded on any image; raise its eps or steps, or check the classifier")
    names = [name for name in parts[0][3] if name != "image_index"]
    kept = [mask.nonzero()[:, 0] for _, _, mask, _ in parts]
    group = torch.cat([torch.full((len(rows),), index) for index, rows in enumerate(kept)])
    attack = torch.tensor([role == "attack" for _, role, _, _ in parts])
    return GroupTable(
        features={
            name: torch.cat([part[3][name][rows] for part, rows in zip(parts, kept, strict=True)])
            for name in names
        },
        image_index=torch.cat([part[3]["image_index"][rows] for part, rows in zip(parts, kept, strict=True)]),
        group=group,
        target=attack[group].float(),
        groups=tuple(name for name, _, _, _ in parts),
        roles={name: role for name, role, _, _ in parts},
        attack_rates=rates,
    )
