"""Label noise (symmetric, asymmetric) and long tails (class imbalance) of the training examples.

Both change training data alone, never what measures; both are functions of (data, settings, seed).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perdure.config.rules import RULES
from perdure.config.schema import NoiseConfig, NoiseKind
from perdure.config.validation import check_noise
from perdure.datasets.classes import Classes
from perdure.errors import UserError
from perdure.randomness import Streams

_MNIST = {"2": "7", "3": "8", "5": "6", "6": "5", "7": "1"}
_CIFAR10 = {
    "truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat",
}  # fmt: skip
_FASHION = {
    "ankle boot": "sneaker", "sneaker": "sandal", "pullover": "shirt", "coat": "dress",
    "dress": "coat",
}  # fmt: skip


def _pairs(names: Sequence[str]) -> Mapping[str, str] | None:
    """Which class, by name, is taken for which other; None where nothing is published."""
    lower = {name.lower() for name in names}
    if lower == set("0123456789"):
        return _MNIST
    for pairs in (_CIFAR10, _FASHION):
        if len(names) == 10 and {*pairs, *pairs.values()} <= lower:
            return pairs
    return None


@dataclass(frozen=True)
class Corruption:
    """What is wrong with the training examples.

    Attributes:
        noise: kind of label noise; None for none. "symmetric": a wrong label is any other class
            with the same probability. "asymmetric": it is the class that its own is taken for,
            2→7, 3→8, 5↔6, 7→1 in MNIST and truck→automobile, bird→airplane, deer→horse, cat↔dog in
            CIFAR-10, no other class being changed (Patrini et al. 2017, "Making deep neural
            networks robust to label noise", sec. 5); ankle boot→sneaker, sneaker→sandal,
            pullover→shirt, coat↔dress in Fashion-MNIST (Zhang & Sabuncu 2018, "Generalized cross
            entropy loss"); elsewhere the next class.
        rate: part of the examples of each class (asymmetric: that is taken for another) whose label
            becomes wrong, to the nearest integer.
        imbalance: μ of a long tail: class c of C, in the data set's order, keeps
            n_c = N/C · μ^(c/(C-1)) of its examples (at most those it has, at least one), drawn from
            the seed: Cao et al. 2019, "Learning imbalanced datasets with label-distribution-aware
            margin loss" (LDAM-DRW), sec. 4. `class_order=random` spreads rare classes over tasks.

    Raises:
        UserError: a value is out of range, or noise lacks its kind or rate.
    """

    noise: NoiseKind | str | None = None
    rate: float = 0.0
    imbalance: float | None = None

    def __post_init__(self) -> None:
        RULES["dataset.noise.rate"].check("dataset.noise.rate", self.rate)
        RULES["dataset.imbalance"].check("dataset.imbalance", self.imbalance)
        kinds = ", ".join(NoiseKind.__members__)
        if isinstance(self.noise, str) and self.noise not in NoiseKind.__members__:
            raise UserError(f"dataset.noise.kind={self.noise}: must be null or one of {kinds}")
        check_noise(NoiseConfig(self.kind, self.rate))

    @property
    def kind(self) -> NoiseKind | None:
        """`noise` as a member of the enumeration."""
        return NoiseKind[self.noise] if isinstance(self.noise, str) else self.noise

    def kept(self, y: Tensor, n_classes: int, streams: Streams) -> Tensor | None:
        """Rows that a long tail keeps, int64, ascending; None for all of them.

        Args:
            y: the source's labels, int64 [N] on the CPU.
            n_classes: classes of the source.
            streams: of the benchmark's seed.
        """
        if self.imbalance is None:
            return None
        labels, kept = y.numpy(), []
        for c in range(n_classes):
            rows = np.flatnonzero(labels == c)
            share = self.imbalance ** (c / max(1, n_classes - 1))
            n = min(len(rows), max(1, int(len(labels) / n_classes * share)))
            generator = streams.numpy("imbalance", part=c)
            kept.append(generator.choice(rows, n, replace=False))
        return torch.from_numpy(np.sort(np.concatenate(kept)))

    def noisy(
        self,
        y: Tensor,
        groups: Sequence[Classes],
        names: Sequence[str],
        order: Sequence[int],
        streams: Streams,
    ) -> Tensor:
        """Labels of which some are wrong, int64 [N].

        Args:
            y: the true labels, int64 [N] on the CPU.
            groups: a wrong label is of the same group as the true one: the classes of a task in
                class-incremental benchmarks, so that an example stays in its task.
            names: of the classes, by label.
            order: the source's own number of each; draws are keyed by it.
            streams: of the benchmark's seed.

        Raises:
            UserError: a group has a single class.
        """
        if self.kind is None:
            return y
        labels, found = y.numpy(), y.numpy().copy()
        for group in groups:
            if len(group) == 1:
                raise UserError(
                    f"dataset.noise.kind={self.kind.name}: a wrong label is another class of the "
                    f"same task, and class {names[group[0]]} is alone in its task"
                )
            for label in group:
                others = self._others(label, group, names)
                rows = np.flatnonzero(labels == label)
                n = round(self.rate * len(rows)) if len(others) else 0
                generator = streams.numpy("label noise", part=order[label])
                chosen = generator.choice(rows, n, replace=False)
                found[chosen] = others[generator.integers(max(1, len(others)), size=n)]
        return torch.from_numpy(found)

    def _others(self, label: int, group: Classes, names: Sequence[str]) -> np.ndarray:
        """The labels that may stand wrongly for `label`."""
        if self.kind is NoiseKind.symmetric:
            return np.array([other for other in group if other != label])
        after = group[(group.index(label) + 1) % len(group)]
        pairs = _pairs(names)
        if pairs is None:
            return np.array([after])
        partner = pairs.get(names[label].lower())
        if partner is None:
            return np.array([], dtype=np.int64)
        like = [c for c in group if names[c].lower() == partner]
        return np.array(like or [after])
